"""Where downloads and converted weights are kept on this machine, and the settings that say so.

* `KERAS_RESNETS_HOME`: the folder; by default `keras_resnets` in `XDG_CACHE_HOME`, else in `~/.cache`.
* `KERAS_RESNETS_OFFLINE=1` (or `HF_HUB_OFFLINE=1`): nothing is asked of the network.
* `KERAS_RESNETS_MIRROR`: where files come from instead, see `hub.fetch`.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def home() -> Path:
    """The folder of everything that the package keeps; not made before something is kept in it."""
    if given := os.environ.get("KERAS_RESNETS_HOME"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keras_resnets"


def offline() -> bool:
    """Whether the environment forbids downloads."""
    settings = (os.environ.get(name, "") for name in ("KERAS_RESNETS_OFFLINE", "HF_HUB_OFFLINE"))
    return any(setting.lower() not in ("", "0", "no", "false", "off") for setting in settings)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Only one process of this machine at a time is in here with the same `path`; a process that died does not count.

    Raises:
        OSError: the folder of `path` cannot be written to.
    """
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(path.name + ".lock"))
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            print(f"keras_resnets: waiting for another process that is at {what}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the body succeeds and removed if not."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def unwritable(path: Path, error: OSError) -> OSError:
    """What to tell about a file that could not be written."""
    reason = error.strerror or str(error)
    return OSError(f"cannot write {str(path)!r} ({reason}): make room or set KERAS_RESNETS_HOME to another folder")


def digests(path: Path) -> dict[str, str]:
    """The SHA-256 and the MD5 of a file, in hexadecimal digits."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            md5.update(chunk)
    return {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()}


def pins() -> dict[str, dict[str, Any]]:
    """What was downloaded so far, by source: "file", "size", "etag", "sha256", as they were at the first time."""
    try:
        return json.loads(_index().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OSError(f"the index {str(_index())!r} cannot be read ({error}): remove it to download anew") from error


def pin(source: str, facts: dict[str, Any]) -> None:
    """Adds what is known of `source` to the index."""
    with locked(_index(), "the index of weights"), replacing(_index()) as temporary:
        temporary.write_text(json.dumps({**pins(), source: facts}, indent=2, sort_keys=True) + "\n", "utf-8")


def _index() -> Path:
    return home() / "index.json"
