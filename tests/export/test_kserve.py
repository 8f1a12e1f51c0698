"""The SavedModel behind KServe's server, which speaks TF Serving's REST protocol, over a real socket."""

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)
pytest.importorskip("kserve", reason="kserve is not installed: pip install kserve")
pytest.importorskip("PIL", reason="Pillow makes the images")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of the server, a process of its own that cannot import Keras."""
    folder = tmp_path_factory.mktemp("server")
    for package in ("keras", "keras_resnets"):
        (folder / f"{package}.py").write_text("raise ImportError('there is none here')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    command = [sys.executable, ROOT / "serving" / "kserve_server.py", served.path, "--model_name=digits",
               f"--http_port={number}"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=output)
    try:
        _wait(number, server, log)
        predict(number, instances(b"the first call takes its time"))
        yield number
    finally:
        server.terminate()
        server.wait(30)


def _wait(port: int, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            if ask(port, "GET", "/v1/models/digits")[1].get("ready"):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text())


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def predict(port: int, body: Any) -> tuple[int, Any]:
    return ask(port, "POST", "/v1/models/digits:predict", body)


def instances(*files: bytes) -> dict[str, Any]:
    return {"instances": [{"image_bytes": {"b64": base64.b64encode(file).decode()}} for file in files]}


def check(row: dict[str, Any], expected: np.ndarray | None) -> None:
    """The answer is what the Keras model says, or a flag where there is no image."""
    if expected is None:
        assert row["status"] != "ok" and row["classes"] == [-1] * 5 and row["probabilities"] == [0.0] * 5
        return
    best = np.argsort(-expected)[:5]
    assert row["status"] == "ok" and row["classes"] == best.tolist() and row["labels"] == [str(i) for i in best]
    np.testing.assert_allclose(row["probabilities"], expected[best], atol=1e-5)


def test_signatures(served: Any, photographs: list[bytes], port: int) -> None:
    status, answer = predict(port, instances(*photographs[:3], b"no image"))
    assert status == 200
    for row, file in zip(answer["predictions"], photographs[:3], strict=False):
        check(row, served.probabilities(file))
    check(answer["predictions"][3], None)
    assert predict(port, instances()) == (200, {"predictions": []})

    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    for signature, model in (("predict", served.model), ("features", None)):
        status, answer = predict(port, {"signature_name": signature, "instances": images.tolist()})
        assert status == 200 and len(answer["predictions"]) == 2
        if model is not None:
            np.testing.assert_allclose(answer["predictions"], model.predict(images, verbose=0), atol=1e-5)
        else:
            assert np.shape(answer["predictions"][1]["C4"]) == (8, 8, 64)


@pytest.mark.parametrize(
    "body",
    [b'{"instances": [', b"", b"[]", b"3", {"inputs": 1}, {"instances": {}}, {"instances": [{"b64": "*"}]},
     {"instances": [7]}, {"instances": [{"wrong": 1}]}, {"signature_name": "train", "instances": []},
     {"signature_name": "predict", "instances": [[1, 2]]}, {"signature_name": "predict", "instances": [[[1], [1, 2]]]}],
)  # fmt: skip
def test_malformed_requests(body: Any, photographs: list[bytes], port: int) -> None:
    """Each gets an error of its own, and the server goes on."""
    status, answer = predict(port, body)
    assert status == 400 and set(answer) == {"error"} and answer["error"]
    assert predict(port, instances(photographs[0]))[1]["predictions"][0]["status"] == "ok"


def test_thousand_requests_of_parallel_clients(served: Any, photographs: list[bytes], port: int) -> None:
    """From 64 clients at once, every twentieth image corrupt; each answer is the Keras model's."""
    expected = [served.probabilities(file) for file in photographs]
    rng = np.random.default_rng(6)
    chosen = rng.integers(0, len(photographs), 1000)
    corrupt = rng.permutation(1000) < 50

    def one(i: int) -> None:
        file = photographs[chosen[i]]
        status, answer = predict(port, instances(file[: len(file) // 2] if corrupt[i] else file))
        assert status == 200
        (row,) = answer["predictions"]
        check(row, None if corrupt[i] else expected[chosen[i]])

    with ThreadPoolExecutor(64) as clients:
        assert len(list(clients.map(one, range(1000)))) == 1000


def test_corrupt_images_in_batches(served: Any, photographs: list[bytes], port: int) -> None:
    """Within a request as well: the others of a batch are answered as if alone."""
    files = [photographs[i % 20] if i % 20 else photographs[1][:200] for i in range(60)]
    status, answer = predict(port, instances(*files))
    assert status == 200
    for i, row in enumerate(answer["predictions"]):
        check(row, served.probabilities(files[i]) if i % 20 else None)


def test_guide_client(served: Any, photographs: list[bytes], port: int, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "urllib" in block)
    (tmp_path / "a.jpg").write_bytes(photographs[0])
    names: dict[str, Any] = {}
    exec(code, names)
    (row,) = names["classify"]([tmp_path / "a.jpg"], f"http://127.0.0.1:{port}/v1/models/digits:predict")
    check(row, served.probabilities(photographs[0]))
