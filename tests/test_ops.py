"""The hot primitives against NumPy: every path that a convolution can take, with gradients."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnets import ops
from keras_resnets.layers import BatchNorm, Conv2D, MaxPool2D
from keras_resnets.padding import NO_PADDING, standardize_padding, window_output_shape

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="these are paths of the TensorFlow backend"
)
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

SHAPE, FILTERS = (2, 9, 10, 32), 64
ONE = ((1, 1), (1, 1))
# kernel size, strides, padding, dilation, groups
POINTWISE = ((1, 1), (1, 1), NO_PADDING, (1, 1), 1)
CASES = [
    ((3, 3), (1, 1), ONE, (1, 1), 1),
    ((3, 3), (1, 1), ONE, (1, 1), 4),
    ((3, 3), (2, 2), ONE, (1, 1), 8),
    ((3, 3), (2, 1), ((0, 1), (2, 1)), (1, 1), 2),
    ((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    ((3, 3), (1, 1), ((2, 2), (1, 1)), (2, 1), 16),
    ((3, 3), (2, 2), ((2, 2), (2, 2)), (2, 2), 8),
    ((3, 3), (2, 1), ((4, 1), (2, 2)), (4, 2), 4),
    ((3, 3), (2, 2), ((3, 2), (3, 3)), (3, 3), 1),
    POINTWISE,
    ((1, 1), (2, 2), NO_PADDING, (1, 1), 32),
    ((3, 3), (1, 1), ONE, (1, 1), 32),
    ((3, 3), (2, 2), ONE, (1, 1), 32),
    ((3, 3), (2, 1), ONE, (1, 1), 32),
    ((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 32),
    ((5, 3), (1, 1), NO_PADDING, (1, 1), 4),
]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}


def numpy_conv2d(
    x: Any, kernel: Any, r: Any, strides: Any, padding: Any, dilation: Any, groups: int
) -> tuple[Any, Any, Any]:
    """The convolution tap by tap, and the gradients of `sum(y * r)` for `x` and `kernel` (none for `r` None)."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns, inputs, _ = kernel.shape
    height, width = (
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(padded.shape[1:3], kernel.shape, strides, dilation, strict=False)
    )
    grouped = np.stack(np.split(kernel, groups, axis=-1))  # (groups, rows, columns, inputs, filters / groups)
    y, grad_padded, grad_kernel = 0, np.zeros_like(padded), np.zeros_like(grouped)
    for i in range(rows):
        for j in range(columns):
            window = (slice(None), *(
                slice(d * tap, d * tap + s * (size - 1) + 1, s)
                for d, tap, s, size in zip(dilation, (i, j), strides, (height, width), strict=True)
            ))  # fmt: skip
            patch = padded[window].reshape(-1, height, width, groups, inputs)
            y = y + np.einsum("bhwgi,gio->bhwgo", patch, grouped[:, i, j])
            if r is not None:
                upstream = r.reshape(-1, height, width, groups, r.shape[-1] // groups)
                grad_kernel[:, i, j] = np.einsum("bhwgi,bhwgo->gio", patch, upstream)
                grad_padded[window] += np.einsum("bhwgo,gio->bhwgi", upstream, grouped[:, i, j]).reshape(
                    -1, height, width, x.shape[-1]
                )
    y = y.reshape(-1, height, width, kernel.shape[-1])
    (top, bottom), (left, right) = padding
    grad_x = grad_padded[:, top : padded.shape[1] - bottom, left : padded.shape[2] - right]
    return y, grad_x, np.concatenate(list(grad_kernel), axis=-1)


def close(value: Any, expected: np.ndarray, dtype: str) -> bool:
    difference = np.abs(tf.cast(value, "float64").numpy() - expected).max()
    return bool(difference <= TOLERANCE[dtype] * np.abs(expected).max())


def check(case: Any, dtype: str, jit: bool = False, training: bool = True) -> None:
    size, strides, padding, dilation, groups = case
    random = np.random.default_rng(0)
    x = tf.cast(random.normal(size=SHAPE), dtype)
    kernel = tf.cast(random.normal(size=(*size, SHAPE[-1] // groups, FILTERS)), dtype)
    exact = [tf.cast(tensor, "float64").numpy() for tensor in (x, kernel)]
    y, _, _ = numpy_conv2d(*exact, None, strides, padding, dilation, groups)
    r = random.choice([-1.0, 1.0], size=y.shape)  # exact in every precision
    expected = numpy_conv2d(*exact, r, strides, padding, dilation, groups)

    @tf.function(jit_compile=jit)
    def step(x: Any, kernel: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = ops.conv2d(x, kernel, strides, padding, dilation, groups, training)
            loss = tf.reduce_sum(y * tf.cast(r, dtype))
        return y, *tape.gradient(loss, [x, kernel])

    for value, reference in zip(step(x, kernel), expected, strict=True):
        assert value.dtype == dtype
        assert close(value, reference, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_conv2d(case: Any, dtype: str) -> None:
    check(case, dtype)


def test_conv2d_can_be_differentiated_outside_training() -> None:
    check(POINTWISE, "float32", training=False)


@pytest.mark.parametrize("size", [(9, 10), (10, 9)])
def test_max_pool(size: tuple[int, int]) -> None:
    """Zeros around maps that are at least 0, in training and out of it, against windows one by one."""
    random = np.random.default_rng(0)
    x = random.permutation(np.arange(1.0, 2 * size[0] * size[1] * 3 + 1)).reshape(2, *size, 3).astype("float32")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = ((length - 1) // 2 + 1 for length in size)
    expected, expected_gradient = np.zeros((2, rows, columns, 3)), np.zeros_like(padded)
    upstream = random.normal(size=expected.shape).astype("float32")
    for n, i, j, c in np.ndindex(*expected.shape):
        window = padded[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        expected[n, i, j, c] = window.max()
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected_gradient[n, 2 * i + row, 2 * j + column, c] += upstream[n, i, j, c]
    for training in (False, True):
        with tf.GradientTape() as tape:
            maps = tf.constant(x)
            tape.watch(maps)
            y = ops.max_pool2d(maps, (3, 3), (2, 2), ONE, "constant", training)
            loss = tf.reduce_sum(y * upstream)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_allclose(tape.gradient(loss, maps), expected_gradient[:, 1:-1, 1:-1], atol=1e-6)


def test_gradient_of_a_stride_beyond_the_map() -> None:
    """oneDNN's bfloat16 kernels leave parts of this gradient as memory happened to be."""
    rng = np.random.default_rng(0)
    x, upstream, kernel = (rng.normal(size=shape) for shape in ((8, 1, 1, 64), (8, 1, 1, 64), (3, 3, 64, 64)))

    def gradient(dtype: str) -> Any:
        variable = tf.Variable(kernel, dtype=dtype)
        with tf.GradientTape() as tape:
            y = ops.conv2d(tf.cast(x, dtype), variable, (2, 2), ((1, 1), (1, 1)), training=True)
        return tf.cast(tape.gradient(y, variable, tf.cast(upstream, dtype)), "float32")

    expected = gradient("float32")
    for divisor in (1, 2, 4) * 8:
        tf.fill((kernel.size // divisor,), np.nan)  # freed at once: what the next tensor of this size finds in memory
        np.testing.assert_allclose(gradient("bfloat16"), expected, atol=0.3)


@pytest.mark.parametrize("layer", [Conv2D(8, 3, 2, "symmetric"), MaxPool2D(3, 2, 1, nonnegative=True)])
def test_padded_copies_are_not_kept(layer: Any) -> None:
    """The backward pass takes a copy that is made for it: one that waits for the gradient."""
    layer.build((None, 8, 8, 4))

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_variables)])

    operations = step.get_concrete_function(tf.TensorSpec((2, 8, 8, 4))).graph.get_operations()
    backward = {"Conv2DBackpropFilter", "MaxPoolGrad"}
    (copy,) = {tensor.op for operation in operations if operation.type in backward for tensor in operation.inputs
               if tensor.op.type == "Pad"}  # fmt: skip
    assert copy.inputs[0].op.type == "Identity" and copy.inputs[0].op.control_inputs


@pytest.mark.parametrize("training", [False, True])
def test_layers_predict_with_the_convolution_alone(training: bool) -> None:
    """In training a 1x1 convolution has a gradient of its own, which graph optimisers cannot see through."""
    layer = Conv2D(8, 1)
    layer.build((None, 4, 4, 8))
    graph = tf.function(lambda x: layer(x, training=training)).get_concrete_function(tf.TensorSpec((2, 4, 4, 8))).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "Conv2D" in kinds and ("IdentityN" in kinds) == training


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_conv2d_without_native_gradients(case: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_native_conv_works", lambda *arguments: False)
    check(case, dtype)


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[5], CASES[8]])
def test_conv2d_under_xla(case: Any) -> None:
    check(case, "float32", jit=True)


def test_conv2d_without_onednn() -> None:
    """As other processors and operating systems run TensorFlow: no native gradient for groups, nor for dilation."""
    # There TensorFlow's own 1x1 convolution adds up its products in bfloat16.
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += ["--deselect", f"tests/test_ops.py::test_conv2d[case{CASES.index(POINTWISE)}-bfloat16]"]
    program = (
        "import sys, pytest; from keras_resnets import ops; "
        "assert not ops._native_gradient_works('float32', grouped=True, dilated=False); "
        "assert not ops._native_gradient_works('float32', grouped=False, dilated=True); "
        f"sys.exit(pytest.main({[*options, __file__ + '::test_conv2d']!r}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(CASES) * len(TOLERANCE) - 1} passed" in run.stdout


def graph_ops(function: Any) -> list[str]:
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec((None, 8, 8, 32)))
    return [operation.type for operation in concrete.graph.get_operations()]


def test_exporting_gives_the_native_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even on a machine that cannot train with it."""
    monkeypatch.setattr(ops, "_native_gradient_works", lambda *arguments: False)
    kernel = tf.ones((3, 3, 2, 32))

    def convolution(x: Any) -> Any:
        return ops.conv2d(x, kernel, (1, 1), ONE, groups=16)

    with ops.exporting():
        assert graph_ops(convolution).count("Conv2D") == 1
    assert graph_ops(convolution).count("Conv2D") == 2  # 16 channels per chunk


def test_as_many_groups_as_channels_are_the_depthwise_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the grouped op cannot be trained, too, and whatever the number of filters; but not under XLA on a CPU."""
    monkeypatch.setattr(ops, "_native_gradient_works", lambda *arguments: False)

    def convolution(x: Any) -> Any:
        return ops.conv2d(x, tf.ones((3, 3, 1, 64)), (2, 2), ONE, groups=32)

    kinds = graph_ops(convolution)
    assert kinds.count("DepthwiseConv2dNative") == 1 and "Conv2D" not in kinds
    monkeypatch.setattr(ops.xla, "compiles_here", lambda: True)
    monkeypatch.setattr(ops.xla, "has_accelerator", lambda: False)
    assert "DepthwiseConv2dNative" not in graph_ops(convolution)
    with ops.exporting():
        assert "DepthwiseConv2dNative" in graph_ops(convolution)


@pytest.mark.parametrize(
    "spelling, expected",
    [
        ("valid", ((0, 0), (0, 0))),
        ("same", "same"),
        ("symmetric", ((2, 2), (3, 3))),
        (2, ((2, 2), (2, 2))),
        ((1, 3), ((1, 1), (3, 3))),
        ([[0, 1], [2, 3]], ((0, 1), (2, 3))),
    ],
)
def test_padding_spellings(spelling: Any, expected: Any) -> None:
    assert standardize_padding(spelling, (5, 3), (1, 3)) == expected


@pytest.mark.parametrize("spelling", ["full", -1, (1, -1), ((1, 2), 3), 1.5, None, (1, 2, 3), ((0, -1), (0, 0))])
def test_padding_errors(spelling: Any) -> None:
    with pytest.raises(ValueError, match="padding must be 'valid', 'same', 'symmetric'"):
        standardize_padding(spelling, (3, 3))


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_same_is_used_only_where_it_is_the_padding_asked_for(size: int, stride: int, window: int) -> None:
    """Against TensorFlow itself: the shortcut through "SAME" never changes a value."""
    x = tf.random.normal((1, size, size, 1))
    kernel = tf.random.normal((window, window, 1, 1))
    for pad in range(window):
        padded = tf.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if padded.shape[1] >= window:
            expected = tf.nn.conv2d(padded, kernel, stride, "VALID")
            np.testing.assert_allclose(ops.conv2d(x, kernel, (stride,) * 2, ((pad, pad),) * 2), expected, atol=1e-5)


def test_same_with_strides_and_dilation_needs_a_size() -> None:
    def convolution(x: Any) -> Any:
        return ops.conv2d(x, tf.ones((3, 3, 32, 8)), (2, 2), "same", (2, 2))

    assert graph_ops(convolution).count("Conv2D") == 1
    with pytest.raises(ValueError, match="needs a known height and width"):
        tf.function(convolution).get_concrete_function(tf.TensorSpec((None, None, 8, 32)))


def test_window_output_shape() -> None:
    shape = (None, 7, None, 3)
    assert window_output_shape(shape, (3, 3), (2, 2), ONE) == (4, None)
    assert window_output_shape(shape, (3, 3), (2, 2), "same") == (4, None)
    assert window_output_shape(shape, (3, 3), (1, 1), NO_PADDING, (2, 2)) == (3, None)
    with pytest.raises(ValueError, match=r"input of shape \(None, 2, 9, 3\) is too small"):
        window_output_shape((None, 2, 9, 3), (3, 3), (1, 1), NO_PADDING)


def test_xla_is_refused_for_grouped_convolutions_without_an_accelerator() -> None:
    """What Keras asks a model's layers under `jit_compile="auto"`; XLA would be several hundred times slower."""
    accelerator = bool(tf.config.list_physical_devices("GPU"))
    assert Conv2D(32, 3, groups=4).supports_jit == accelerator
    assert Conv2D(32, 3).supports_jit


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("jit", [False, True])
def test_fused_batch_norm(jit: bool, momentum: float, biased: bool) -> None:
    """The graph, compiled or not: biased variance for the output, unbiased for the moving variance unless asked for."""
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 6)).astype("float32")
    norm = BatchNorm(epsilon=1e-5, momentum=momentum, biased_variance=biased)
    norm.build(x.shape)
    train = tf.function(lambda x: norm(x, training=True), jit_compile=jit)
    mean, variance = np.zeros(6), np.ones(6)
    for batch in (x, 2 * x + 1):
        y = train(batch)
        scale = np.sqrt(batch.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(y, (batch - batch.mean((0, 1, 2))) / scale, atol=1e-5)
        mean = momentum * mean + (1 - momentum) * batch.mean((0, 1, 2))
        variance = momentum * variance + (1 - momentum) * batch.var((0, 1, 2), ddof=0 if biased else 1)
    np.testing.assert_allclose(norm.moving_mean, mean, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=2e-6)
