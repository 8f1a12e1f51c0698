"""DCDC networks: the inferred specification's sizes, RedNet as a special case, precision, exports, errors."""

import math
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets import costs, registry
from keras_resnets.layers import DualComplementaryDynamicConvolution

SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "input_shape": (32, 32, 3),
    "classes": 5,
    "classifier_activation": None,
}
# The RedNet among the networks of a depth.
AS_REDNET: dict[str, Any] = {"use_gsi": False, "stem": "rednet"}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


# Parameters, multiply-accumulates of convolutions and classifier, and with those of the dynamic kernels (in 10⁹): exact
# counts of the inferred specification, not published figures.
SIZES = [
    ("dcdc26", {}, 10_643_228, 1.523, 1.560),
    ("dcdc38", {}, 14_676_568, 1.987, 2.045),
    ("dcdc50", {}, 18_709_908, 2.451, 2.531),
    ("dcdc101", {}, 31_648_676, 4.423, 4.552),
    ("dcdc152", {}, 42_310_548, 6.394, 6.584),
    ("dcdc50", {"stem": "rednet"}, 18_723_222, 2.580, 2.668),
    ("dcdc50", {"kernel_size_gsi": 5}, 23_800_212, 2.456, 2.559),
    ("dcdc50", {"kernel_size_gsi": 7, "reduction_gsi": 16}, 19_645_452, 2.452, 2.587),
    ("dcdc50", {"reduction_gsi": 16}, 16_350_732, 2.449, 2.529),
    ("dcdc50", {"kernel_size_lsa": 3}, 17_914_548, 2.323, 2.348),
    ("dcdc50", {"use_gsi": False}, 15_530_356, 2.448, 2.516),
    ("dcdc50", {"use_lsa": False}, 17_419_336, 2.243, 2.255),
    ("dcdc50", {"kernel_size_gsi": 7}, 31_435_668, 2.464, 2.599),
    ("dcdc50", AS_REDNET, 15_540_806, 2.577, 2.648),
    ("dcdc18", {}, 6_870_808, None, 0.681),
    ("dcdc34", {}, 11_994_624, None, 1.171),
    ("dcdc18", {"kernel_size_lsa": 3}, 5_990_808, None, 0.493),
    ("dcdc34", {"kernel_size_lsa": 3}, 10_403_904, None, 0.804),
]


def dynamic_layers(model: keras.Model) -> list[DualComplementaryDynamicConvolution]:
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, DualComplementaryDynamicConvolution)]
    return sorted(layers, key=lambda layer: layer.path)


def dynamic_macs(layer: DualComplementaryDynamicConvolution) -> int:
    """Taps of both branches times values of the output."""
    shape = layer.compute_output_shape(layer.get_build_config()["input_shape"])
    return math.prod(shape[1:]) * sum(branch.kernel_size**2 for (branch,) in layer.branches())


@pytest.mark.parametrize(("name", "options", "params", "conv_gmacs", "gmacs"), SIZES)
def test_sizes(name: str, options: dict, params: int, conv_gmacs: float | None, gmacs: float,
               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    built: list[keras.Model] = []
    monkeypatch.setattr(
        registry, "create_model", lambda name: built.append(kr.create_model(name, **options)) or built[-1]
    )
    measured_params, measured, _ = registry.measure(name)
    assert measured_params == params
    if conv_gmacs is not None:
        assert measured == pytest.approx(conv_gmacs, abs=6e-4)
    assert measured + sum(map(dynamic_macs, dynamic_layers(built[0]))) / 1e9 == pytest.approx(gmacs, abs=1.1e-3)


def names_and_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    parameters = kr.pytorch_parameters(model).items()
    return {name: to_torch(np.broadcast_to(np.float32(0), v.shape)).shape for name, (v, to_torch) in parameters}


def rule_weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: reference.weight(name, shape) for name, shape in names_and_shapes(model).items()}


@pytest.mark.parametrize("depth", [26, 38, 50, 101, 152])
def test_rednet_has_the_same_parameters(depth: int) -> None:
    with costs.without_values():
        ours, theirs = kr.create_model(f"dcdc{depth}", **AS_REDNET), kr.create_model(f"rednet{depth}")
        assert names_and_shapes(ours) == names_and_shapes(theirs)


@pytest.mark.parametrize("size", [7, 3])
def test_rednet_is_the_same_function(size: int) -> None:
    """Outputs with 7x7 kernels; gradients and statistics with 3x3 ones, whose graph is small."""
    ours = kr.create_model("dcdc50", kernel_size_lsa=size, **AS_REDNET, **SMALL)
    theirs = kr.create_model("rednet50", kernel_size=size, **SMALL)
    state = rule_weights(theirs)
    for name in state:
        if name.endswith("conv2.conv.weight"):
            state[name] *= 0.1  # the rule's kernels make values that grow like 2^2^depth
    for model in (ours, theirs):
        kr.load_pytorch_weights(model, state)
    x, r = images(3, 32, 32, 3), np.random.default_rng(2).normal(size=(3, 5)).astype("float32")
    if size == 7:
        expected = keras.ops.convert_to_numpy(theirs(x, training=False))
        assert np.isfinite(expected).all() and expected.std() > 0.1
        assert reference.distance(keras.ops.convert_to_numpy(ours(x, training=False)), expected) <= 1e-6
        return
    steps = [reference.train_step(model, x, r) for model in (ours, theirs)]
    assert reference.distance(steps[0].logits, steps[1].logits) <= 1e-6
    parameters = [kr.pytorch_parameters(model) for model in (ours, theirs)]
    for name in state:
        mine, other = ({**s.gradients, **s.after}[p[name][0].path] for s, p in zip(steps, parameters, strict=True))
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max(), err_msg=name)


def test_rednet_weights_start_the_local_branch() -> None:
    ours, theirs = kr.create_model("dcdc26", stem="rednet", **SMALL), kr.create_model("rednet26", **SMALL)
    state = rule_weights(theirs)
    assert set(state) < set(names_and_shapes(ours))
    kr.load_pytorch_weights(ours, state, strict=False)
    parameters = kr.pytorch_parameters(ours)
    for name in ("backbone.stem.1.conv2.conv.weight", "backbone.layer1.0.conv2.conv1.bn.running_var"):
        variable, to_torch = parameters[name]
        np.testing.assert_array_equal(to_torch(variable), state[name])


@pytest.mark.parametrize("name", ["dcdc18", "dcdc26"])
@pytest.mark.parametrize("options", [{}, {"stem": "rednet", "kernel_norm": "filter_norm"}])
def test_every_variable_has_a_name_after_rednets(name: str, options: dict) -> None:
    with costs.without_values():
        model = kr.create_model(name, **options, **SMALL)
        names = names_and_shapes(model)
    assert len(names) == len(model.variables)
    operator = "conv1.1" if name == "dcdc18" else "conv2"
    block = {key for key in names if key.startswith(f"backbone.layer1.0.{operator}.")}
    convs = ("conv1.conv.weight", "conv2.conv.weight", "conv2.conv.bias")
    norms = tuple(f"conv1.bn.{key}" for key in ("weight", "bias", "running_mean", "running_var"))
    expected = {f"backbone.layer1.0.{operator}.{prefix}{key}" for prefix in ("", "gsi_") for key in (*convs, *norms)}
    if options:
        expected.add(f"backbone.layer1.0.{operator}.gsi_norm.weight")
    assert block == expected


def with_little_kernels(model: keras.Model) -> keras.Model:
    """Kernels that matter and do not explode; statistics and scales away from 0 and 1."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "/span/" in variable.path:
            variable.assign(rng.normal(0, 0.02, variable.shape))
    return model


@pytest.mark.parametrize(("policy", "rounding"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
def test_mixed_precision(policy: str, rounding: float) -> None:
    options = {**SMALL, "kernel_size_lsa": 3, "kernel_norm": "filter_norm"}
    exact, x = with_little_kernels(kr.create_model("dcdc26", **options)), images(4, 32, 32, 3)
    expected = keras.ops.convert_to_numpy(exact(x, training=False))
    keras.config.set_dtype_policy(policy)
    model = kr.create_model("dcdc26", **options)
    model.set_weights(exact.get_weights())
    assert model.get_layer("C5").output.dtype == policy.removeprefix("mixed_")
    assert reference.distance(keras.ops.convert_to_numpy(model(x, training=False)), expected) <= rounding
    step = reference.train_step(model, x, np.full((4, 5), 0.25, "float32"))
    assert all(np.isfinite(array).all() for array in (step.logits, *step.gradients.values(), *step.after.values()))


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, x = (
        with_little_kernels(kr.create_model("dcdc18", **SMALL, kernel_size_lsa=3, stem="rednet")),
        images(3, 32, 32, 3),
    )
    whole = keras.ops.convert_to_numpy(model(x, training=False))
    parts = np.concatenate([keras.ops.convert_to_numpy(model(x[i : i + 1], training=False)) for i in range(3)])
    assert np.isfinite(whole).all() and reference.distance(parts, whole) <= 1e-5


# Name, output stride, and the dilation of each dynamic convolution: a stage that no longer strides doubles it after its first.
DILATIONS = [
    ("dcdc26", 16, [1, 1, 1, 1]),
    ("dcdc26", 8, [1, 1, 1, 2]),
    ("dcdc18", 16, [1, 1, 1, 1, 1, 1, 1, 2]),
    ("dcdc18", 8, [1, 1, 1, 1, 1, 2, 2, 4]),
]


@pytest.mark.parametrize(("name", "output_stride", "dilations"), DILATIONS)
def test_output_stride_dilates(name: str, output_stride: int, dilations: list[int]) -> None:
    options = {**SMALL, "input_shape": (64, 64, 3), "kernel_size_lsa": 3}
    with costs.without_values():
        model = kr.create_model(name, output_stride=output_stride, **options)
        plain = kr.create_model(name, **options)
    assert model.get_layer("C5").output.shape[1:3] == (64 // output_stride, 64 // output_stride)
    for branch in ("lsa", "gsi"):
        assert [getattr(layer, branch).dilation for layer in dynamic_layers(model)] == dilations
    assert [(v.path, v.shape) for v in model.variables] == [(v.path, v.shape) for v in plain.variables]


NETWORK_ERRORS = [
    ({"use_lsa": False, "use_gsi": False}, "leave no branch"),
    ({"kernel_norm": "softmin"}, "kernel_norm must be one of 'none', 'filter_norm', 'softmax', not 'softmin'"),
    ({"kernel_size_gsi": 4}, "kernel_size_gsi must be odd and at least 1, not 4"),
    ({"group_channels": 24}, "64 do not divide by 24"),
    ({"reduction_gsi": 128}, "reduction_gsi must be at most the input's 64 channels, not 128"),
    ({"stem": "involution"}, "stem must be one of 'conv', 'rednet', not 'involution'"),
    ({"kernel_size": 7}, "unknown option 'kernel_size': did you mean 'kernel_size_"),
]


@pytest.mark.parametrize(("options", "message"), NETWORK_ERRORS)
def test_network_refuses(options: dict[str, Any], message: str) -> None:
    with costs.without_values(), pytest.raises(ValueError, match=message):
        kr.create_model("dcdc50", **options)
