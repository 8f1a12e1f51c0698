"""Published files come whole, checked and once, whatever the network, the server, the disk and other processes do; or an error
says what to do and nothing is kept that could be taken for the file."""

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import File, serve

from keras_resnets.registry import WeightsEntry
from keras_resnets.weights import cache, download, hub

BODY = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
HUB_PATH = "/someone/net.some_in1k/resolve/main/model.safetensors"
PLAIN_PATH = "/files.example.org/models/net-abc.pth"

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


def entry(source: str, digest: str = "") -> WeightsEntry:
    return WeightsEntry(
        "some_in1k", source, 1000, 224, 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3, None, None, "mit", digest
    )


HUB = entry("hub:someone/net.some_in1k")
PLAIN = entry("https://files.example.org/models/net-abc.pth")
NAMED = entry(PLAIN.source, f"sha256:{SHA256[:8]}")
CASES = [pytest.param(HUB, HUB_PATH, marks=needs_hub, id="hub"), pytest.param(PLAIN, PLAIN_PATH, id="plain")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache; and no pauses between attempts."""
    monkeypatch.setenv("KERAS_RESNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    yield tmp_path / "home"


def files_of(home: Path) -> set[str]:
    """Names of the files in the cache, locks apart."""
    return {path.name for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"}


def bodies(requests: list[str]) -> list[str]:
    return [request for request in requests if request.startswith("GET")]


@pytest.mark.parametrize("wanted, path", CASES)
def test_success(home: Path, monkeypatch: pytest.MonkeyPatch, wanted: WeightsEntry, path: str) -> None:
    with serve({path: BODY}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        first = hub.fetch(wanted)
        assert first.read_bytes() == BODY
        asked = len(requests)
        assert hub.fetch(wanted) == first and len(requests) == asked, "a cached file was asked for again"
    facts = json.loads((home / "index.json").read_text())[wanted.source]
    assert facts == {"file": first.name, "size": len(BODY), "etag": facts["etag"], "sha256": SHA256}
    assert facts["etag"].strip('"') == SHA256
    assert files_of(home) == {first.name, "index.json"}
    monkeypatch.setenv("KERAS_RESNETS_OFFLINE", "1")  # the server is gone as well
    assert hub.fetch(wanted) == first


@pytest.mark.parametrize("wanted, path", CASES)
def test_truncated_body_is_resumed(
    home: Path, monkeypatch: pytest.MonkeyPatch, wanted: WeightsEntry, path: str
) -> None:
    with serve({path: File(BODY, cut=[300_000, 200_000])}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        assert hub.fetch(wanted).read_bytes() == BODY
        assert bodies(requests) == [f"GET {path}", f"GET {path} from 300000", f"GET {path} from 500000"]


def test_truncated_body_every_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is better than half a file; what came is not lost for the next attempt."""
    with serve({PLAIN_PATH: File(BODY, cut=[100_000] * 5)}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        with pytest.raises(OSError, match=r"'https://files.example.org/models/net-abc.pth': the connection broke off after "
                                          r"500,000 of 1,000,000 bytes, 5 times; check the connection"):  # fmt: skip
            hub.fetch(PLAIN)
        assert "net-abc.pth" not in files_of(home) and "index.json" not in files_of(home)
        assert hub.fetch(PLAIN).read_bytes() == BODY
        assert requests[-1] == f"GET {PLAIN_PATH} from 500000"
    assert files_of(home) == {"net-abc.pth", "index.json"}


@pytest.mark.parametrize("wanted, path", [CASES[0], pytest.param(NAMED, PLAIN_PATH, id="digest in the name")])
def test_corrupted_body(home: Path, monkeypatch: pytest.MonkeyPatch, wanted: WeightsEntry, path: str) -> None:
    """The length is right, the content is not."""
    with serve({path: File(BODY, corrupted=True)}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        with pytest.raises(
            OSError, match=f"arrived corrupted twice: its sha256 begins with [0-9a-f]+, not {SHA256[:8]}"
        ):
            hub.fetch(wanted)
        assert len(bodies(requests)) == 2, "a corrupted file is worth one more try"
    assert not any("net" in name for name in files_of(home)), "nothing of it may be resumed"


def test_md5(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = entry(PLAIN.source, "md5:" + hashlib.md5(BODY).hexdigest()[:8])
    with serve({PLAIN_PATH: BODY}) as (address, _):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        with pytest.raises(OSError, match="its md5 begins with"):
            hub.fetch(entry(PLAIN.source, "md5:00000000"))
        assert hub.fetch(good).read_bytes() == BODY


@pytest.mark.parametrize(
    "wanted, path, status, message",
    [
        pytest.param(HUB, HUB_PATH, 404, r"the hub has no model.safetensors there, or wants a token", marks=needs_hub),
        pytest.param(HUB, HUB_PATH, 500, r"the hub does not answer", marks=needs_hub),
        (PLAIN, PLAIN_PATH, 404, r"there is no such file \(HTTP 404\)"),
        (PLAIN, PLAIN_PATH, 401, r"it wants a token \(HTTP 401\)"),
        (PLAIN, PLAIN_PATH, 403, r"access is denied \(HTTP 403\)"),
        (PLAIN, PLAIN_PATH, 500, r"the server answers HTTP 500, 5 times"),
    ],
)
def test_server_errors(home: Path, monkeypatch: pytest.MonkeyPatch, wanted: WeightsEntry, path: str, status: int,
                       message: str) -> None:  # fmt: skip
    with serve({path: File(BODY, status=status)}) as (address, _):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        with pytest.raises(OSError, match=f"cannot download '{wanted.source}': {message}.*; check the connection, or set "
                                          "KERAS_RESNETS_MIRROR .* or pass the path of a copy as weights"):  # fmt: skip
            hub.fetch(wanted)
    assert not files_of(home)


def test_busy_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({PLAIN_PATH: File(BODY, busy=3)}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        assert hub.fetch(PLAIN).read_bytes() == BODY
        assert len(requests) == 4


@pytest.mark.parametrize("wanted, path", CASES)
def test_connection_refused(home: Path, monkeypatch: pytest.MonkeyPatch, wanted: WeightsEntry, path: str) -> None:
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(OSError, match="cannot download .*(refused|ConnectError).*; check the connection"):
            hub.fetch(wanted)
    assert not files_of(home)


def test_offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({PLAIN_PATH: BODY}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        for variable in ("KERAS_RESNETS_OFFLINE", "HF_HUB_OFFLINE"):
            with monkeypatch.context() as patch, pytest.raises(OSError, match="forbids downloads: unset it, or pass"):
                patch.setenv(variable, "1")
                hub.fetch(PLAIN)
        assert not requests
        monkeypatch.setenv("KERAS_RESNETS_OFFLINE", "0")
        assert hub.fetch(PLAIN).read_bytes() == BODY


def test_no_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is known before the first byte is written."""
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 12_000}))
    with serve({PLAIN_PATH: BODY}) as (address, _):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        with pytest.raises(
            OSError, match=r"1.0 MB are needed, 0.0 MB are free.*set KERAS_RESNETS_HOME to another folder"
        ):
            hub.fetch(PLAIN)
    assert not files_of(home)


CLIENT = """
import resource, sys
from keras_resnets.registry import WeightsEntry
from keras_resnets.weights import hub
if sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
entry = WeightsEntry("some_in1k", sys.argv[1], 1000, 224, 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3, None, None, "mit")
try:
    print(hub.fetch(entry))
except OSError as error:
    print(error)
"""


def client(address: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that fetches `PLAIN` into the same cache."""
    environment = {**os.environ, "KERAS_RESNETS_MIRROR": address, "KERAS_BACKEND": "numpy"}  # the fastest to import
    command = [sys.executable, "-c", CLIENT, PLAIN.source, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_disk_full(home: Path) -> None:
    """The system refuses to write beyond 400 kB: what came so far is kept for resumption, but is no file of weights."""
    with serve({PLAIN_PATH: BODY}) as (address, _):
        out, _ = client(address, "400000").communicate(timeout=120)
    assert "cannot write" in out and "File too large" in out and "set KERAS_RESNETS_HOME to another folder" in out
    assert "net-abc.pth" not in files_of(home) and "index.json" not in files_of(home)


def test_killed_half_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(BODY, seconds_per_chunk=0.2)
    with serve({PLAIN_PATH: file}) as (address, requests):
        process, part = client(address), home / "downloads" / "net-abc.pth.part"
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert files_of(home) == {"net-abc.pth.part", "net-abc.pth.part.etag"}
        came, file.seconds_per_chunk = part.stat().st_size, 0
        assert 0 < came < len(BODY)
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        assert hub.fetch(PLAIN).read_bytes() == BODY
        assert requests[-1] == f"GET {PLAIN_PATH} from {came}"


def test_two_processes_at_once(home: Path) -> None:
    with serve({PLAIN_PATH: File(BODY, seconds_per_chunk=0.15)}) as (address, requests):
        processes = [client(address) for _ in range(2)]
        answers = [process.communicate(timeout=120) for process in processes]
        assert len(requests) == 1, "one waits for the other"
    assert {out.strip() for out, _ in answers} == {str(home / "downloads" / "net-abc.pth")}
    assert (home / "downloads" / "net-abc.pth").read_bytes() == BODY


def test_file_changed_between_attempts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a new version does not go behind the beginning of the old one."""
    newer, file = BODY[::-1], File(BODY, cut=[300_000] * 5)
    with serve({PLAIN_PATH: file}) as (address, _):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        file.cut[1:] = [0] * 4
        with pytest.raises(OSError, match="broke off"):
            hub.fetch(PLAIN)
        file.body = newer
        assert hub.fetch(PLAIN).read_bytes() == newer


@pytest.mark.parametrize("file", [File(BODY, etag=None, cut=[300_000]), File(BODY, etag='W/"1"', cut=[300_000]),
                                  File(BODY, ranges=False, cut=[300_000])])  # fmt: skip
def test_servers_that_cannot_resume(home: Path, monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    with serve({PLAIN_PATH: file}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        assert hub.fetch(PLAIN).read_bytes() == BODY
        assert requests == [f"GET {PLAIN_PATH}"] * 2


def test_replaced_at_its_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the publisher states no digest, the first download is what later ones are compared with."""
    file = File(BODY)
    with serve({PLAIN_PATH: file}) as (address, _):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        path = hub.fetch(PLAIN)
        path.unlink()
        file.body, file.etag = BODY[::-1], f'"{SHA256}"'  # the same length and ETag
        with pytest.raises(
            OSError, match="is not the file that it was at the first download: .* remove its entry from"
        ):
            hub.fetch(PLAIN)
        assert not path.exists()
        file.body = BODY
        assert hub.fetch(PLAIN) == path


def test_damaged_in_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({PLAIN_PATH: BODY}) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        path = hub.fetch(PLAIN)
        for damage in (BODY[:-1], BODY[:-1] + bytes([BODY[-1] ^ 1])):
            path.write_bytes(damage)
            assert hub.fetch(PLAIN).read_bytes() == BODY
        assert len(requests) == 3


def test_damaged_index(home: Path) -> None:
    home.mkdir()
    (home / "index.json").write_text('{"https:')
    with pytest.raises(OSError, match=r"the index '.*index.json' cannot be read .*: remove it"):
        hub.fetch(PLAIN)


def test_folder_as_source(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of copies: nothing is downloaded, nothing is kept twice."""
    folder = tmp_path / "copies"
    monkeypatch.setenv("KERAS_RESNETS_MIRROR", str(folder))
    with pytest.raises(
        OSError, match="holds no file for 'hub:someone/net.some_in1k': looked for .*/someone/net.some_in1k/model."
    ):
        hub.fetch(HUB)
    for wanted, places in [
        (HUB, ["someone/net.some_in1k/model.safetensors", "net.some_in1k.safetensors"]),
        (NAMED, ["files.example.org/models/net-abc.pth", "net-abc.pth"]),
    ]:
        for place in places:
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(BODY)
            assert hub.fetch(wanted) == path
            if wanted is NAMED:
                path.write_bytes(BODY[::-1])
                with pytest.raises(OSError, match=f"its sha256 does not begin with {SHA256[:8]}"):
                    hub.fetch(wanted)
            path.unlink()
    assert not home.exists()


@needs_hub
def test_the_hubs_own_cache(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another library downloaded from the hub is used, if it is whole."""
    import huggingface_hub

    blob = tmp_path / "blobs" / SHA256
    blob.parent.mkdir()
    blob.write_bytes(BODY)
    (tmp_path / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    monkeypatch.setenv("KERAS_RESNETS_OFFLINE", "1")
    assert hub.fetch(HUB) == blob
    blob.write_bytes(BODY[:-1])
    with pytest.raises(OSError, match="forbids downloads"):
        hub.fetch(HUB)


def test_unwritable_home(home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="cannot write .*: make room or set KERAS_RESNETS_HOME to another folder"):
        hub.fetch(PLAIN)


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_RESNETS_HOME", "~/weights")
    assert cache.home() == Path.home() / "weights"
    monkeypatch.delenv("KERAS_RESNETS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.home() == Path("/somewhere/keras_resnets")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.home() == Path.home() / ".cache" / "keras_resnets"


def test_progress_bar(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal; nothing in a log."""
    with serve({PLAIN_PATH: BODY, PLAIN_PATH + "2": BODY}) as (address, _):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        hub.fetch(PLAIN)
        assert not capsys.readouterr().err
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        hub.fetch(entry(PLAIN.source + "2"))
    assert "net-abc.pth2" in (err := capsys.readouterr().err) and "1.0/1.0 MB" in err
