"""Every reference entry in single precision, through the fast paths, and mistakes that these checks must see."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.layers import BatchNorm, Conv2D
from keras_resnets.layers.residual import PadShortcut

NETWORKS = [entry for entry in reference.ENTRIES if "@" not in entry]
# Entries whose gradients move by more than 1e-3 when rounded to single precision are compared in double precision only.
GRADIENTS_IN_FLOAT64 = {entry for entry, row in reference.ENTRIES.items() if row["grad_check"].startswith("double")}


@pytest.mark.parametrize("entry", NETWORKS)
def test_names_shapes_and_counts(entry: str) -> None:
    golden = reference.load(entry)
    with without_values():
        model = kr.create_model(golden.network, **golden.options)
        parameters = kr.pytorch_parameters(model)
        shapes = {name: to_torch(np.broadcast_to(0.0, v.shape)).shape for name, (v, to_torch) in parameters.items()}
        trainable = {name for name, (variable, _) in parameters.items() if variable.trainable}
        params = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    assert shapes == golden.shapes
    assert trainable == set(golden.arrays["param_names"])
    assert params == golden.row["params"]


def _marked(entry: str) -> Any:
    """Networks of over 13 million parameters are in the long run, but for one of each family with layers of its own."""
    short = entry in reference.LEAST_OF_FAMILY or reference.ENTRIES[entry]["params"] < 13e6
    return entry if short else pytest.param(entry, marks=pytest.mark.slow)


@pytest.mark.parametrize("entry", [_marked(entry) for entry in reference.ENTRIES])
def test_values_in_float32(entry: str) -> None:
    golden = reference.load(entry)
    model = golden.build()
    distances = reference.eval_distances(golden, model, "float32")
    distances |= reference.train_distances(golden, model, "float32")
    if entry in GRADIENTS_IN_FLOAT64:
        distances = {name: distance for name, distance in distances.items() if not name.startswith("grad")}
    reference.assert_within(distances, reference.limits(golden.row, "float32"))


def _layers(model: keras.Model, kind: type) -> list:
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def _conv(model: keras.Model, path: str) -> Conv2D:
    return next(layer for layer in _layers(model, Conv2D) if layer.path == path)


def _all_epsilons(model: keras.Model) -> None:
    for norm in _layers(model, BatchNorm):
        norm.epsilon = 1e-3


def _one_epsilon(model: keras.Model) -> None:
    next(norm for norm in _layers(model, BatchNorm) if norm.path == "stage4_block3/conv3/norm").epsilon = 1e-3


def _all_same_padding(model: keras.Model) -> None:
    for conv in _layers(model, Conv2D):
        if conv.strides != (1, 1):
            conv.padding = "same"


def _one_same_padding(model: keras.Model) -> None:
    _conv(model, "stage4_block1/conv2/conv").padding = "same"


def _one_kernel_scaled(model: keras.Model) -> None:
    kernel = _conv(model, "stage1_block1/conv1/conv").kernel
    kernel.assign(kernel * 1.01)


# What mistakes do to the reference implementation itself (max|Δ| / max|ref| of eval logits), from golden/README.md's origin.
MISTAKES = [
    (_all_epsilons, 1.2e-2),
    (_one_epsilon, 2.7e-4),
    (_all_same_padding, 2.4e-1),
    (_one_same_padding, 2.2e-1),
    (_one_kernel_scaled, 4.6e-3),
]


@pytest.mark.parametrize("mistake, effect", MISTAKES)
def test_the_check_sees_mistakes(mistake: Callable[[keras.Model], None], effect: float) -> None:
    """A mistake put into our ResNet-50 moves the logits exactly as far as it moves the reference's."""
    golden = reference.load("resnet50")
    model = golden.build()
    mistake(model)
    logits = reference.eval_distances(golden, model, "float32")["eval: logits"]
    assert logits == pytest.approx(effect, rel=0.05)
    assert logits > 10 * reference.limits(golden.row, "float32")["eval"]


def test_the_check_sees_zeros_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Option A as some ports have it, half of the zero channels in front: the same parameters, another function."""

    def both_sides(self: PadShortcut, x):
        missing = self.filters - x.shape[-1]
        return keras.ops.pad(x[:, :: self.strides, :: self.strides], ((0, 0), (0, 0), (0, 0), (missing // 2,) * 2))

    monkeypatch.setattr(PadShortcut, "call", both_sides)
    golden = reference.load("resnet20_cifar")
    model = golden.build()
    distances = reference.eval_distances(golden, model, "float32") | reference.train_distances(golden, model, "float32")
    assert distances["eval: logits"] == pytest.approx(0.48, rel=0.05)
    assert distances["train: logits"] == pytest.approx(0.39, rel=0.05)
    assert distances["grad: parameters"] == pytest.approx(0.020, rel=0.05)
