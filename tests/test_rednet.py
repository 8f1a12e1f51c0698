"""RedNet: the paper's ablations, options, precision, exports, errors."""

import re
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.layers import Involution

SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "input_shape": (32, 32, 3), "classes": 5, "kernel_size": 3}

# Millions of parameters of RedNet-50 with the 7x7 convolution in the stem, Li et al., 2021 (arXiv 2103.06255), table 6, and
# the exact count of the network with the paper's own choices.
ABLATIONS = [
    ({}, 15_530_356, 0),
    ({"kernel_size": 3}, 14.73e6, 5e3),
    ({"kernel_size": 5}, 15.05e6, 5e3),
    ({"kernel_size": 9}, 16.17e6, 5e3),
    ({"group_channels": 4}, 18.45e6, 5e3),
    ({"group_channels": 1}, 30.15e6, 5e3),
    ({"reduction": 1}, 19.37e6, 5e3),
    ({"reduction": 16}, 14.57e6, 5e3),
]


@pytest.mark.parametrize(("options", "params", "rounding"), ABLATIONS)
def test_ablations_have_the_papers_sizes(options: dict[str, int], params: float, rounding: float) -> None:
    with without_values():
        model = kr.create_model("rednet50", stem="conv", **options)
        count = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert count == pytest.approx(params, abs=rounding)


def test_residual_branches_start_at_zero() -> None:
    model = kr.create_model("rednet26", **SMALL)
    x = reference.generator("x").standard_normal((2, 8, 8, 256), dtype=np.float32)
    block = model.get_layer("stage2_block1")
    shortcut = block.shortcut[0](x, training=False)
    values = (keras.ops.convert_to_numpy(y) for y in (block(x, training=False), keras.ops.relu(shortcut)))
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize(("output_stride", "dilations"), [(16, [1, 1, 1, 1, 2]), (8, [1, 1, 1, 2, 4])])
def test_output_stride_dilates(output_stride: int, dilations: list[int]) -> None:
    """From the second block on a stage that no longer strides has its taps twice as far apart; weights are the same."""
    options = {**SMALL, "depths": (1, 1, 1, 2), "input_shape": (64, 64, 3)}
    with without_values():
        model = kr.create_model("rednet26", output_stride=output_stride, **options)
        plain = kr.create_model("rednet26", **options)
    assert model.get_layer("C5").output.shape[1:3] == (64 // output_stride, 64 // output_stride)
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, Involution)]
    assert [layer.dilation for layer in layers[1:]] == dilations
    assert [(v.path, v.shape) for v in model.variables] == [(v.path, v.shape) for v in plain.variables]


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """Every variable matters, and a good part of each kernel is the same everywhere: activations that multiply themselves
    explode at random weights."""
    keras.utils.set_random_seed(0)  # the fixture of every test comes after those of a module
    model = kr.create_model("rednet26", classifier_activation=None, **SMALL)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith("/span/kernel"):
            variable.assign(rng.normal(0, 0.01, variable.shape))
        elif variable.path.endswith("/span/bias"):
            variable.assign(rng.uniform(0, 2 / 9, variable.shape))
    model.get_layer("predictions").bias.assign(-keras.ops.mean(model(noise(64)), axis=0))
    return model


def noise(count: int, seed: int = 3) -> np.ndarray:
    """Images of different colours."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 32, 32, 3)) + rng.normal(size=(count, 1, 1, 3))).astype("float32")


@pytest.mark.parametrize(("policy", "rounding"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
def test_mixed_precision(policy: str, rounding: float, network: keras.Model) -> None:
    x, exact = noise(4), keras.ops.convert_to_numpy(network(noise(4), training=False))
    keras.config.set_dtype_policy(policy)
    model = kr.create_model("rednet26", classifier_activation=None, **SMALL)
    model.set_weights(network.get_weights())
    assert model.get_layer("C1").output.dtype == policy.removeprefix("mixed_")
    assert reference.distance(keras.ops.convert_to_numpy(model(x, training=False)), exact) <= rounding
    step = reference.train_step(model, x, np.full((4, 5), 0.25, "float32"))
    assert all(np.isfinite(array).all() for array in (step.logits, *step.gradients.values(), *step.after.values()))


def test_convolution_stem_has_a_name() -> None:
    with without_values():
        names = kr.pytorch_parameters(kr.create_model("rednet26", stem="conv", **SMALL))
    assert {"backbone.conv1.weight", "backbone.bn1.running_var", "backbone.layer1.0.conv2.conv2.conv.bias"} <= set(
        names
    )


ERRORS = [
    ({"kernel_size": 6}, "kernel_size must be odd, not 6"),
    ({"group_channels": 24}, "group_channels must divide the input's channels: 32 do not divide by 24"),
    ({"reduction": 48}, "reduction must be at most the input's 32 channels, not 48"),
    ({"reduction": 0}, "reduction must be a whole number above 0, not 0"),
    ({"stem": "conv7"}, "stem must be one of 'involution', 'conv', not 'conv7'"),
    ({"output_stride": 4}, "output_stride must be one of 32, 16, 8, not 4"),
    ({"group_chanels": 4}, "unknown option 'group_chanels': did you mean 'group_channels'"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kr.RedNet26(**options)
