"""Channel attention: squeeze-excitation, efficient channel attention, selective kernels.

Gates are computed in float32 under mixed precision, and in four dimensions throughout, so that they lower to builtin
TFLite operators.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import Conv2D, ConvNorm, he_fan_out


def round_channels(channels: float, divisor: int, minimum: int = 0, round_limit: float = 0.0) -> int:
    """`channels` rounded to a multiple of `divisor`, at least `minimum`, and one step up if below `round_limit * channels`."""
    rounded = max(minimum or divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * channels else rounded


def gate_dtype(x: Any) -> str:
    """The precision of attention gates on `x`: at least float32."""
    return keras.backend.result_type(x.dtype, "float32")


def softmax_of_two(a: Any, b: Any) -> list[Any]:
    """The softmax over two logits, which in 8 bits phones compute faster as sigmoids."""
    return [ops.sigmoid(a - b), ops.sigmoid(b - a)]


@register_layer
class SqueezeExcitation(Composite):
    """Per-channel gate from globally pooled features (Hu et al., 2018, arXiv 1709.01507, section 3).

    Global average, 1x1 convolution to `reduced` channels, ReLU, 1x1 convolution back, sigmoid, multiply.
    Input and output `(batch, height, width, channels)`.

    Args:
        reduced: channels between the two convolutions (`channels / 16` in the paper).
    """

    def __init__(self, reduced: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fc1 = Conv2D(reduced, 1, activation="relu", kernel_initializer=he_fan_out(), name="fc1")

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[]]

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.fc2 = Conv2D(channels, 1, kernel_initializer=he_fan_out(), name="fc2")
        self.build_chain([self.fc1, self.fc2], (None, 1, 1, channels))

    def call(self, x: Any) -> Any:
        logits = self.fc2(self.fc1(ops.mean(x, axis=(1, 2), keepdims=True)))
        gate = ops.sigmoid(ops.cast(logits, gate_dtype(x)))
        return x * ops.cast(gate, x.dtype)


@register_layer
class EfficientChannelAttention(keras.layers.Layer):
    """Per-channel gate from a short convolution along the channels (Wang et al., 2020, arXiv 1910.03151).

    Input and output `(batch, height, width, channels)`. One weight of `kernel_size` taps, no bias.

    Args:
        kernel_size: odd number of neighbouring channels; by default the paper's
            `|(log2(channels) + 1) / 2|`, raised to the next odd number, at least 3.
    """

    def __init__(self, kernel_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kernel_size is not None and kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        self.kernel_size = kernel_size

    def build(self, input_shape: Shape) -> None:
        taps = self.kernel_size
        if taps is None:
            taps = int(abs(math.log2(input_shape[-1]) + 1) / 2)
            taps = max(taps + 1 - taps % 2, 3)
        self.kernel = self.add_weight((taps, 1, 1), initializer=he_fan_out(), name="kernel")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def call(self, x: Any) -> Any:
        pooled = ops.mean(x, axis=(1, 2), keepdims=True)
        # Along the channels as if they were the width of a one-channel image: (batch, 1, channels, 1).
        logits = ops.conv(ops.reshape(pooled, (-1, 1, x.shape[-1], 1)), self.kernel[None], 1, "same", "channels_last")
        gate = ops.sigmoid(ops.cast(ops.reshape(logits, (-1, 1, 1, x.shape[-1])), gate_dtype(x)))
        return x * ops.cast(gate, x.dtype)


@register_layer
class SelectiveKernel(Composite):
    """Convolutions of several receptive fields, mixed per channel by a softmax (Li et al., 2019, arXiv 1903.06586).

    Path `i` is a 3x3 convolution of dilation `(i + 1) · dilation`, with normalisation and ReLU. The paths' sum is pooled
    globally and reduced to `attention_width` channels, from which one logit per path and channel is computed; their
    softmax over the paths weights the sum of the paths.
    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        attention_width: channels of the attention bottleneck (paper: `max(filters / 16, 32)`).
        norm: keyword arguments of `BatchNorm`.
        strides, groups, dilation: of the paths' convolutions.
        paths: number of paths.
        split_input: path `i` reads the i-th part of the channels only (timm's SK-ResNet) instead of all (the paper).

    Raises:
        ValueError: `split_input` and the channels do not divide by `paths`.
    """

    def __init__(self, filters: int, attention_width: int, *, norm: dict[str, Any], strides: int = 1, groups: int = 1,
                 dilation: int = 1, paths: int = 2, split_input: bool = False, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.filters, self.split_input = filters, split_input
        self.paths = [
            ConvNorm(filters, 3, strides, groups=groups, dilation=dilation * (i + 1), activation="relu", norm=norm,
                     name=f"path{i}")
            for i in range(paths)
        ]  # fmt: skip
        self.reduce = ConvNorm(attention_width, 1, activation="relu", norm=norm, name="reduce")
        self.select = Conv2D(paths * filters, 1, use_bias=False, kernel_initializer=he_fan_out(), name="select")

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[path] for path in self.paths]

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        if self.split_input:
            if channels % len(self.paths):
                raise ValueError(f"split_input needs channels that divide by {len(self.paths)} paths, not {channels}")
            input_shape = (*input_shape[:-1], channels // len(self.paths))
        super().build(input_shape)
        self.build_chain([self.reduce, self.select], (None, 1, 1, self.filters))

    def call(self, x: Any) -> Any:
        inputs = ops.split(x, len(self.paths), axis=-1) if self.split_input else [x] * len(self.paths)
        maps = [path(part) for path, part in zip(self.paths, inputs, strict=True)]
        pooled = ops.mean(sum(maps), axis=(1, 2), keepdims=True)
        logits = ops.cast(chain([self.reduce, self.select], pooled), gate_dtype(x))
        weights = [ops.cast(weight, maps[0].dtype) for weight in self._weights(logits)]
        return sum(feature * weight for feature, weight in zip(maps, weights, strict=True))

    def _weights(self, logits: Any) -> Sequence[Any]:
        """The weights of each path, `(batch, 1, 1, filters)`, from `(batch, 1, 1, paths · filters)`, path-major."""
        if len(self.paths) == 2:
            return softmax_of_two(*ops.split(logits, 2, axis=-1))
        weights = ops.softmax(ops.reshape(logits, (-1, 1, len(self.paths), self.filters)), axis=2)
        return ops.split(weights, len(self.paths), axis=2)
