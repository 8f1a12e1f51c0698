"""Involution and the sum behind it: against a loop over every number, its gradients and what they store; RedNet's options."""

import itertools
import math
import pathlib
import re
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.dynamic_filter import _Window, dynamic_filter
from keras_resnets.export import run_artifact
from keras_resnets.layers import Involution

ROOT = pathlib.Path(__file__).parents[1]
NORM = {"epsilon": 1e-5, "momentum": 0.9}
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs Keras on the TensorFlow backend"
)

# Height, width, channels, groups, kernel size, strides, dilation, one kernel for all positions.
CASES = {
    "groups": (7, 5, 8, 2, (3, 3), (1, 1), (1, 1), False),
    "one group, strides on an odd map": (7, 5, 6, 1, (3, 5), (2, 2), (1, 1), False),
    "a group per channel": (5, 5, 4, 4, (5, 3), (1, 1), (1, 1), False),
    "strides on an even map": (8, 6, 8, 2, (5, 5), (2, 2), (1, 1), False),
    "strides that differ": (6, 8, 8, 2, (3, 3), (3, 1), (1, 1), False),
    "pixels that nothing reads": (5, 5, 4, 2, (1, 1), (2, 2), (1, 1), False),
    "dilation": (9, 8, 8, 2, (3, 3), (1, 1), (2, 3), False),
    "kernel larger than the map": (2, 3, 8, 2, (7, 7), (1, 1), (1, 1), False),
    "one kernel for all positions": (16, 7, 4, 4, (3, 3), (2, 2), (1, 1), True),
    "one kernel for all positions and a group": (6, 7, 8, 4, (5, 3), (1, 1), (1, 1), True),
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def data(case: tuple, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, kernels, and weights of a loss."""
    height, width, channels, groups, kernel_size, strides, _, shared = case
    rng, size = np.random.default_rng(0), (-(-height // strides[0]), -(-width // strides[1]))
    shapes = (
        (height, width, channels),
        (*((1, 1) if shared else size), math.prod(kernel_size) * groups),
        (*size, channels),
    )
    x, kernels, r = (rng.normal(size=(2, *shape)).astype(dtype) for shape in shapes)
    return x, kernels, r


def loop(x: np.ndarray, kernels: np.ndarray, size: tuple, strides: tuple, dilation: tuple) -> np.ndarray:
    """The definition, number by number."""
    batch, height, width, channels = x.shape
    out = np.zeros((batch, -(-height // strides[0]), -(-width // strides[1]), channels))
    groups = kernels.shape[-1] // math.prod(size)
    kernels = np.broadcast_to(kernels, (*out.shape[:3], kernels.shape[-1]))
    for (b, i, j, c), ky, kx in itertools.product(np.ndindex(out.shape), range(size[0]), range(size[1])):
        y, x0 = i * strides[0] + (ky - size[0] // 2) * dilation[0], j * strides[1] + (kx - size[1] // 2) * dilation[1]
        if 0 <= y < height and 0 <= x0 < width:
            out[b, i, j, c] += x[b, y, x0, c] * kernels[b, i, j, (ky * size[1] + kx) * groups + c * groups // channels]
    return out


def shifted_slices(x: Any, kernels: Any, size: tuple, strides: tuple, dilation: tuple) -> Any:
    """The same with Keras' operations, which differentiate themselves."""
    (height, width, channels), groups = x.shape[1:], kernels.shape[-1] // math.prod(size)
    pads = [step * (taps // 2) for taps, step in zip(size, dilation, strict=True)]
    padded, total = keras.ops.pad(x, ((0, 0), (pads[0], pads[0]), (pads[1], pads[1]), (0, 0))), 0
    for tap, (y, x0) in enumerate(
        itertools.product(*(range(0, 2 * p + 1, d) for p, d in zip(pads, dilation, strict=True)))
    ):
        weight = keras.ops.repeat(kernels[..., tap * groups : (tap + 1) * groups], channels // groups, axis=-1)
        total = total + padded[:, y : y + height : strides[0], x0 : x0 + width : strides[1]] * weight
    return total


class GivenKernels(keras.layers.Layer):
    """A function of an input and of kernels, which are its weights."""

    def __init__(self, function: Any, kernels: np.ndarray, *window: Any) -> None:
        super().__init__()
        self.function, self.window = function, window
        self.kernels = self.add_weight(kernels.shape, name="kernels")
        self.kernels.assign(kernels)

    def call(self, x: Any) -> Any:
        return self.function(x, keras.ops.convert_to_tensor(self.kernels), *self.window)

    def compute_output_shape(self, shape: tuple) -> tuple:
        strides = self.window[1]
        return (
            shape[0],
            *(size and -(-size // step) for size, step in zip(shape[1:3], strides, strict=True)),
            shape[3],
        )


def step(function: Any, case: tuple, sizes: tuple | None = None) -> list[np.ndarray]:
    """Output, gradient for the input and gradient for the kernels; `sizes` are what the model knows of the input."""
    x, kernels, r = data(case, keras.config.floatx())
    layer = GivenKernels(function, kernels, *case[4:7])
    result = reference.train_step(keras.Sequential([keras.Input(sizes or x.shape[1:]), layer]), x, r)
    return [result.logits, result.input_gradient, result.gradients[layer.kernels.path]]


@cases
def test_equals_the_loop(case: tuple) -> None:
    x, kernels, _ = data(case, "float32")
    out = keras.ops.convert_to_numpy(dynamic_filter(x, kernels, *case[4:7]))
    assert reference.distance(out, loop(x, kernels, *case[4:7])) < 1e-6


@pytest.mark.usefixtures("float64")
@cases
def test_gradients_equal_automatic_ones(case: tuple) -> None:
    for value, expected in zip(step(dynamic_filter, case), step(shifted_slices, case), strict=True):
        assert reference.distance(value, expected) < 1e-10


@on_tensorflow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "case", [CASES["groups"], CASES["one group, strides on an odd map"], CASES["strides on an even map"]]
)
def test_unknown_height_and_width(case: tuple) -> None:
    """Nothing is compiled by XLA then."""
    unknown, known = (step(dynamic_filter, case, (*sizes, case[2])) for sizes in ((None, None), case[:2]))
    for value, expected in zip(unknown, known, strict=True):
        assert reference.distance(value, expected) < 1e-14


EAGER_STEP = """
import resource, tensorflow as tf
from keras_resnets.dynamic_filter import dynamic_filter
x, kernels = tf.ones((8, 56, 56, 64)), tf.ones((8, 56, 56, 49 * 4))
def step(x, kernels):
    with tf.GradientTape() as tape:
        tape.watch([x, kernels])
        y = dynamic_filter(x, kernels, (7, 7))
    return tape.gradient(y, [x, kernels])
step(x[:, :7, :7], kernels[:, :7, :7])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(x, kernels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@on_tensorflow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is that of Linux")
def test_a_training_step_keeps_no_copies_of_the_input() -> None:
    """The tape alone would keep 49 products and 49 slices of 6.4 MB each. Half of what is allowed is XLA's compiler."""
    result = subprocess.run([sys.executable, "-c", EAGER_STEP], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 1024 * int(result.stdout) < 0.4 * 2 * 49 * (8 * 56 * 56 * 64 * 4)


@on_tensorflow
@pytest.mark.parametrize("strides", [1, 2])
def test_both_passes_store_no_copies_of_the_input(strides: int) -> None:
    """Of what XLA compiles, no array but padded inputs; naively there are 49 copies of the output."""
    import tensorflow as tf

    size = 16 // strides
    x, kernels, upstream = (tf.ones((2, *shape)) for shape in ((16, 16, 32), (size, size, 98), (size, size, 32)))
    window = _Window((7, 7), (strides, strides), (1, 1), 2, 32, False)
    padded = 2 * max(22 * 22 * 32, (size + 6) ** 2 * 98)
    for method, inputs in ((window.forward, (x, kernels)), (window.backward, (x, kernels, upstream))):
        compiled = tf.function(method, jit_compile=True, autograph=False)
        program = compiled.experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")
        arrays = re.findall(r"= f32\[([\d,]*)\]", program[program.index("\nENTRY") :])
        sizes = [math.prod(int(n) for n in array.split(",") if n) for array in arrays]
        assert len(sizes) > len(inputs)
        assert max(sizes) <= padded < 49 * 2 * size * size * 32
        assert sum(sizes) < 5 * padded


@pytest.mark.parametrize("dtype, digits", [("float16", 11), ("bfloat16", 8)])
def test_sums_of_16_bit_inputs_are_rounded_once(dtype: str, digits: int) -> None:
    case = (8, 8, 8, 2, (7, 7), (1, 1), (1, 1), False)
    x, kernels = (keras.ops.cast(array, dtype) for array in data(case)[:2])
    out = dynamic_filter(x, kernels, *case[4:7])
    exact = loop(
        *(keras.ops.convert_to_numpy(keras.ops.cast(a, "float32")).astype("float64") for a in (x, kernels)), *case[4:7]
    )
    assert keras.backend.standardize_dtype(out.dtype) == dtype
    out = keras.ops.convert_to_numpy(keras.ops.cast(out, "float32"))
    assert (np.abs(out - exact) <= 1.01 * 2.0**-digits * np.abs(exact) + 1e-5).all()


def test_kernels_that_do_not_fit() -> None:
    x = np.zeros((1, 6, 6, 8), "float32")
    for shape, size, message in (
        ((6, 6, 32), (4, 4), r"kernel_size must be odd, not \(4, 4\)"),
        ((6, 6, 20), (3, 3), r"kernels of 20 channels do not fit \(3, 3\) taps and x of 8 channels"),
        ((6, 6, 27), (3, 3), "kernels of 27 channels do not fit"),
        ((6, 3, 18), (3, 3), r"kernels must be for \(6, 6\) positions, or for \(1, 1\), not for \(6, 3\)"),
        ((1, 6, 18), (3, 3), r"not for \(1, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            dynamic_filter(x, np.zeros((1, *shape), "float32"), size)


def by_hand(layer: Involution, x: np.ndarray, size: int, strides: int, groups: int, dilation: int) -> np.ndarray:
    """The layer at inference in NumPy; its variables hold the kernels group by group, as the authors' code does."""
    weights = {v.path.removeprefix(f"{layer.path}/"): keras.ops.convert_to_numpy(v) for v in layer.variables}
    norm = {name: weights[f"reduce/norm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    rows, columns = (range(0, length, strides) for length in x.shape[1:3])
    features = np.stack([[x[:, i : i + strides, j : j + strides].mean((1, 2)) for j in columns] for i in rows])
    hidden = features.transpose(2, 0, 1, 3) @ weights["reduce/conv/kernel"][0, 0]
    hidden = (hidden - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + NORM["epsilon"])
    hidden = np.maximum(hidden * norm["gamma"] + norm["beta"], 0)
    kernels = hidden @ weights["span/kernel"][0, 0] + weights["span/bias"]
    by_tap = kernels.reshape(*kernels.shape[:3], groups, -1).swapaxes(3, 4).reshape(kernels.shape)
    return loop(x, by_tap, (size, size), (strides, strides), (dilation, dilation))


LAYERS = [
    ({"kernel_size": 5}, (4, 6, 32), 2),
    ({"kernel_size": 3, "strides": 2}, (8, 6, 32), 2),
    ({"kernel_size": 7, "strides": 2, "group_channels": 4, "reduction": 2}, (7, 5, 8), 2),
    ({"kernel_size": 3, "strides": 3, "groups": 1}, (7, 8, 12), 1),
    ({"kernel_size": 3, "groups": 6, "dilation": 2}, (7, 8, 12), 6),
    ({"kernel_size": 1, "group_channels": 1}, (2, 3, 4), 4),
]


@pytest.mark.parametrize(("arguments", "shape", "groups"), LAYERS)
def test_layer(arguments: dict[str, int], shape: tuple[int, ...], groups: int) -> None:
    layer = Involution(**arguments, norm=NORM)
    layer.build((None, None, None, shape[-1]))
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    x = rng.normal(size=(2, *shape)).astype("float32")
    out = keras.ops.convert_to_numpy(layer(x, training=False))
    assert out.shape == layer.compute_output_shape(x.shape)
    strides, dilation = arguments.get("strides", 1), arguments.get("dilation", 1)
    assert reference.distance(out, by_hand(layer, x, arguments["kernel_size"], strides, groups, dilation)) < 1e-5


ERRORS = [
    ({"kernel_size": 4}, "kernel_size must be odd, not 4"),
    ({"kernel_size": 0}, "kernel_size must be odd, not 0"),
    ({"kernel_size": 3, "groups": 0}, "groups must be at least 1, not 0"),
    ({"kernel_size": 3, "group_channels": 0}, "group_channels must be at least 1, not 0"),
    ({"kernel_size": 3, "strides": 0}, "strides must be at least 1, not 0"),
    (
        {"kernel_size": 3, "group_channels": 24},
        "group_channels must divide the input's channels: 32 do not divide by 24",
    ),
    ({"kernel_size": 3, "groups": 5}, "groups must divide the input's channels: 32 do not divide by 5"),
    ({"kernel_size": 3, "reduction": 64}, "reduction must be at most the input's 32 channels, not 64"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_bad_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Involution(**arguments, norm=NORM).build((None, 8, 8, 32))


@on_tensorflow
def test_exports_of_one_layer(tmp_path: pathlib.Path) -> None:
    """Four-dimensional builtin operators in one XNNPACK partition; 8-bit sums of 49 products stay close."""
    keras.utils.set_random_seed(0)
    layers = [Involution(7, 2, norm=NORM), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((16, 16, 32), name="image"), *layers])
    patches = np.random.default_rng(1).normal(size=(60, 4, 4, 32)).clip(0).astype("float32")
    images = patches.repeat(4, axis=1).repeat(4, axis=2)  # noise would be refused as calibration
    report = kr.export(model, tmp_path / "net.tflite", "tflite", batch_size=None)
    assert report.partitions == 1
    assert set(report.operators) == {"ADD", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED", "MEAN", "MUL", "PAD",
                                     "RESHAPE", "SPACE_TO_DEPTH", "SPLIT", "STRIDED_SLICE"}  # fmt: skip
    assert report.operators["MUL"] == 49 and report.operators["ADD"] == 48 and report.operators["CONV_2D"] == 2
    report = kr.export(
        model, tmp_path / "int8.tflite", "tflite", quantization="int8", calibration=images, min_agreement=0.8
    )
    assert report.operators["MUL"] == 49
    outputs, _ = run_artifact(tmp_path / "int8.tflite", images)
    assert np.corrcoef(outputs.ravel(), model.predict(images, verbose=0).ravel())[0, 1] > 0.98
