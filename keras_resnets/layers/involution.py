"""Involution: a convolution turned inside out, with a kernel for every position that groups of channels share."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops as kops

from keras_resnets import ops
from keras_resnets.dynamic_filter import dynamic_filter
from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import Conv2D, ConvNorm, he_fan_out
from keras_resnets.layers.pooling import AvgPool2D
from keras_resnets.padding import pair


@register_layer
class KernelSpan(Conv2D):
    """1x1 convolution with bias from features to the kernels of `dynamic_filter`, `groups · taps` channels.

    Its variables hold the channels group by group, as in the authors' code; its output holds them tap by tap.

    Args:
        taps: of one kernel.
        groups_of_channels: number of kernels per position.
    """

    def __init__(self, taps: int, groups_of_channels: int, kernel_initializer: Any = None, **kwargs: Any) -> None:
        super().__init__(taps * groups_of_channels, 1, kernel_initializer=kernel_initializer or he_fan_out(), **kwargs)
        self.taps, self.groups_of_channels = taps, groups_of_channels

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        unused = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups")
        ours = {"taps": self.taps, "groups_of_channels": self.groups_of_channels}
        return {key: value for key, value in config.items() if key not in unused} | ours

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        kernel, bias = (self._tap_major(variable) for variable in (self.kernel, self.bias))
        return kops.add(ops.conv2d(inputs, kernel, training=bool(training)), bias)

    def _tap_major(self, weights: Any) -> Any:
        """The same weights with the last axis in the order (tap, group) instead of (group, tap)."""
        by_group = kops.reshape(weights, (-1, self.groups_of_channels, self.taps))
        return kops.reshape(kops.transpose(by_group, (0, 2, 1)), weights.shape)


@register_layer
class Involution(Composite):
    """Filters each position with kernels predicted from its features (Li et al., 2021, arXiv 2103.06255, section 3).

    The kernels of a position are `span(ReLU(norm(reduce(x))))`, two 1x1 convolutions without softmax; with strides they are
    predicted from the average of the `strides x strides` pixels that a position stands for. Each kernel serves
    `group_channels` neighbouring channels; padding is `(kernel_size - 1) / 2` zeros on every side.
    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, channels)`.

    An odd map at stride 2 is rounded up: the average of the last row and column takes the pixels that are there. The
    authors' code rounds down and needs even maps; on these the two are equal.

    Args:
        kernel_size: odd side of the kernels.
        strides: step along height and width.
        norm: keyword arguments of `BatchNorm`.
        group_channels: channels that share a kernel.
        groups: number of groups instead, whatever the channels: 1 is one kernel per position for all of them.
        reduction: channels of the input per channel that the kernels are predicted from.
        dilation: spacing of the kernel's taps.
        kernel_stddev: standard deviation of the initial weights that predict the kernels; `sqrt(2 / fan_out)` by default.

    Raises:
        ValueError: `kernel_size` is even, another number below 1; the channels do not divide by `group_channels` or `groups`,
            or are fewer than `reduction`.
    """

    def __init__(self, kernel_size: int, strides: int = 1, *, norm: dict[str, Any], group_channels: int = 16,
                 groups: int | None = None, reduction: int = 4, dilation: int = 1, kernel_stddev: float | None = None,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        counts = {"strides": strides, "group_channels": group_channels, "groups": groups, "reduction": reduction,
                  "dilation": dilation}  # fmt: skip
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        self.kernel_size, self.strides, self.norm, self.reduction = kernel_size, strides, norm, reduction
        self.group_channels, self.groups, self.dilation = group_channels, groups, dilation
        self.kernel_stddev = kernel_stddev

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[*self.pool, self.reduce, self.span]]

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        divisor, name = (self.group_channels, "group_channels") if self.groups is None else (self.groups, "groups")
        if channels % divisor:
            raise ValueError(f"{name} must divide the input's channels: {channels} do not divide by {divisor}")
        if channels < self.reduction:
            raise ValueError(f"reduction must be at most the input's {channels} channels, not {self.reduction}")
        pool = AvgPool2D(self.strides, ceil_mode=True, count_include_pad=False, name="pool")
        self.pool = [pool] if self.strides > 1 else []
        self.reduce = ConvNorm(channels // self.reduction, 1, activation="relu", norm=self.norm, name="reduce")
        predict = None if self.kernel_stddev is None else keras.initializers.RandomNormal(stddev=self.kernel_stddev)
        self.span = KernelSpan(self.kernel_size**2, self.groups or channels // divisor, predict, name="span")
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return (batch, *(size and -(-size // self.strides) for size in (height, width)), channels)

    def kernels(self, x: Any) -> Any:
        """The kernels of all positions, `(batch, out_height, out_width, taps * groups)` as in `dynamic_filter`."""
        return chain(self.branches()[0], x)

    def call(self, x: Any) -> Any:
        pairs = (pair(size) for size in (self.kernel_size, self.strides, self.dilation))
        return dynamic_filter(x, self.kernels(x), *pairs)
