"""One file over HTTP: resumed where it broke off, checked before it gets its name, with a progress bar."""

import contextlib
import dataclasses
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_resnets.weights.cache import digests, unwritable

_PATIENCE = 20  # seconds without an answer or a byte
_ATTEMPTS = 5  # at a body that keeps breaking off, or a server that is busy
_CHUNK = 1 << 18


class DownloadError(OSError):
    """A file that is not to be had; the message says why."""


class _Interrupted(Exception):
    """The connection or the server failed in a way that another attempt may mend."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file elsewhere, and what is known of it before it is asked for.

    Attributes:
        url: its address.
        digest: how its digest begins, "sha256:…" or "md5:…"; "" if unknown.
        size: in bytes, or None.
        etag: the version that its publisher announces, or "".
        headers: to send along.
    """

    url: str
    digest: str = ""
    size: int | None = None
    etag: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def download(remote: Remote, path: Path) -> dict[str, Any]:
    """Brings `remote` to `path`, whole and checked, or leaves `path` as it is.

    What came of a body that broke off stays beside `path`, for the next call to go on from. A body that arrives with another
    digest is asked for once more.

    Returns:
        Its "size", "etag" (as announced, else as the server says) and "sha256".

    Raises:
        DownloadError: it is not there, or did not arrive whole.
        OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    for _ in range(2):
        etag = _fetch_whole(remote, part)
        found = digests(part)
        kind, _, wanted = remote.digest.partition(":")
        if not wanted or found[kind].startswith(wanted):
            size = part.stat().st_size
            os.replace(part, path)
            _version(part).unlink(missing_ok=True)
            return {"size": size, "etag": remote.etag or etag, "sha256": found["sha256"]}
        for file in (part, _version(part)):
            file.unlink(missing_ok=True)
    raise DownloadError(f"arrived corrupted twice: its {kind} begins with {found[kind][: len(wanted)]}, not {wanted}")


def _fetch_whole(remote: Remote, part: Path) -> str:
    """Fills `part` up to the file's size, with as many attempts as that takes; returns the server's ETag."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(0.2 * 2**attempt, 5))
        try:
            with _answer(remote, part) as response:
                return _receive(remote, response, part)
        except _Interrupted as error:
            reason = error
    raise DownloadError(f"{reason}, {_ATTEMPTS} times")


@contextlib.contextmanager
def _answer(remote: Remote, part: Path) -> Iterator[Any]:
    """The response to a request for what `part` lacks, if it is of a version that is known, else for everything."""
    headers = {"User-Agent": "keras_resnets", "Accept-Encoding": "identity", **remote.headers}
    known = _version(part).read_text("utf-8") if part.exists() and _version(part).exists() else ""
    if known and part.stat().st_size:
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": known}
    try:
        with urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=_PATIENCE) as response:
            yield response
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing beyond the part: it is not a beginning of this file
            part.unlink()
            raise _Interrupted("the server has no such range") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Interrupted(f"the server answers HTTP {error.code}") from error
        meaning = {401: "it wants a token", 403: "access is denied", 404: "there is no such file", 410: "it is gone"}
        raise DownloadError(f"{meaning.get(error.code, error.reason)} (HTTP {error.code})") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(f"no connection ({getattr(error, 'reason', error) or type(error).__name__})") from error
    except ValueError as error:  # urllib's for what is not an address
        raise DownloadError(str(error)) from error


def _receive(remote: Remote, response: Any, part: Path) -> str:
    """Writes the body into `part`, behind what is there if the server goes on from it; returns the ETag."""
    etag = response.headers.get("ETag") or ""
    resumed = response.status == 206
    start = part.stat().st_size if resumed else 0
    length = response.headers.get("Content-Length")
    size = start + int(length) if length else remote.size
    if remote.size is not None and size != remote.size:
        raise DownloadError(f"the server has {size} bytes, {remote.size} were announced")
    try:
        _require_room(part, 0 if size is None else size - start)
        if not resumed:
            part.unlink(missing_ok=True)
            _version(part).write_text("" if etag.startswith("W/") else etag, "utf-8")
        with part.open("ab") as file, _progress(part, start, size) as advance:
            while chunk := response.read1(_CHUNK):
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(f"the connection broke off ({type(error).__name__})") from error
    except OSError as error:
        raise unwritable(part, error) from error
    if size is not None and part.stat().st_size != size:
        raise _Interrupted(f"the connection broke off after {part.stat().st_size:,} of {size:,} bytes")
    return etag


def _version(part: Path) -> Path:
    """The file that says which version (ETag) of the remote file `part` is the beginning of."""
    return part.with_name(part.name + ".etag")


def _require_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise OSError(None, f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")


@contextlib.contextmanager
def _progress(part: Path, start: int, size: int | None) -> Iterator[Any]:
    """A bar on a terminal's stderr; gives the function that takes the count of bytes that came."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich import progress
    from rich.console import Console

    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
               progress.TransferSpeedColumn(), progress.TimeRemainingColumn())  # fmt: skip
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(part.name.removesuffix(".part"), total=size, completed=start)
        yield lambda count: bar.advance(task, count)
