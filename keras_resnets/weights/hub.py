"""Published checkpoints on this machine: from a folder, from the cache, from the Hugging Face hub or any HTTPS address."""

import os
import re
import urllib.parse
from pathlib import Path

from keras_resnets.registry import WeightsEntry
from keras_resnets.weights.cache import digests, home, locked, offline, pin, pins
from keras_resnets.weights.download import DownloadError, Remote, download

_FILE = "model.safetensors"
_ADVICE = ("check the connection, or set KERAS_RESNETS_MIRROR to a mirror's address or to a folder that holds the file, "
           "or pass the path of a copy as weights")  # fmt: skip


def mirror() -> str:
    """`KERAS_RESNETS_MIRROR`: an address or a folder that files come from instead of their publishers; "" for none."""
    return os.environ.get("KERAS_RESNETS_MIRROR", "").rstrip("/")


def fetch(entry: WeightsEntry) -> Path:
    """The checkpoint of `entry` on this machine, downloaded unless it is there.

    A mirror's address serves files of the hub as the hub does (`<mirror>/<owner>/<name>/resolve/main/model.safetensors`) and
    others under their host (`<mirror>/download.pytorch.org/models/…`). A mirror that is a folder holds them as
    `<owner>/<name>/model.safetensors`, `<name>.safetensors`, or under their own file names. The hub's client has its own
    settings as well: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME (files that are in its cache are not downloaded again).

    Every file is checked: by the SHA-256 that the hub announces or the digest that the publisher states, else by size and
    ETag as they were at the first download (`index.json` in the cache).

    Raises:
        ImportError: the source is the hub and huggingface_hub is not installed.
        OSError: the file is not to be had, or is not the one it should be; the message says what to do.
    """
    if mirror() and "://" not in mirror():
        return _in_folder(entry, Path(mirror()).expanduser())
    path = home() / "downloads" / _file_name(entry)
    with locked(path, f"the download of {entry.source!r}"):
        known = pins().get(entry.source)
        if path.is_file() and known is not None and digests(path)["sha256"] == known["sha256"]:
            return path
        if (shared := _in_hub_cache(entry)) is not None:
            return shared
        if offline():
            raise OSError(f"{entry.source!r} is not in {str(home())!r}, and KERAS_RESNETS_OFFLINE or HF_HUB_OFFLINE forbids "
                          "downloads: unset it, or pass the path of a copy as weights")  # fmt: skip
        try:
            remote = _ask_hub(entry) if entry.source.startswith("hub:") else _plain(entry)
            if known is not None and remote.etag and remote.etag != known["etag"]:
                raise DownloadError(f"its version is {remote.etag!r}, that of the first download was {known['etag']!r}")
            facts = download(remote, path)
        except DownloadError as error:
            raise OSError(f"cannot download {entry.source!r}: {error}; {_ADVICE}") from error
        if known is not None and facts["sha256"] != known["sha256"]:
            path.unlink()
            raise OSError(f"{entry.source!r} is not the file that it was at the first download: if that is meant, remove its "
                          f"entry from {str(home() / 'index.json')!r}")  # fmt: skip
        pin(entry.source, {"file": path.name, **facts})
    return path


def _file_name(entry: WeightsEntry) -> str:
    """Unique among the sources, and recognisable."""
    if entry.source.startswith("hub:"):
        return entry.source.removeprefix("hub:").replace("/", "--") + ".safetensors"
    return os.path.basename(urllib.parse.urlsplit(entry.source).path)


def _in_folder(entry: WeightsEntry, folder: Path) -> Path:
    """The file of `entry` in a folder of copies, checked by its digest if that is stated."""
    if entry.source.startswith("hub:"):
        repository = entry.source.removeprefix("hub:")
        places = [folder / repository / _FILE, folder / f"{os.path.basename(repository)}.safetensors"]
    else:
        address = urllib.parse.urlsplit(entry.source)
        places = [folder / address.netloc / address.path.lstrip("/"), folder / os.path.basename(address.path)]
    for path in places:
        if path.is_file():
            kind, _, wanted = entry.digest.partition(":")
            if wanted and not digests(path)[kind].startswith(wanted):
                raise OSError(f"{str(path)!r} is not the file published as {entry.source!r}: its {kind} does not begin with "
                              f"{wanted}")  # fmt: skip
            return path
    raise OSError(f"KERAS_RESNETS_MIRROR {str(folder)!r} holds no file for {entry.source!r}: looked for "
                  + " and ".join(repr(str(path)) for path in places))  # fmt: skip


def _plain(entry: WeightsEntry) -> Remote:
    if not mirror():
        return Remote(entry.source, entry.digest)
    return Remote(f"{mirror()}/{entry.source.partition('://')[2]}", entry.digest)


def _ask_hub(entry: WeightsEntry) -> Remote:
    """Address, size and SHA-256 of a file on the hub, by the hub's own client."""
    repository = entry.source.removeprefix("hub:")
    try:
        import huggingface_hub
        from huggingface_hub import errors, utils
    except ImportError as error:
        raise ImportError(f"weights from the hub ({repository!r}) need: pip install 'keras-resnets[hub]'") from error
    try:
        url = huggingface_hub.hf_hub_url(repository, _FILE, endpoint=mirror() or None)
        file = huggingface_hub.get_hf_file_metadata(url)
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError) as error:
        raise DownloadError(f"the hub has no {_FILE} there, or wants a token for it (HF_TOKEN)") from error
    except Exception as error:  # the client and its HTTP library raise classes of several unrelated families
        reason = str(error).splitlines()[0] if str(error) else ""
        raise DownloadError(f"the hub does not answer ({type(error).__name__}: {reason})") from error
    etag = file.etag or ""
    same_host = urllib.parse.urlsplit(file.location).netloc == urllib.parse.urlsplit(url).netloc
    headers = utils.build_hf_headers() if same_host else {}  # the token is not for the hub's storage servers
    digest = f"sha256:{etag}" if re.fullmatch("[0-9a-f]{64}", etag) else ""
    return Remote(file.location, digest, file.size, etag, headers)


def _in_hub_cache(entry: WeightsEntry) -> Path | None:
    """The file in the cache of the hub's client, which other libraries share, if it is there and whole."""
    try:
        import huggingface_hub
    except ImportError:
        return None
    if not entry.source.startswith("hub:"):
        return None
    found = huggingface_hub.try_to_load_from_cache(entry.source.removeprefix("hub:"), _FILE)
    if not isinstance(found, str):
        return None
    path = Path(found).resolve()  # a blob, whose name is its SHA-256
    return path if path.name == digests(path)["sha256"] else None
