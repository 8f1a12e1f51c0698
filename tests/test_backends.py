"""The other backends of Keras: the same reference checks, in a process of their own.

In single precision only: under the float64 policy Keras' own means and matrix products are float32 on JAX and PyTorch.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest
import reference

ROOT = pathlib.Path(__file__).parents[1]
# JAX takes half a minute to compile the gradient of 50 layers: those networks are in the long run.
QUICK = ("resnet18", "resnet20_cifar")


def _installed(backend: str) -> object:
    missing = importlib.util.find_spec(backend) is None
    return pytest.param(backend, marks=pytest.mark.skipif(missing, reason=f"{backend} is not installed"))


other_backends = pytest.mark.parametrize("backend", [_installed("jax"), _installed("torch")])


def run(backend: str, *command: str) -> str:
    process = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
    return process.stdout


def run_tests(backend: str, *tests: str) -> str:
    return run(backend, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)


def check_networks(backend: str, entries: Sequence[str]) -> None:
    """Logits, features, training-mode logits, gradients and statistics."""
    output = run_tests(backend, *(f"tests/test_golden.py::test_values_in_float32[{entry}]" for entry in entries))
    assert f"{len(entries)} passed" in output


@other_backends
def test_small_networks(backend: str) -> None:
    check_networks(backend, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [entry for entry in reference.LEAST_OF_FAMILY if entry not in QUICK])
@other_backends
def test_network_of_every_other_family(backend: str, entry: str) -> None:
    check_networks(backend, [entry])


@other_backends
def test_operators(backend: str) -> None:
    output = run_tests(backend, "tests/test_ops_golden.py", "-k", "float32")
    assert f"{len(reference.OPS)} passed" in output


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # any import of it fails
import numpy as np
import keras_resnets as kr
model = kr.create_model("resnext29_2x64d_cifar", depth=1)
print(model.predict(np.zeros((2, 32, 32, 3), "float32"), verbose=0).shape)
"""


@other_backends
def test_tensorflow_is_not_needed(backend: str) -> None:
    assert run(backend, "-c", WITHOUT_TENSORFLOW).strip() == "(2, 10)"


IMPORT_ALONE = "import sys, keras_resnets; print('tensorflow' in sys.modules)"


@other_backends
def test_tensorflow_is_not_imported(backend: str) -> None:
    assert run(backend, "-c", IMPORT_ALONE).strip() == "False"
