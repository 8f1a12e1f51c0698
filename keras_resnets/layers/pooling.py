"""Pooling with the reference's padding: every pixel at the border is stated, none is left to the framework."""

from typing import Any

import keras
import numpy as np
from keras import ops as kops

from keras_resnets import ops
from keras_resnets.layers.base import Shape, register_layer
from keras_resnets.padding import Padding, pad2d, pair, read_padding, window_output_shape


class _Pool2D(keras.layers.Layer):
    def __init__(self, pool_size: int | tuple[int, int], strides: int | tuple[int, int] | None = None,
                 padding: int | tuple[int, int] = 0, ceil_mode: bool = False, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.pool_size = pair(pool_size)
        self.strides = self.pool_size if strides is None else pair(strides)
        self.padding, self.ceil_mode = pair(padding), ceil_mode
        if any(2 * pad > size for pad, size in zip(self.padding, self.pool_size, strict=True)):
            raise ValueError(f"padding must be at most half of pool_size {self.pool_size}, not {self.padding}")
        self.built = True

    def _pads(self, shape: Shape) -> Padding:
        """Symmetric padding, plus what the last window of `ceil_mode` needs at the bottom and right."""
        pads = []
        for axis, (pad, pool, stride) in enumerate(zip(self.padding, self.pool_size, self.strides, strict=True)):
            overhang = 0
            if self.ceil_mode and stride > 1:
                size = shape[1 + axis]
                if size is None:
                    raise ValueError("ceil_mode needs a known height and width; give the model an input_shape")
                # PyTorch drops a last window that would start in the padding at the end.
                windows = -(-(size + 2 * pad - pool) // stride) + 1
                windows -= (windows - 1) * stride >= size + pad
                overhang = max((windows - 1) * stride + pool - size - 2 * pad, 0)
            pads.append((pad, pad + overhang))
        return (pads[0], pads[1])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        size = window_output_shape(input_shape, self.pool_size, self.strides, self._pads(input_shape))
        return (input_shape[0], *size, input_shape[3])


@register_layer
class MaxPool2D(_Pool2D):
    """Max pooling of `(batch, height, width, channels)`; padding counts as minus infinity, as in PyTorch.

    Args:
        pool_size: window, int or pair.
        strides: int or pair; the window by default.
        padding: pixels on every side, at most half the window.
        ceil_mode: round the output size up instead of down (Caffe's rule).
        nonnegative: the input is known to be at least 0, as after a ReLU. Zeros then serve as padding, which phones'
            integer arithmetic prefers; values and gradients are the same.
    """

    def __init__(self, pool_size: int | tuple[int, int], strides: int | tuple[int, int] | None = None,
                 padding: int | tuple[int, int] = 0, ceil_mode: bool = False, nonnegative: bool = False,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(pool_size, strides, padding, ceil_mode, **kwargs)
        self.nonnegative = nonnegative

    def call(self, x: Any, training: bool | None = None) -> Any:
        pad_mode = "constant" if self.nonnegative else "symmetric"
        return ops.max_pool2d(x, self.pool_size, self.strides, self._pads(x.shape), pad_mode, bool(training))


@register_layer
class AvgPool2D(_Pool2D):
    """Average pooling of `(batch, height, width, channels)`.

    Args:
        pool_size, strides, padding, ceil_mode: as in `MaxPool2D`.
        count_include_pad: whether the padded zeros count in the divisor (PyTorch's default). The overhang of `ceil_mode`
            never counts.
    """

    def __init__(self, pool_size: int | tuple[int, int], strides: int | tuple[int, int] | None = None,
                 padding: int | tuple[int, int] = 0, ceil_mode: bool = False, count_include_pad: bool = True,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(pool_size, strides, padding, ceil_mode, **kwargs)
        self.count_include_pad = count_include_pad

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if self._equals_same(input_shape):
            sizes = zip(input_shape[1:3], self.strides, strict=True)
            return (input_shape[0], *(size and -(-size // stride) for size, stride in sizes), input_shape[3])
        return super().compute_output_shape(input_shape)

    def _equals_same(self, shape: Shape) -> bool:
        """Whether a size is unknown, and the pool (that of ResNet-D's shortcuts) is "same" pooling at any size."""
        tiles = self.pool_size == self.strides and self.padding == (0, 0) and not self.count_include_pad
        return tiles and self.ceil_mode and None in shape[1:3]

    def call(self, x: Any) -> Any:
        if self._equals_same(x.shape):
            return kops.average_pool(x, self.pool_size, self.strides, "same", "channels_last")
        pads = self._pads(x.shape)
        if self.count_include_pad and pads != tuple((p, p) for p in self.padding):
            raise ValueError("ceil_mode with count_include_pad=True and an overhanging window is not supported")
        return ops.avg_pool2d(x, self.pool_size, self.strides, pads, self.count_include_pad)


@register_layer
class BlurPool2D(keras.layers.Layer):
    """Subsampling after a binomial blur (Zhang, 2019, arXiv 1904.11486), reflect-padded as in timm. No weights.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, channels)`.

    Args:
        filter_size: side of the binomial filter: 3 is (1, 2, 1)/4 in both directions.
        strides: subsampling factor.
    """

    def __init__(self, filter_size: int = 3, strides: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if filter_size < 2:
            raise ValueError(f"filter_size must be at least 2, not {filter_size}")
        self.filter_size, self.strides = filter_size, strides
        row = np.poly1d((0.5, 0.5)) ** (filter_size - 1)
        self.filter = np.outer(row.coeffs, row.coeffs)
        # PyTorch's rule: ((stride - 1) + (filter_size - 1)) // 2 on every side.
        pad = (strides - 1 + filter_size - 1) // 2
        self.pads: Padding = ((pad, pad), (pad, pad))
        self.built = True

    def call(self, x: Any) -> Any:
        window, step = (self.filter_size,) * 2, (self.strides,) * 2
        x = pad2d(x, read_padding(x.shape, window, step, self.pads), mode="reflect")
        channels = x.shape[-1]
        kernel = kops.convert_to_tensor(np.tile(self.filter[:, :, None, None], (1, 1, channels, 1)), dtype=x.dtype)
        return kops.depthwise_conv(x, kernel, self.strides, "valid", "channels_last")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        window, step = (self.filter_size,) * 2, (self.strides,) * 2
        return (input_shape[0], *window_output_shape(input_shape, window, step, self.pads), input_shape[3])
