"""An exported network that the tests of serving share, and files to send to it."""

import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr

Run = Callable[..., subprocess.CompletedProcess]


@dataclasses.dataclass(frozen=True)
class Served:
    """A directory of versions, and the network in its version 1."""

    model: keras.Model
    path: Path
    report: Any

    @property
    def version(self) -> Path:
        return self.path / "1"

    def probabilities(self, content: bytes) -> np.ndarray:
        """What the Keras model says to a file that Pillow decodes."""
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype("uint8"))
            pixels = np.asarray(upright.convert("RGB"))
        inputs = kr.preprocess_input(pixels, self.model, resize=True)
        return keras.ops.convert_to_numpy(self.model(inputs[None], training=False))[0]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    model = kr.create_model("resnet20_cifar", weights="digits")
    path = tmp_path_factory.mktemp("models") / "digits"
    return Served(model, path, kr.export(model, path, version=1))


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Photographs from elsewhere, smooth enough to be some class, in sizes of their own: JPEG and PNG in turn."""
    from PIL import Image

    rng = np.random.default_rng(4)
    files = []
    for i in range(20):
        image = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype="uint8"))
        image = image.resize((int(rng.integers(40, 200)), int(rng.integers(40, 200))), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, ("JPEG", "PNG")[i % 2])
        files.append(file.getvalue())
    return files


@pytest.fixture
def without_keras(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command that cannot import Keras or this package; "python" is this interpreter."""
    folder = tmp_path_factory.mktemp("no_keras")
    for package in ("keras", "keras_resnets"):
        (folder / f"{package}.py").write_text("raise ImportError('there is none here')")

    def run(*command: Any, **options: Any) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        words = [sys.executable if word == "python" else str(word) for word in command]
        return subprocess.run(words, check=True, env=environment, capture_output=True, text=True, **options)

    return run


@pytest.fixture(scope="session")
def digits() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The trained network, its inputs and their classes."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the scanned digits")
    model = kr.create_model("resnet20_cifar", weights="digits")
    source = datasets.load_digits()
    grey = keras.ops.image.resize(source.images[:300, ..., None] * (255 / 16), (32, 32), "bilinear")
    pixels = np.repeat(np.rint(keras.ops.convert_to_numpy(grey)), 3, axis=-1).astype("uint8")
    return model, np.asarray(kr.preprocess_input(pixels, model)), source.target[:300]
