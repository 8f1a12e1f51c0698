"""What cannot become a TFLite file: calibration without real images, options that do not go together; nothing is left on disk."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import export, photos
from keras_resnets.export.tflite_calibration import check_calibration
from keras_resnets.preprocessing import Preprocess

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

Digits = tuple[keras.Model, np.ndarray, np.ndarray]


def pictures(count: int = 40) -> np.ndarray:
    """Cuttings of the photographs, 0 to 255."""
    image = keras.Input((160, 160, 3), dtype="uint8")
    images = photos.real_images(keras.Model(image, keras.layers.Identity()(image))).astype("float32")
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 128, (count, 2))
    return np.stack([images[i % len(images), y : y + 32, x : x + 32] for i, (y, x) in enumerate(corners)])


def drawings() -> np.ndarray:
    """A circle one pixel wide each, of its own size and place."""
    y, x = np.indices((64, 64))
    circles = [np.abs(np.hypot(y - 20 - i, x - 30) - 8 - i) < 0.5 for i in range(20)]
    return np.where(np.stack(circles)[..., None], 0.0, 255.0)


@pytest.mark.parametrize("kind", ["digits", "photographs", "dark", "noisy", "drawings", "some blank"])
def test_real_images_calibrate(kind: str, digits: Digits) -> None:
    noise = np.random.default_rng(0).normal(size=(40, 32, 32, 3))
    images = {"digits": digits[1][:20], "photographs": pictures() / 127.5 - 1, "dark": np.rint(pictures() * 0.02),
              "noisy": pictures() + 20 * noise, "drawings": drawings(),
              "some blank": np.concatenate([pictures(), np.zeros((20, 32, 32, 3))])}  # fmt: skip
    check_calibration(images[kind], None)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.random.default_rng(0).normal(size=(100, 32, 32, 3)), "not random numbers: .* correlation of 0.0"),
        (np.random.default_rng(0).random((50, 32, 32, 3)), "not random numbers"),
        (np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1)).repeat(3, -1) / 127.5 - 1, "not random numbers"),
        (np.arange(50).reshape(50, 1, 1, 1) * np.ones((32, 32, 3)) / 50, "100% of the images given are of one value"),
        (np.zeros((100, 32, 32, 3)), "16 different real inputs at least, .* not 1"),
        (np.linspace(0, 1, 12 * 3072).reshape(12, 32, 32, 3), "16 different real inputs at least, .* not 12"),
        (np.full((20, 32, 32, 3), np.nan), "calibration must be finite"),
        (np.zeros((20, 28, 28, 3)), r"calibration must be .* not of shape \(20, 28, 28, 3\)"),
        (np.linspace(0, 255, 20 * 3072).reshape(20, 32, 32, 3), "look like pixels that were not normalised"),
    ],
)
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_refuses_calibration(
    quantization: str, images: np.ndarray, message: str, digits: Digits, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export(
            digits[0], tmp_path / "a.tflite", "tflite", quantization=quantization, calibration=images, images=digits[1]
        )
    assert not list(tmp_path.iterdir())


SOME = np.zeros((20, 32, 32, 3), "float32")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quantization": "int4"}, "unknown quantization 'int4': did you mean 'int8'"),
        ({"quantization": "int8"}, "quantization='int8' needs calibration=: a hundred or more real inputs"),
        ({"quantization": "int16x8"}, "quantization='int16x8' needs calibration="),
        ({"calibration": SOME}, "calibration is for quantization='int8' or 'int16x8', not for None"),
        ({"quantization": "dynamic", "calibration": SOME}, "calibration is for .* not for 'dynamic'"),
        ({"interface": "int8"}, "interface 'int8' is not for quantization=None, which has 'float32'"),
        (
            {"quantization": "int8", "calibration": SOME, "interface": "int16"},
            "which has 'int8' or 'uint8' or 'float32'",
        ),
        ({"quantization": "int16x8", "calibration": SOME, "interface": "int8"}, "which has 'float32' or 'int16'"),
        (
            {"quantization": "float16", "quantizer": "best"},
            "quantizer is for quantization='dynamic' or 'int8' or 'int16x8'",
        ),
        ({"quantization": "dynamic", "quantizer": "litter"}, "unknown quantizer 'litter': did you mean 'litert'"),
        ({"batch_size": 0}, "batch_size must be a positive whole number, or None for any, not 0"),
        ({"batch_size": True}, "batch_size must be a positive whole number"),
        ({"input_size": 0}, "input_size must be a positive number of pixels"),
        ({"input_size": (32,)}, "input_size must be a positive number of pixels"),
        ({"input_size": 8}, "input_size must be at least 32 pixels for resnet20_cifar, not 8"),
        ({"labels": ["a"]}, "labels must name each of the model's 10 classes, not 1"),
        ({"labels": "imagnet"}, "did you mean 'imagenet'"),
        ({"labels": ["a\nb"] * 10}, "labels must be lines of text"),
        ({"preprocessing": Preprocess((0.5,), (0.5,))}, "preprocessing gives .* the model takes"),
        ({"preprocessing": "half"}, "preprocessing must be a keras_resnets.preprocessing.Preprocess"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str, digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(digits[0], tmp_path / "a.tflite", "tflite", **options)
    assert not list(tmp_path.iterdir())


def test_refuses_a_size_that_the_weights_are_not_for(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    with pytest.raises(ValueError, match=r"input_size=12: the model cannot take other images than \(8, 8\)"):
        export(model, tmp_path / "a.tflite", "tflite", input_size=12)
    anysize = kr.create_model("resnet20_cifar", depth=1, input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="known height and width.* or give input_size="):
        export(anysize, tmp_path / "a.tflite", "tflite")
    assert not list(tmp_path.iterdir())


def test_refuses_what_lost_the_classes(digits: Digits, tmp_path: Path) -> None:
    """Calibrated on images that are all but grey, every activation saturates."""
    model, inputs, _ = digits
    with pytest.raises(ValueError, match="the model's top-1 class on 0.* of the images, less than min_agreement=0.95"):
        export(
            model,
            tmp_path / "a.tflite",
            "tflite",
            quantization="int8",
            calibration=1e-3 * inputs[:20],
            images=inputs[:100],
        )
    assert not list(tmp_path.iterdir())
