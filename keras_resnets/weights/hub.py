"""Checkpoints from the Hugging Face hub, checked by SHA-256: the hub's client accepts a corrupted body of the right size."""

import functools
import hashlib
import os
import re
import sys
from pathlib import Path

from keras_resnets.registry import WeightsEntry

_FILE = "model.safetensors"


def fetch(entry: WeightsEntry) -> Path:
    """The checkpoint of `entry` in the hub's cache on this machine, downloaded unless it is there.

    The hub announces the SHA-256 of every large file; a file that differs is downloaded once more, then refused. The
    settings of huggingface_hub apply: HF_HOME (where the cache is), HF_ENDPOINT (a mirror), HF_HUB_OFFLINE, HF_TOKEN.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: the file is not to be had, or is not the announced one.
    """
    repository = entry.source.removeprefix("hub:")
    advice = f"check the connection, set HF_ENDPOINT to a mirror, or pass the path of a copy of its {_FILE} as weights"
    for again in (False, True):
        path, etag = _download(repository, advice, force_download=again)
        if not re.fullmatch("[0-9a-f]{64}", etag):
            raise OSError(f"{repository!r} cannot be checked, its ETag {etag!r} is not a SHA-256: {advice}")
        if _sha256(path) == etag:
            _notice(entry)
            return path
    raise OSError(f"{repository!r} arrived corrupted twice, its SHA-256 is not the announced one: {advice}")


def _download(repository: str, advice: str, force_download: bool) -> tuple[Path, str]:
    """The file in the cache and its announced ETag."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportError(f"weights from the hub ({repository!r}) need: pip install 'keras-resnets[hub]'") from error
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, _FILE, force_download=force_download))
        if path.is_symlink():  # into the cache's blobs, which are named by their ETags
            return path, os.path.basename(os.readlink(path))
        url = huggingface_hub.hf_hub_url(repository, _FILE)
        return path, huggingface_hub.get_hf_file_metadata(url).etag or ""
    except (errors.RemoteEntryNotFoundError, errors.RepositoryNotFoundError) as error:
        raise OSError(f"the hub has no {_FILE} in {repository!r}, or wants a token for it (HF_TOKEN)") from error
    except Exception as error:  # the client and its HTTP library raise classes of several unrelated families
        raise OSError(f"cannot download {repository!r} ({type(error).__name__}): {advice}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@functools.cache
def _notice(entry: WeightsEntry) -> None:
    if entry.licence.startswith("cc-by-nc"):
        print(
            f"keras_resnets: weights {entry.tag!r} are licensed {entry.licence}: not for commercial use",
            file=sys.stderr,
        )
