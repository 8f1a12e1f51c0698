"""The example for JAX users trains the same on one device, on two, and in two processes, without TensorFlow."""

import importlib.util
import os
import pathlib
import re
import socket
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "training" / "examples" / "jax_data_parallel.py"
# Little steps of a little network: rounding is not to grow.
OPTIONS = ["--depth", "1", "--size", "8", "--epochs", "1", "--lr", "0.01"]
# Keras imports TensorFlow for its datasets where it finds it.
WITHOUT_TENSORFLOW = f"""
import runpy, sys
sys.modules["tensorflow"] = None
sys.argv = sys.argv[1:]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]


def start(*options: str, devices: int = 1) -> subprocess.Popen[str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(EXAMPLE), *OPTIONS, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def printed(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error[-3000:]
    return out


def loss(output: str) -> float:
    (found,) = re.findall(r"^last epoch: loss ([\d.]+)", output, re.MULTILINE)
    return float(found)


@pytest.fixture(scope="module")
def one_device() -> float:
    output = printed(start())
    assert output.startswith("1 devices, 128 images each")
    return loss(output)


def test_two_devices(one_device: float) -> None:
    output = printed(start(devices=2))
    assert output.startswith("2 devices, 64 images each")
    assert one_device < 2.3  # log 10 is the loss of a network that knows nothing
    assert loss(output) == pytest.approx(one_device, rel=1e-5)


def test_two_processes(one_device: float, tmp_path: pathlib.Path) -> None:
    """The second one says nothing; what the first one saves is a network for any backend."""
    with socket.create_server(("localhost", 0)) as opened:
        port = opened.getsockname()[1]
    several = ["--coordinator", f"localhost:{port}", "--processes", "2", "--save", str(tmp_path / "digits.keras")]
    second, first = (start(*several, "--process", number) for number in "10")
    assert loss(printed(first)) == pytest.approx(one_device, rel=1e-5)
    said = [line for line in printed(second).splitlines() if not line.startswith("[Gloo]")]  # JAX's own, now and then
    assert not said
    assert keras.models.load_model(tmp_path / "digits.keras").output_shape == (None, 10)
