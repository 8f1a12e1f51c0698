"""One network of every family in every format: one artifact, looked at in its own runtime, per format.

The differences are those that the runtime's process found; that it finds wrong artifacts is shown in test_export.py.
"""

from pathlib import Path
from typing import Any

import keras
import pytest

import keras_resnets as kr
from benchmarks.exports import make_statistics_matter
from keras_resnets.export.photos import real_images
from tflite.family_networks import NETWORKS

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

# Where the table's network is more than a test needs.
SMALLER: dict[str, dict[str, Any]] = {
    "DCDC": {"kernel_size_lsa": 3},
    "DenseNet": {"depths": (1, 2, 1, 1)},
    "DenseNet-CIFAR": {"depths": (2, 2, 2)},
    "RedNet": {"kernel_size": 3},
}
# Of these every layer is another family's.
NOTHING_OF_THEIR_OWN = ("PreResNet-CIFAR", "ResNet-aa", "ResNet-RS", "ResNeXt-CIFAR", "WideResNet")
CALIBRATION_IMAGES = 24
FORMATS: dict[str, dict[str, Any]] = {
    "saved_model": {"format": "saved_model"},
    "onnx": {"format": "onnx"},
    "tflite": {"format": "tflite", "batch_size": None},
    "int8": {"format": "tflite", "quantization": "int8", "quantizer": "converter", "min_agreement": 0.0, "tolerance": 0.5},
}  # fmt: skip


def test_every_family_is_here() -> None:
    assert set(NETWORKS) == {kr.model_info(name).family for name in kr.list_models()}


def trained_looking(family: str) -> keras.Model:
    """The family's network for ten classes, with normalisations that are not the identity."""
    keras.utils.set_random_seed(0)
    small = NETWORKS[family]
    network = kr.create_model(small.network, input_shape=(small.size, small.size, 3), classes=10, classifier_activation=None,
                              **{**small.options, **SMALLER.get(family, {})})  # fmt: skip
    make_statistics_matter(network)
    return network


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.slow] if name in NOTHING_OF_THEIR_OWN else []) for name in NETWORKS],
)
def test_family(family: str, tmp_path: Path) -> None:
    network = trained_looking(family)
    reports = {}
    for name, options in FORMATS.items():
        if name == "int8":
            options = {**options, "calibration": real_images(network, CALIBRATION_IMAGES)}
        path = tmp_path / {"saved_model": "net", "onnx": "net.onnx"}.get(name, f"{name}.tflite")
        reports[name] = kr.export(network, path, **options)
    weights = 4 * network.count_params()
    for name, tolerance in (("saved_model", 1e-5), ("onnx", 1e-5), ("tflite", 1e-4)):
        assert 0 <= reports[name].relative_difference <= tolerance and reports[name].top1_agreement == 1
        assert weights * 0.9 < reports[name].size_bytes < weights * 1.2 + 1_500_000  # every weight once, and graphs
    assert reports["onnx"].operators.get("Transpose", 0) <= 1  # of the input
    assert not {"Loop", "If", "Shape", "Gather"} & set(reports["onnx"].operators)
    assert reports["tflite"].partitions == 1
    assert not {"SHAPE", "GATHER", "PACK", "BROADCAST_TO"} & set(reports["tflite"].operators)
    assert not {"SHAPE", "GATHER", "PACK", "BROADCAST_TO"} & set(reports["int8"].operators)
    assert 0 < reports["int8"].relative_difference < 0.5 and reports["int8"].size_bytes < 0.5 * weights
    assert "FusedBatchNormV3" not in reports["saved_model"].operators
