"""DCDC: both branches against loops in NumPy, the inferred networks' sizes, RedNet as a special case, exports, errors."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets import registry
from keras_resnets.layers import DualComplementaryDynamicConvolution

NORM = {"epsilon": 1e-5, "momentum": 0.9}
CHANNELS = 8
SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "input_shape": (64, 64, 3),
    "classes": 5,
    "classifier_activation": None,
}
# The RedNet among the networks of a depth.
AS_REDNET: dict[str, Any] = {"use_gsi": False, "stem": "rednet"}


def dynamic(**arguments: Any) -> DualComplementaryDynamicConvolution:
    """A layer on 8 channels in groups of 4 with random weights and statistics."""
    layer = DualComplementaryDynamicConvolution(**{"norm": NORM, "group_channels": 4, "reduction_gsi": 2, **arguments})
    layer.build((None, None, None, CHANNELS))
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        low, high = (0.5, 1.5) if variable.path.endswith(("gamma", "variance")) else (-0.5, 0.5)
        variable.assign(rng.uniform(low, high, variable.shape))
    return layer


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def values(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    prefix = f"{layer.path}/"
    return {v.path.removeprefix(prefix): keras.ops.convert_to_numpy(v).astype("float64") for v in layer.variables}


def predicted(weights: dict[str, np.ndarray], branch: str, features: np.ndarray, taps: int) -> np.ndarray:
    """Kernels (…, groups, taps) of a branch from features (…, channels); the variables hold them group by group."""
    norm = {
        name: weights[f"{branch}/reduce/norm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    hidden = features @ weights[f"{branch}/reduce/conv/kernel"][0, 0]
    hidden = (hidden - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + NORM["epsilon"])
    hidden = np.maximum(hidden * norm["gamma"] + norm["beta"], 0)
    kernels = hidden @ weights[f"{branch}/span/kernel"][0, 0] + weights[f"{branch}/span/bias"]
    return kernels.reshape(*features.shape[:-1], -1, taps)


def softmax(kernels: np.ndarray, gain: Any) -> np.ndarray:
    return np.exp(kernels) / np.exp(kernels).sum(-1, keepdims=True)


def filter_norm(kernels: np.ndarray, gain: Any) -> np.ndarray:
    centred = kernels - kernels.mean(-1, keepdims=True)
    return centred / (kernels.std(-1, ddof=1, keepdims=True) + 1e-10) * gain


NORMS: dict[str, Callable] = {"none": lambda kernels, gain: kernels, "softmax": softmax, "filter_norm": filter_norm}


def window(x: np.ndarray, b: int, i: int, j: int, channel: int, size: int, dilation: int) -> np.ndarray:
    """The taps around pixel (i, j) of one channel, zeros outside the image."""
    reach = dilation * (size // 2)
    plane = np.pad(x[b, :, :, channel], reach)
    return plane[i : i + 2 * reach + 1 : dilation, j : j + 2 * reach + 1 : dilation].ravel()


def by_loops(layer: DualComplementaryDynamicConvolution, x: np.ndarray, kernel_norm: str, strides: int, dilation: int,
             lsa_size: int, gsi_size: int) -> dict[str, np.ndarray]:  # fmt: skip
    """Each branch's output pixel by pixel and channel by channel."""
    weights, normalised = values(layer), NORMS[kernel_norm]
    batch, height, width, channels = x.shape
    rows, columns = -(-height // strides), -(-width // strides)
    cells = np.zeros((batch, rows, columns, channels))
    for i, j in np.ndindex(rows, columns):
        cells[:, i, j] = x[:, i * strides : (i + 1) * strides, j * strides : (j + 1) * strides].mean((1, 2))
    local = normalised(predicted(weights, "lsa", cells, lsa_size**2), math.sqrt(2) / lsa_size)
    gain = weights["gsi/gain"].T if kernel_norm == "filter_norm" else None
    shared = normalised(predicted(weights, "gsi", x.mean((1, 2)), gsi_size**2), gain)
    outputs = {"lsa": np.zeros_like(cells), "gsi": np.zeros_like(cells)}
    for b, i, j, c in np.ndindex(cells.shape):
        pixel = (x, b, i * strides, j * strides, c)
        outputs["lsa"][b, i, j, c] = window(*pixel, lsa_size, dilation) @ local[b, i, j, c // 4]
        outputs["gsi"][b, i, j, c] = window(*pixel, gsi_size, dilation) @ shared[b, c]
    return outputs


@pytest.mark.parametrize("kernel_norm", NORMS)
@pytest.mark.parametrize(("strides", "dilation", "lsa_size", "gsi_size"), [(1, 1, 5, 3), (2, 1, 3, 5), (1, 2, 3, 3)])
def test_branches_are_loops_over_pixels(
    kernel_norm: str, strides: int, dilation: int, lsa_size: int, gsi_size: int
) -> None:
    layer = dynamic(kernel_size_lsa=lsa_size, kernel_size_gsi=gsi_size, strides=strides, dilation=dilation,
                    kernel_norm=kernel_norm)  # fmt: skip
    x = images(2, 5, 6, CHANNELS)
    expected = by_loops(layer, x.astype("float64"), kernel_norm, strides, dilation, lsa_size, gsi_size)
    outputs = {"lsa": layer.lsa(x), "gsi": layer.gsi(x)}
    for branch, output in outputs.items():
        np.testing.assert_allclose(keras.ops.convert_to_numpy(output), expected[branch], rtol=1e-4, atol=2e-5)
    both = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(both, expected["lsa"] + expected["gsi"], rtol=1e-4, atol=4e-5)
    assert layer.compute_output_shape((None, 5, 6, CHANNELS))[1:] == both.shape[1:]


@pytest.mark.parametrize("branch", ["lsa", "gsi"])
def test_a_branch_alone(branch: str) -> None:
    options = {"use_lsa": branch == "lsa", "use_gsi": branch == "gsi"}
    layer, whole, x = dynamic(**options), dynamic(), images(2, 6, 6, CHANNELS)
    assert {path.split("/")[0] for path in values(layer)} == {branch}
    alone = getattr(whole, branch)
    layer.set_weights(alone.get_weights())
    np.testing.assert_array_equal(layer(x), alone(x))


def test_each_image_has_kernels_of_its_own() -> None:
    layer, x = dynamic(), images(3, 6, 6, CHANNELS)
    whole = keras.ops.convert_to_numpy(layer(x))
    parts = np.concatenate([keras.ops.convert_to_numpy(layer(x[i : i + 1])) for i in range(3)])
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-6)


def test_global_kernels_ignore_positions() -> None:
    """Moving the content of an image inside its empty margin moves the output of the global branch, and nothing else."""
    layer, x = dynamic(use_lsa=False), np.zeros((1, 12, 12, CHANNELS), "float32")
    x[:, 2:8, 2:8] = images(1, 6, 6, CHANNELS)
    moved = np.roll(x, (3, 1), (1, 2))
    here, there = (keras.ops.convert_to_numpy(layer(image)) for image in (x, moved))
    np.testing.assert_allclose(np.roll(here, (3, 1), (1, 2)), there, rtol=1e-4, atol=1e-5)


def test_one_image_trains_on_moving_statistics() -> None:
    layer, x = dynamic(use_lsa=False), images(1, 6, 6, CHANNELS)
    expected = keras.ops.convert_to_numpy(layer(x, training=False))
    layer.gsi.reduce.norm.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), expected)


def test_initial_values() -> None:
    """Little kernels, or the identity in the global branch."""
    keras.utils.set_random_seed(1)
    options: dict[str, Any] = {"norm": NORM, "kernel_norm": "filter_norm"}
    layer = DualComplementaryDynamicConvolution(**options)
    layer.build((None, 8, 8, 256))
    weights = values(layer)
    for branch in ("lsa", "gsi"):
        assert weights[f"{branch}/span/kernel"].std() == pytest.approx(1e-3, rel=0.05)
        assert not weights[f"{branch}/span/bias"].any()
    assert weights["gsi/gain"].std() == pytest.approx(math.sqrt(2) / 3, rel=0.05)

    identity = DualComplementaryDynamicConvolution(norm=NORM, use_lsa=False, gsi_identity=True, kernel_stddev=0.0)
    x = images(2, 6, 6, CHANNELS)
    np.testing.assert_array_equal(identity(x), x)


def test_equal_taps_have_no_gradient() -> None:
    """Where no channel survives the ReLU, kernels are the bias: constant here, so that their deviation is zero."""
    layer = dynamic(kernel_norm="filter_norm")
    for branch in (layer.lsa, layer.gsi):
        branch.reduce.norm.beta.assign(np.full(branch.reduce.norm.beta.shape, -100.0))
        branch.span.bias.assign(np.zeros(branch.span.bias.shape))
    model, x = keras.Sequential([keras.Input((6, 6, CHANNELS)), layer]), images(2, 6, 6, CHANNELS)
    step = reference.train_step(model, x, np.ones_like(x))
    assert not step.logits.any()
    for gradient in step.gradients.values():
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("kernel_norm", ["softmax", "filter_norm"])
def test_kernels_are_normalised_in_float32(kernel_norm: str) -> None:
    """Kernels a hundred times too large for float16's squares and exponentials."""
    keras.config.set_dtype_policy("mixed_float16")
    layer, x = dynamic(kernel_norm=kernel_norm), images(2, 6, 6, CHANNELS)
    exact = dynamic(kernel_norm=kernel_norm, dtype="float32")
    for each in (layer, exact):
        for branch in (each.lsa, each.gsi):
            branch.span.kernel.assign(500 * branch.span.kernel)
    output, expected = (keras.ops.convert_to_numpy(each(x)) for each in (layer, exact))
    assert output.dtype == "float16"
    assert reference.distance(output, expected) <= 0.02


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


def dynamic_macs(layer: DualComplementaryDynamicConvolution) -> int:
    """Taps of both branches times values of the output."""
    shape = layer.compute_output_shape(layer.get_build_config()["input_shape"])
    return math.prod(shape[1:]) * sum(branch.kernel_size**2 for (branch,) in layer.branches())


@pytest.mark.parametrize(("name", "options", "params", "conv_gmacs", "gmacs"), SIZES)
def test_sizes(name: str, options: dict, params: int, conv_gmacs: float | None, gmacs: float,
               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    built = []
    build = lambda name: built.append(kr.create_model(name, **options)) or built[-1]  # noqa: E731
    monkeypatch.setattr(registry, "create_model", build)
    measured_params, measured = registry.measure(name)
    assert measured_params == params
    if conv_gmacs is not None:
        assert measured == pytest.approx(conv_gmacs, abs=6e-4)
    layers = [x for x in built[0]._flatten_layers() if isinstance(x, DualComplementaryDynamicConvolution)]
    assert measured + sum(map(dynamic_macs, layers)) / 1e9 == pytest.approx(gmacs, abs=1.1e-3)


def names_and_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    parameters = kr.pytorch_parameters(model).items()
    return {name: to_torch(np.broadcast_to(np.float32(0), v.shape)).shape for name, (v, to_torch) in parameters}


def rule_weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: reference.weight(name, shape) for name, shape in names_and_shapes(model).items()}


@pytest.mark.parametrize("depth", [26, 38, 50, 101, 152])
def test_rednet_has_the_same_parameters(depth: int) -> None:
    with registry.without_values():
        ours, theirs = kr.create_model(f"dcdc{depth}", **AS_REDNET), kr.create_model(f"rednet{depth}")
        assert names_and_shapes(ours) == names_and_shapes(theirs)


def test_rednet_is_the_same_function() -> None:
    """Outputs, gradients and statistics, with the same weights by RedNet's PyTorch names."""
    ours, theirs = kr.create_model("dcdc50", **AS_REDNET, **SMALL), kr.create_model("rednet50", **SMALL)
    state, x = rule_weights(theirs), images(3, 64, 64, 3)
    for model in (ours, theirs):
        kr.load_pytorch_weights(model, state)
    expected = keras.ops.convert_to_numpy(theirs(x, training=False))
    assert np.isfinite(expected).all() and expected.std() > 0
    assert reference.distance(ours(x, training=False), expected) <= 1e-6

    r = np.random.default_rng(2).normal(size=(3, 5)).astype("float32")
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
    with registry.without_values():
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
