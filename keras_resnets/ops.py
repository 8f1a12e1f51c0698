"""The hot primitives: convolution, fused batch normalisation, pooling, padding.

Everything is channels-last. Padding is always given in pixels, as ``((top, bottom), (left, right))``, and means what it
means in PyTorch, Caffe and MXNet; the TensorFlow word "same" appears only where it is provably the same padding.

On the TensorFlow backend a grouped convolution runs as the native grouped op (oneDNN), hundreds of times faster on a CPU
than ``keras.ops.conv``, which wraps it in an XLA-compiled function. Where the native *gradient* does not exist (oneDNN off,
float16 or float64 on a CPU, XLA on a CPU) the convolution is cut into chunks of groups, each a dense convolution with a
block-diagonal kernel; a dilated convolution, which has no gradient there either, goes through TensorFlow's space-to-batch
form. With as many groups as channels it is the depthwise op, which has gradients everywhere and which the runtimes of
phones know best. The other backends use their own convolutions through ``keras.ops``.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_resnets import xla

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))

_BACKEND = keras.backend.backend()
if _BACKEND == "tensorflow":
    import tensorflow as tf

# A dense convolution below this many channels wastes the vector units: fewer, wider chunks are faster.
_MIN_CHUNK_CHANNELS = 16

_export_depth = 0


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """While active, grouped convolutions are traced as the single native op, whatever this machine could train with.

    Exported graphs are run by other runtimes (TF Serving, TFLite, ONNX Runtime), which all have the native grouped op;
    the chunked form would leave dozens of small convolutions in the file.
    """
    global _export_depth
    _export_depth += 1
    try:
        yield
    finally:
        _export_depth -= 1


def is_exporting() -> bool:
    """Whether `exporting` is active."""
    return _export_depth > 0


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """An int as ``(int, int)``; a pair unchanged."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def standardize_padding(
    padding: Any, kernel_size: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> Padding | Literal["same"]:
    """Any spelling of padding as `((top, bottom), (left, right))`, or "same", which depends on the input's size.

    Raises:
        ValueError: `padding` is not "valid", "same", "symmetric", an int, `(height, width)` or `((top, bottom), (left, right))`.
    """
    if padding == "same":
        return "same"
    if padding == "valid":
        return NO_PADDING
    if padding == "symmetric":
        (top, left) = (d * (k - 1) // 2 for k, d in zip(kernel_size, dilation, strict=True))
        return ((top, top), (left, left))
    if isinstance(padding, int) and padding >= 0:
        return ((padding, padding), (padding, padding))
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        if all(isinstance(p, int) and p >= 0 for p in padding):
            return ((padding[0], padding[0]), (padding[1], padding[1]))
        if all(isinstance(p, (tuple, list)) and len(p) == 2 and min(p) >= 0 for p in padding):
            return (tuple(padding[0]), tuple(padding[1]))
    raise ValueError(
        "padding must be 'valid', 'same', 'symmetric', a number of pixels, (height, width) or "
        f"((top, bottom), (left, right)), not {padding!r}"
    )


def window_output_shape(
    input_shape: Sequence[int | None],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding | Literal["same"],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int | None, int | None]:
    """Output height and width of a sliding window over `(batch, height, width, channels)`; None where unknown.

    Raises:
        ValueError: the window is larger than the padded input.
    """
    output: list[int | None] = []
    for axis in (0, 1):
        size = input_shape[1 + axis]
        if size is None:
            output.append(None)
        elif padding == "same":
            output.append(-(-size // strides[axis]))
        else:
            reach = dilation[axis] * (kernel_size[axis] - 1)
            length = (size + sum(padding[axis]) - reach - 1) // strides[axis] + 1
            if length < 1:
                raise ValueError(
                    f"input of shape {tuple(input_shape)} is too small: a window of {kernel_size} pixels "
                    f"(dilation {dilation}) does not fit into it with padding {padding}"
                )
            output.append(length)
    return (output[0], output[1])


def _same_pads(size: int | None, kernel: int, stride: int, dilation: int) -> Any:
    """What TensorFlow's "same" pads along an axis; None if that depends on an unknown size."""
    reach = dilation * (kernel - 1)
    if stride == 1:
        total = reach
    elif size is None:
        return None
    else:
        total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return (total // 2, total - total // 2)


def _pad_unless_same(x: Any, window: Any, strides: Any, dilation: Any, padding: Any, **pad: Any) -> tuple[Any, str]:
    """`x` ready for an op that knows "same" and "valid" only, and which of the two to use.

    "same" spares the padded copy wherever it is provably the padding asked for: stride 1 with an odd window, or
    stride 2 on an odd size.
    """
    if padding == NO_PADDING:
        return x, "valid"
    if padding == "same" or all(
        _same_pads(x.shape[1 + i], window[i], strides[i], dilation[i]) == padding[i] for i in (0, 1)
    ):
        return x, "same"
    return pad2d(x, padding, **pad), "valid"


def conv2d(
    x: Any,
    kernel: Any,
    strides: tuple[int, int] = (1, 1),
    padding: Any = NO_PADDING,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Any:
    """Two-dimensional convolution, dense or grouped, with explicit padding.

    Args:
        x: `(batch, height, width, channels)`.
        kernel: `(kernel_height, kernel_width, channels / groups, filters)`.
        strides: step along height and width.
        padding: pixels of zeros, `((top, bottom), (left, right))`; or TensorFlow's "same".
        dilation: spacing of the kernel's taps along height and width.
        groups: number of groups that channels and filters are cut into.

    Returns:
        `(batch, out_height, out_width, filters)`.
    """
    if max(strides) > 1 and max(dilation) > 1:
        # No backend of Keras takes both: the convolution runs at stride 1 and its output is subsampled.
        if padding == "same":
            if None in x.shape[1:3]:
                raise ValueError(
                    f"padding 'same' with strides {strides} and dilation {dilation} needs a known height and width"
                )
            padding = tuple(_same_pads(x.shape[1 + i], kernel.shape[i], strides[i], dilation[i]) for i in (0, 1))
        y = conv2d(pad2d(x, padding), kernel, (1, 1), NO_PADDING, dilation, groups)
        return y[:, :: strides[0], :: strides[1], :]
    x, mode = _pad_unless_same(x, kernel.shape[:2], strides, dilation, padding)
    if _BACKEND != "tensorflow":
        return ops.conv(x, kernel, strides, mode, "channels_last", dilation)
    grouped, dilated = groups > 1, max(dilation) > 1
    if grouped and groups == x.shape[-1] and _depthwise_works(strides, dilated):
        kernel = tf.reshape(kernel, (*kernel.shape[:2], groups, -1))
        return tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), mode.upper())
    if not (grouped or dilated) or _native_conv_works(x, grouped, dilated):
        return tf.nn.conv2d(x, kernel, strides, mode.upper(), dilations=dilation)
    if grouped:
        return _chunked_conv2d(x, kernel, strides, mode, dilation, groups)
    return tf.nn.convolution(x, kernel, strides, mode.upper(), dilations=dilation)  # through space-to-batch


def _depthwise_works(strides: tuple[int, int], dilated: bool) -> bool:
    """Whether the depthwise op can be used; under XLA on a CPU it is slower than chunks."""
    fast = is_exporting() or xla_has_fast_groups() or not xla.compiles_here()
    return fast and strides[0] == strides[1] and not dilated


def _native_conv_works(x: Any, grouped: bool, dilated: bool) -> bool:
    """Whether the native convolution can be used (and differentiated, unless exporting) where `x` will be computed."""
    if is_exporting() or xla_has_fast_groups():
        return True
    if xla.compiles_here():
        return not grouped  # grouped under XLA on a CPU: correct but several hundred times slower
    return _native_gradient_works(x.dtype.name, grouped, dilated)


@functools.cache
def _native_gradient_works(dtype: str, grouped: bool, dilated: bool) -> bool:
    """Tries the gradient once: it exists for float32 and bfloat16 on x86-64 Linux with oneDNN on, and may elsewhere."""
    with tf.init_scope():  # which also stops gradient tapes, so the two gradient ops are called by hand
        x, kernel = tf.ones((1, 8, 8, 32), dtype), tf.ones((3, 3, 4 if grouped else 32, 32), dtype)
        dilations = [1, 2, 2, 1] if dilated else [1, 1, 1, 1]
        window = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": dilations, "out_backprop": x}
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=x.shape, filter=kernel, **window)
            tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=kernel.shape, **window)
        except tf.errors.OpError:
            return False
    return True


def _chunked_conv2d(x: Any, kernel: Any, strides: Any, mode: str, dilation: Any, groups: int) -> Any:
    """Grouped convolution as a few dense ones: `chunks` of `groups / chunks` groups with block-diagonal kernels."""
    channels = x.shape[-1] // groups
    filters = kernel.shape[-1] // groups
    per_chunk = next(
        d for d in range(1, groups + 1) if groups % d == 0 and (d * channels >= _MIN_CHUNK_CHANNELS or d == groups)
    )
    chunks = groups // per_chunk
    height, width = kernel.shape[:2]
    blocks = tf.reshape(kernel, (height, width, channels, chunks, per_chunk, filters))
    # Row g of the identity places group g's filters among the chunk's columns; everything else of the kernel is zero.
    blocks = tf.einsum("hwcnpf,pq->nhwpcqf", blocks, tf.eye(per_chunk, dtype=kernel.dtype))
    blocks = tf.reshape(blocks, (chunks, height, width, per_chunk * channels, per_chunk * filters))
    parts = [
        conv2d(part, block, strides, NO_PADDING if mode == "valid" else "same", dilation)
        for part, block in zip(tf.split(x, chunks, axis=-1), tf.unstack(blocks), strict=True)
    ]
    return tf.concat(parts, axis=-1)


def pad2d(x: Any, padding: Any, mode: str = "constant") -> Any:
    """Pads height and width by `((top, bottom), (left, right))` pixels; `mode` as in `keras.ops.pad`."""
    return x if padding == NO_PADDING else ops.pad(x, ((0, 0), *padding, (0, 0)), mode)


def max_pool2d(
    x: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = NO_PADDING,
    pad_mode: str = "symmetric",
) -> Any:
    """Max pooling whose padding never wins.

    Padding by at most half the window with a mirror image of the border is the same as padding with minus infinity: every
    window that reaches the mirror image holds the original as well. Unlike minus infinity it can be quantised to 8 bits.
    With `pad_mode` "constant" the padding is zeros: for inputs that are at least 0.
    """
    half = [size // 2 for size in pool_size]
    while pad_mode == "symmetric" and any(max(pads) > limit for pads, limit in zip(padding, half, strict=True)):
        # More than half a window, as under ceil mode: the border is repeated first, a mirror image of one pixel at a time.
        (top, bottom), (left, right) = [
            [int(pad > limit) for pad in pads] for pads, limit in zip(padding, half, strict=True)
        ]
        x = pad2d(x, ((top, bottom), (left, right)), "symmetric")
        padding = ((padding[0][0] - top, padding[0][1] - bottom), (padding[1][0] - left, padding[1][1] - right))
    x, mode = _pad_unless_same(x, pool_size, strides, (1, 1), padding, mode=pad_mode)
    return ops.max_pool(x, pool_size, strides, mode, "channels_last")


def avg_pool2d(
    x: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = NO_PADDING,
    count_include_pad: bool = True,
) -> Any:
    """Average pooling; padded zeros are counted in the divisor or not, as `count_include_pad` says."""
    if not count_include_pad and _BACKEND != "torch":  # there, unlike elsewhere, "same" counts the zeros
        unpadded, mode = _pad_unless_same(x, pool_size, strides, (1, 1), padding)
        if mode == "same":
            return ops.average_pool(unpadded, pool_size, strides, "same", "channels_last")
    pooled = ops.average_pool(pad2d(x, padding), pool_size, strides, "valid", "channels_last")
    if padding == NO_PADDING or count_include_pad:
        return pooled
    ones = pad2d(ops.ones_like(x[:1, :, :, :1]), padding)
    return pooled / ops.average_pool(ones, pool_size, strides, "valid", "channels_last")


def xla_has_fast_groups() -> bool:
    """Whether a grouped convolution compiled by XLA is worth having: not on TensorFlow without an accelerator."""
    return _BACKEND != "tensorflow" or xla.has_accelerator()


def has_fused_batch_norm(x: Any) -> bool:
    """Whether `fused_batch_norm` exists for `x`: TensorFlow, four dimensions, a float of at most 32 bits."""
    return _BACKEND == "tensorflow" and len(x.shape) == 4 and x.dtype.name in ("float32", "bfloat16", "float16")


def fused_batch_norm(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, training: bool) -> Any:
    """TensorFlow's fused batch normalisation: `(y, batch mean, unbiased batch variance)`; float32 statistics throughout."""
    result = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=training
    )
    return result.y, result.batch_mean, result.batch_variance


def replicas_in_sync() -> int:
    """How many replicas of a TensorFlow distribution strategy compute this step together (1 without one)."""
    return tf.distribute.get_strategy().num_replicas_in_sync if _BACKEND == "tensorflow" else 1


def replica() -> Any:
    """Number of the replica that this step is computed for, below `replicas_in_sync()`; an int or a scalar tensor."""
    context = tf.distribute.get_replica_context() if _BACKEND == "tensorflow" else None
    return 0 if context is None else context.replica_id_in_sync_group
