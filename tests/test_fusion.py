"""Folding batch normalisation: the same function, with the normalisations gone."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.fusion import as_float32
from keras_resnets.layers import BatchNorm, ConvNorm, ScaleShift
from keras_resnets.registry import find

SMALL = {"input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None}
ONE_EACH = {**SMALL, "depths": (1, 1, 1, 1)}


def randomise(model: keras.Model, seed: int = 0) -> None:
    """Trained-looking normalisations: scales and variances away from 1, shifts and means away from 0."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "moving_mean")):
            variable.assign(rng.normal(0, 0.1, variable.shape))


def outputs(model: keras.Model, size: int = 64) -> np.ndarray:
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype("float32")
    return keras.ops.convert_to_numpy(model(images, training=False)).astype("float64")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def count(model: keras.Model, kind: type) -> int:
    return sum(isinstance(layer, kind) for layer in model._flatten_layers())


def norms(model: keras.Model) -> int:
    return count(model, BatchNorm)


def folded_convolutions(model: keras.Model) -> int:
    return sum(isinstance(layer, ConvNorm) and layer.conv.use_bias for layer in model._flatten_layers())


@pytest.mark.parametrize(
    "name, options, convolutions, scales",
    [
        ("resnet18", {**SMALL, "drop_path_rate": 0.1}, 20, 0),
        ("resnet50d", ONE_EACH, 3 + 4 * 4, 0),
        ("resnext50_32x4d", ONE_EACH, 1 + 4 * 4, 0),
        ("seresnet50", ONE_EACH, 1 + 4 * 4, 0),
        ("skresnet50", ONE_EACH, 1 + 4 * (2 + 3 + 1), 0),  # 1x1, 1x1; two paths and the reduction; shortcut
        ("resnetv2_50", ONE_EACH, 4 * 2, 4 + 1),  # pre-activations and the last normalisation are scaled and shifted
        ("resnet20_cifar", {"classifier_activation": None}, 19, 0),
        (
            "diln32_cifar",
            {"depths": (1, 1, 1), "classifier_activation": None},
            1 + 3 * 2 + 2,
            0,
        ),  # two of four; shortcuts
        ("densenet40bc_k36_cifar", {"depths": (1, 1, 1), "classifier_activation": None}, 3, 3 + 2 + 1),
    ],
)
def test_same_function(name: str, options: dict, convolutions: int, scales: int) -> None:
    model = kr.create_model(name, **options)
    randomise(model)
    expected = outputs(model, model.input_shape[1])
    fused = kr.fuse(model)
    assert distance(outputs(fused, model.input_shape[1]), expected) < 1e-5
    assert (fused.variant, fused.weights_tag, fused.name) == (name, None, name)
    assert (folded_convolutions(fused), count(fused, ScaleShift), norms(fused)) == (convolutions, scales, 0)
    np.testing.assert_array_equal(outputs(model, model.input_shape[1]), expected)  # the original is as it was


FAMILIES = sorted({find(name).family for name in kr.list_models()})
SMALLER: dict[str, dict[str, Any]] = {
    "DCDC": {"kernel_size_lsa": 3},
    "HarDNet": {"growth": (8, 8, 8, 8), "layers": (4, 4, 2, 2), "transitions": (16, 24, 32, 48)},
    "Inception": {"pooled": (8,), "widths": (16,)},
    "RedNet": {"kernel_size": 3},
}
IN_A_FILE = ("DenseNet-CIFAR", "DILN", "PreResNet-CIFAR")  # with layers that only fused networks have


def small(family: str) -> keras.Model:
    """The network of the family with the fewest parameters, with as few blocks as its options allow."""
    name = min(kr.list_models(family=family), key=lambda name: kr.model_info(name).params)
    spec = find(name).spec
    fewest = {"depth": 1, "depths": (1,) * len(getattr(spec, "depths", ()))}
    options = {field: value for field, value in fewest.items() if hasattr(spec, field)} | SMALLER.get(family, {})
    size = max(spec.smallest_input, 32)
    return kr.create_model(name, input_shape=(size, size, 3), classes=10, classifier_activation=None, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    """The same function without normalisations; fused again, the same; also from a file."""
    model = small(family)
    randomise(model)
    size = model.input_shape[1]
    fused = kr.fuse(model)
    computed = outputs(fused, size)
    assert distance(computed, outputs(model, size)) < 1e-5
    assert norms(fused) == 0 < norms(model) and len(fused.weights) < len(model.weights)
    if family in IN_A_FILE:
        fused.weights_tag = "tag"
        fused.save(tmp_path / "fused.keras")
        again = kr.fuse(keras.saving.load_model(tmp_path / "fused.keras"))
        assert (again.variant, again.weights_tag) == (model.variant, "tag")
        np.testing.assert_array_equal(outputs(again, size), computed)


def test_unknown_height_and_width() -> None:
    model = kr.create_model("resnet26", **{**ONE_EACH, "input_shape": (None, None, 3)})
    randomise(model)
    fused = kr.fuse(model)
    assert fused.input_shape == (None, None, None, 3)
    assert distance(outputs(fused, 96), outputs(model, 96)) < 1e-5


def test_fusing_twice_is_fusing_once() -> None:
    model = kr.create_model("resnet18", **SMALL)
    randomise(model)
    once = kr.fuse(model)
    twice = kr.fuse(once)
    assert twice is not once
    np.testing.assert_array_equal(outputs(twice), outputs(once))


def test_networks_inside_a_compiled_model() -> None:
    """Two networks with the same layer names, nested and called side by side."""
    image = keras.Input((64, 64, 3), name="image")
    networks = [kr.ResNet10T(weights=None, name=name, **SMALL) for name in ("left", "right")]
    scaled = keras.layers.Rescaling(0.5)(image)
    model = keras.Model(image, keras.layers.Average()([network(scaled) for network in networks]))
    for seed, network in enumerate(networks):
        randomise(network, seed)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(np.zeros((2, 64, 64, 3), "float32"), np.zeros((2, 10), "float32"), verbose=0)
    fused = kr.fuse(model)
    assert norms(fused) == 0 and not fused.compiled
    assert distance(outputs(fused), outputs(model)) < 1e-5


@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 5e-2), ("mixed_float16", 5e-3), ("float64", 1e-12)])
def test_other_precisions(policy: str, tolerance: float) -> None:
    keras.config.set_dtype_policy(policy)
    model = kr.create_model("resnet10t", drop_path_rate=0.1, **SMALL)
    randomise(model)
    keras.config.set_dtype_policy("float32")  # as in a process that only loads the model
    fused, plain = kr.fuse(model), as_float32(model)
    assert {layer.dtype_policy.name for layer in fused._flatten_layers() if isinstance(layer, ConvNorm)} == {policy}
    assert distance(outputs(fused), outputs(model)) < tolerance
    assert {layer.compute_dtype for layer in plain._flatten_layers()} == {"float32"}
    assert distance(outputs(plain), outputs(model)) < max(tolerance, 1e-5)


def test_nothing_to_fold_is_an_equal_copy() -> None:
    model = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    randomise(model)
    np.testing.assert_array_equal(outputs(kr.fuse(model)), outputs(model))


class Subclassed(keras.Model):
    def call(self, x: object) -> object:
        return x


@pytest.mark.parametrize("model", [Subclassed(), keras.Sequential([keras.layers.Dense(2)]), "resnet18"])
def test_model_without_a_graph(model: object) -> None:
    with pytest.raises(ValueError, match="built functional or sequential"):
        kr.fuse(model)
