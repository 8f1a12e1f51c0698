"""The dual complementary dynamic convolution: both branches against loops in NumPy, initial values, precision, errors."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.export import run_artifact
from keras_resnets.layers import DualComplementaryDynamicConvolution

NORM = {"epsilon": 1e-5, "momentum": 0.9}
CHANNELS = 8


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
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(x)) for each in (layer, alone)))


def test_each_image_has_kernels_of_its_own() -> None:
    layer, x = dynamic(), images(3, 6, 6, CHANNELS)
    whole = keras.ops.convert_to_numpy(layer(x))
    parts = np.concatenate([keras.ops.convert_to_numpy(layer(x[i : i + 1])) for i in range(3)])
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel_norm", NORMS)
def test_unknown_size(kernel_norm: str) -> None:
    layer, x = dynamic(kernel_size_lsa=3, strides=2, kernel_norm=kernel_norm), images(2, 5, 6, CHANNELS)
    image = keras.Input((None, None, CHANNELS))
    outputs = keras.Model(image, layer(image)).predict(x, verbose=0)
    np.testing.assert_allclose(outputs, keras.ops.convert_to_numpy(layer(x)), rtol=1e-5, atol=1e-5)


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
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x, training=True)), expected)


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
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(identity(x)), x)


def test_equal_taps_have_no_gradient() -> None:
    """Where no channel survives the ReLU, kernels are the bias: constant here, so that their deviation is zero."""
    layer = dynamic(kernel_norm="filter_norm", kernel_size_lsa=3)
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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export needs Keras on the TensorFlow backend")
def test_normalised_kernels_export(tmp_path: Path) -> None:
    image = keras.Input((8, 8, CHANNELS), name="image")
    layers = [
        dynamic(kernel_size_lsa=3, strides=2, kernel_norm=kernel_norm) for kernel_norm in ("softmax", "filter_norm")
    ]
    model, x = keras.Model(image, layers[1](layers[0](image))), images(7, 8, 8, CHANNELS)
    expected = model.predict(x, verbose=0)
    for kind, file, options in (("onnx", "net.onnx", {}), ("tflite", "net.tflite", {"batch_size": None})):
        kr.export(model, tmp_path / file, kind, images=x, **options)
        outputs, _ = run_artifact(tmp_path / file, x, batch_size=5)
        assert reference.distance(outputs, expected) < 1e-5


LAYER_ERRORS = [
    ({"use_lsa": False, "use_gsi": False}, "use_lsa=False and use_gsi=False leave no branch"),
    ({"kernel_norm": "softmin"}, "kernel_norm must be one of .*'filter_norm'.*, not 'softmin'"),
    ({"kernel_size_lsa": 6}, "kernel_size_lsa must be odd and at least 1, not 6"),
    ({"kernel_size_gsi": 4}, "kernel_size_gsi must be odd and at least 1, not 4"),
    ({"kernel_size_gsi": -1}, "kernel_size_gsi must be odd and at least 1, not -1"),
    ({"kernel_size_gsi": 1, "kernel_norm": "filter_norm"}, "kernel_size_gsi must be odd and at least 3, not 1"),
    ({"group_channels": 3}, "8 do not divide by 3"),
    ({"reduction_lsa": 9}, "reduction must be at most the input's 8 channels, not 9"),
    ({"reduction_gsi": 9}, "reduction_gsi must be at most the input's 8 channels, not 9"),
]


@pytest.mark.parametrize(("arguments", "message"), LAYER_ERRORS)
def test_layer_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dynamic(**arguments)
