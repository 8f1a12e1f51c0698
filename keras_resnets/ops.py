"""The hot primitives: convolution, fused batch normalisation, pooling.

Everything is channels-last. Padding is always given in pixels, as ``((top, bottom), (left, right))``, and means what it
means in PyTorch, Caffe and MXNet; the TensorFlow word "same" appears only where it is provably the same padding.

On the TensorFlow backend a grouped convolution runs as the native grouped op (oneDNN), hundreds of times faster on a CPU
than ``keras.ops.conv``, which wraps it in an XLA-compiled function. Where the native *gradient* does not exist (oneDNN off,
float16 or float64 on a CPU, XLA on a CPU) the convolution is cut into chunks of groups, each a dense convolution with a
block-diagonal kernel; a dilated convolution, which has no gradient there either, goes through TensorFlow's space-to-batch
form. With as many groups as channels it is the depthwise op, which has gradients everywhere and which the runtimes of
phones know best. The other backends use their own convolutions through ``keras.ops``.
"""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnets import lowering, xla
from keras_resnets.lowering import exporting as exporting
from keras_resnets.lowering import is_exporting as is_exporting
from keras_resnets.padding import NO_PADDING, Padding, pad2d, pad_unless_same, read_padding, same_pads

_BACKEND = keras.backend.backend()
if _BACKEND == "tensorflow":
    import tensorflow as tf

    from keras_resnets import cpu_gradients

# A dense convolution below this many channels wastes the vector units: fewer, wider chunks are faster.
_MIN_CHUNK_CHANNELS = 16


def conv2d(
    x: Any,
    kernel: Any,
    strides: tuple[int, int] = (1, 1),
    padding: Any = NO_PADDING,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    training: bool = False,
) -> Any:
    """Two-dimensional convolution, dense or grouped, with explicit padding.

    Args:
        x: `(batch, height, width, channels)`.
        kernel: `(kernel_height, kernel_width, channels / groups, filters)`.
        strides: step along height and width.
        padding: pixels of zeros, `((top, bottom), (left, right))`; or TensorFlow's "same".
        dilation: spacing of the kernel's taps along height and width.
        groups: number of groups that channels and filters are cut into.
        training: whether it is going to be differentiated. It always can be; some gradients are faster if this is known.

    Returns:
        `(batch, out_height, out_width, filters)`.
    """
    if max(strides) > 1 and max(dilation) > 1 and not is_exporting():
        return _subsampled_conv2d(x, kernel, strides, padding, dilation, groups)
    if _BACKEND == "tensorflow":
        return _tensorflow_conv2d(x, kernel, strides, padding, dilation, groups, training)
    x, mode = pad_unless_same(x, kernel.shape[:2], strides, dilation, padding)
    return ops.conv(x, kernel, strides, mode, "channels_last", dilation)


def _subsampled_conv2d(x: Any, kernel: Any, strides: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Strides and dilation together, which no backend of Keras takes: the input is subsampled, or the output at stride 1."""
    if padding == "same":
        if None in x.shape[1:3]:
            raise ValueError(
                f"padding 'same' with strides {strides} and dilation {dilation} needs a known height and width"
            )
        padding = tuple(same_pads(x.shape[1 + i], kernel.shape[i], strides[i], dilation[i]) for i in (0, 1))
    x = pad2d(x, padding)
    # Where the dilation is a multiple of the stride, all taps of all windows read one subsampled grid.
    if all(d % s == 0 for d, s in zip(dilation, strides, strict=True)):
        dilation = (dilation[0] // strides[0], dilation[1] // strides[1])
        return conv2d(lowering.subsample(x, strides), kernel, (1, 1), NO_PADDING, dilation, groups)
    return lowering.subsample(conv2d(x, kernel, (1, 1), NO_PADDING, dilation, groups), strides)


def _tensorflow_conv2d(
    x: Any, kernel: Any, strides: Any, padding: Any, dilation: Any, groups: int, training: bool
) -> Any:
    """The operator that is fastest where `x` will be computed, of those that have the gradients."""
    unpadded = x
    x, mode = pad_unless_same(x, kernel.shape[:2], strides, dilation, padding)
    grouped, dilated = groups > 1, max(dilation) > 1
    if grouped and groups == x.shape[-1] and _depthwise_works(strides, dilated):
        kernel = tf.reshape(kernel, (*kernel.shape[:2], groups, -1))
        return tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), mode.upper())
    if mode == "same":
        # A stride beyond the map's size moves nothing, but in bfloat16 oneDNN then leaves parts of the kernel's gradient unset.
        strides = (min(strides[0], x.shape[1] or strides[0]), min(strides[1], x.shape[2] or strides[1]))
    if grouped and is_exporting("int8"):
        kernel = _joined_groups(kernel, groups)
    if training and _trains_on_cpu(x):
        if tuple(kernel.shape[:2]) == strides == (1, 1) and not grouped:
            return cpu_gradients.pointwise_conv2d(x, tf.convert_to_tensor(kernel))
        if x is not unpadded and _native_conv_works(x, grouped, dilated):
            return cpu_gradients.padded_conv2d(unpadded, tf.convert_to_tensor(kernel), strides, padding, dilation)
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
    """Grouped convolution as a few dense ones: chunks of groups with block-diagonal kernels."""
    blocks = _block_diagonal(kernel, groups)
    parts = [
        conv2d(part, block, strides, NO_PADDING if mode == "valid" else "same", dilation)
        for part, block in zip(tf.split(x, blocks.shape[0], axis=-1), tf.unstack(blocks), strict=True)
    ]
    return tf.concat(parts, axis=-1)


def _joined_groups(kernel: Any, groups: int) -> Any:
    """The kernel of the same convolution with fewer, wider groups, a constant.

    XNNPACK computes 16 or more filters of a group at a time, in 8 bits: narrow groups cost it the same one by one.
    """
    with tf.init_scope():  # the converter does not compute with weights
        blocks = _block_diagonal(tf.convert_to_tensor(kernel), groups).numpy()
    return tf.constant(np.concatenate(blocks, axis=-1))


def _block_diagonal(kernel: Any, groups: int) -> Any:
    """Kernels of chunks of groups, `(chunks, height, width, channels of a chunk, filters of a chunk)`."""
    height, width, channels = kernel.shape[:3]
    filters = kernel.shape[-1] // groups
    per_chunk = next(
        d for d in range(1, groups + 1) if groups % d == 0 and (d * channels >= _MIN_CHUNK_CHANNELS or d == groups)
    )
    chunks = groups // per_chunk
    blocks = tf.reshape(kernel, (height, width, channels, chunks, per_chunk, filters))
    # Row g of the identity places group g's filters among the chunk's columns; everything else of the kernel is zero.
    blocks = tf.einsum("hwcnpf,pq->nhwpcqf", blocks, tf.eye(per_chunk, dtype=kernel.dtype))
    return tf.reshape(blocks, (chunks, height, width, per_chunk * channels, per_chunk * filters))


def max_pool2d(
    x: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = NO_PADDING,
    pad_mode: str = "symmetric",
    training: bool = False,
) -> Any:
    """Max pooling whose padding never wins.

    Padding by at most half the window with a mirror image of the border is the same as padding with minus infinity: every
    window that reaches the mirror image holds the original as well. Unlike minus infinity it can be quantised to 8 bits.
    With `pad_mode` "constant" the padding is zeros: for inputs that are at least 0. `training` as in `conv2d`.
    """
    if pool_size == (1, 1) and padding == NO_PADDING and is_exporting():
        return lowering.subsample(x, strides)
    if is_exporting("onnx"):
        x = ops.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-math.inf)  # which pools there do by themselves
        return ops.max_pool(x, pool_size, strides, "valid", "channels_last")
    half = [size // 2 for size in pool_size]
    while pad_mode == "symmetric" and any(max(pads) > limit for pads, limit in zip(padding, half, strict=True)):
        # More than half a window, as under ceil mode: the border is repeated first, a mirror image of one pixel at a time.
        (top, bottom), (left, right) = [
            [int(pad > limit) for pad in pads] for pads, limit in zip(padding, half, strict=True)
        ]
        x = pad2d(x, ((top, bottom), (left, right)), "symmetric")
        padding = ((padding[0][0] - top, padding[0][1] - bottom), (padding[1][0] - left, padding[1][1] - right))
    if is_exporting():
        padding = read_padding(x.shape, pool_size, strides, padding)
    unpadded = x
    x, mode = pad_unless_same(x, pool_size, strides, (1, 1), padding, mode=pad_mode)
    if x is not unpadded and pad_mode == "constant" and training and _trains_on_cpu(x):
        return cpu_gradients.padded_max_pool2d(unpadded, pool_size, strides, padding)
    return ops.max_pool(x, pool_size, strides, mode, "channels_last")


def avg_pool2d(
    x: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = NO_PADDING,
    count_include_pad: bool = True,
) -> Any:
    """Average pooling; padded zeros are counted in the divisor or not, as `count_include_pad` says."""
    counted = count_include_pad or padding == NO_PADDING
    if is_exporting("xnnpack") and strides[0] == strides[1] and None not in x.shape[1:3]:
        unpadded, mode = pad_unless_same(x, pool_size, strides, (1, 1), padding)
        averages = lowering.average(unpadded, pool_size, strides, mode)
        return averages if counted else averages * _correction(x, pool_size, strides, padding)
    if not counted and _BACKEND != "torch":  # there, unlike elsewhere, "same" counts the zeros
        unpadded, mode = pad_unless_same(x, pool_size, strides, (1, 1), padding)
        if mode == "same":
            return ops.average_pool(unpadded, pool_size, strides, "same", "channels_last")
    pooled = ops.average_pool(pad2d(x, padding), pool_size, strides, "valid", "channels_last")
    if counted:
        return pooled
    return pooled * _correction(x, pool_size, strides, padding)


def _correction(x: Any, pool_size: Any, strides: Any, padding: Padding) -> Any:
    """What averages that count zeros have to be multiplied by, `(1, height, width, 1)`."""
    if None in x.shape[1:3]:
        ones = pad2d(ops.ones_like(x[:1, :, :, :1]), padding)
        return 1 / ops.average_pool(ones, pool_size, strides, "valid", "channels_last")
    rows, columns = (
        window / np.convolve(np.pad(np.ones(size), pads), np.ones(window), "valid")[::stride]
        for size, pads, window, stride in zip(x.shape[1:3], padding, pool_size, strides, strict=True)
    )
    return ops.convert_to_tensor(np.outer(rows, columns)[None, :, :, None], dtype=x.dtype)


def xla_has_fast_groups() -> bool:
    """Whether a grouped convolution compiled by XLA is worth having: not on TensorFlow without an accelerator."""
    return _BACKEND != "tensorflow" or xla.has_accelerator()


def has_fast_depthwise(x: Any) -> bool:
    """Whether a depthwise convolution of `x` is fast: TensorFlow in float32, not compiled by XLA."""
    return _BACKEND == "tensorflow" and x.dtype.name == "float32" and not xla.compiles_here()


def _trains_on_cpu(x: Any) -> bool:
    """Whether what is faster or smaller in training on a CPU, and may be unknown elsewhere, is used for `x`."""
    return not is_exporting() and has_fast_depthwise(x) and not xla.has_accelerator()


def has_fused_batch_norm(x: Any) -> bool:
    """Whether `fused_batch_norm` exists for `x`: TensorFlow, four dimensions, a float of at most 32 bits."""
    return _BACKEND == "tensorflow" and len(x.shape) == 4 and x.dtype.name in ("float32", "bfloat16", "float16")


def fused_batch_norm(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, training: bool,
                     momentum: float = 0.0) -> Any:  # fmt: skip
    """TensorFlow's fused batch normalisation: `(y, mean, variance)`, float32 statistics throughout.

    In training `y` is normalised by the batch's own statistics. `mean` and unbiased `variance` are theirs, averaged with the given
    ones where those have a weight, `momentum`.
    """
    result = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=training,
        exponential_avg_factor=1.0 - momentum,
    )  # fmt: skip
    return result.y, result.batch_mean, result.batch_variance


def resource(variable: Any) -> Any:
    """What TensorFlow's operators that update a variable in place take of it, of Keras' variables and of TensorFlow's own."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def replicas_in_sync() -> int:
    """How many replicas of a TensorFlow distribution strategy compute this step together (1 without one)."""
    return tf.distribute.get_strategy().num_replicas_in_sync if _BACKEND == "tensorflow" else 1


def replica() -> Any:
    """Number of the replica that this step is computed for, below `replicas_in_sync()`; an int or a scalar tensor."""
    context = tf.distribute.get_replica_context() if _BACKEND == "tensorflow" else None
    return 0 if context is None else context.replica_id_in_sync_group
