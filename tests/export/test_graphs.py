"""What TFLite files are made of: operators that XNNPACK takes in one piece, in floating point and in 8 bits."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import run_artifact
from keras_resnets.layers import AvgPool2D, BlurPool2D, Conv2D, MaxPool2D, NormAct
from keras_resnets.layers.base import register_layer
from keras_resnets.layers.residual import PadShortcut
from keras_resnets.lowering import concatenate

# Each breaks a partition, needs shapes at run time, or is slow.
UNWANTED = {
    "AVERAGE_POOL_2D", "BROADCAST_TO", "DIV", "GATHER", "MIRROR_PAD", "PACK", "PADV2", "SHAPE", "SOFTMAX",
}  # fmt: skip


@register_layer
class SevenMaps(keras.layers.Layer):
    """Seven scaled copies side by side, more than XNNPACK concatenates at a time."""

    def call(self, x: Any) -> Any:
        return concatenate([keras.ops.relu(x) for _ in range(7)])

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], 7 * input_shape[-1])


LAYERS = {
    "signed max pool": lambda: MaxPool2D(3, 2, padding=1),
    "max pool in ceil mode": lambda: MaxPool2D(3, 2, ceil_mode=True),
    "subsampling pool": lambda: MaxPool2D(1, 2),
    "average pool, zeros counted": lambda: AvgPool2D(3, 2, padding=1),
    "average pool, zeros not counted": lambda: AvgPool2D(3, 2, padding=1, count_include_pad=False),
    "average pool in ceil mode": lambda: AvgPool2D(2, 2, ceil_mode=True, count_include_pad=False),
    "blur pool": lambda: BlurPool2D(),
    "shortcut A": lambda: PadShortcut(12, 2),
    "normalisation": lambda: NormAct({"epsilon": 1e-5, "momentum": 0.9}),
    "many maps": lambda: SevenMaps(),
}


def check_one_partition(names: list[str], height: int, path: Path, quantization: str | None = None) -> None:
    image = keras.Input((height, 10, 8), name="image")
    pooled = [keras.layers.GlobalAveragePooling2D(keepdims=True)(LAYERS[name]()(image)) for name in names]
    logits = [Conv2D(4, 1)(x) for x in pooled]
    model = keras.Model(image, keras.layers.Flatten()(keras.layers.Add()(logits) if len(logits) > 1 else logits[0]))
    noise = np.random.default_rng(0).normal(size=(64, height + 1, 11, 8))
    images = (noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1]).astype(
        "float32"
    )  # neighbours alike, as in photographs
    options: dict[str, Any] = {"calibration": images, "min_agreement": 0.9} if quantization else {}
    report = kr.export(model, path, "tflite", quantization=quantization, images=images, **options)
    assert report.partitions == 1
    assert not UNWANTED & set(report.operators)
    outputs, _ = run_artifact(path, images)
    expected = keras.ops.convert_to_numpy(model(images))
    assert np.abs(outputs - expected).max() < (0.1 if quantization else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize("height", [8, 9])
def test_one_partition(height: int, tmp_path: Path) -> None:
    """All layers beside each other, on an even map and on an odd one."""
    check_one_partition(list(LAYERS), height, tmp_path / "net.tflite")


@pytest.mark.parametrize("name", LAYERS)
def test_one_partition_in_8_bits(name: str, tmp_path: Path) -> None:
    check_one_partition([name], 9, tmp_path / "net.tflite", "int8")
