"""Convolution, and convolution + batch normalisation + activation as one layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops as kops

from keras_resnets import ops
from keras_resnets.layers.base import Composite, Shape, register_layer
from keras_resnets.layers.norm import BatchNorm
from keras_resnets.padding import pair, standardize_padding, window_output_shape


def he_fan_out() -> keras.initializers.Initializer:
    """The initialisation of the residual papers' released code: normal, standard deviation `sqrt(2 / fan_out)`."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


@register_layer
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with explicit padding and a fast grouped convolution: a drop-in replacement.

    Input `(batch, height, width, channels)`, output `(batch, out_height, out_width, filters)`. Grouped convolution on a
    CPU under TensorFlow runs the native kernel, a few hundred times faster than stock Keras in training.

    Args:
        filters, kernel_size, strides, groups, activation, use_bias, and all other keywords: as in `keras.layers.Conv2D`.
        padding: "valid" or "same" as in Keras (TensorFlow's "same" puts the odd pixel at the bottom and right), or
            "symmetric" for `dilation * (kernel - 1) / 2` pixels on every side whatever the stride, or an int, or
            `(height, width)` pixels per side, or `((top, bottom), (left, right))`: what PyTorch's `padding` means.
        dilation_rate: may be combined with strides, unlike in Keras.

    Raises:
        ValueError: `data_format` is (or is configured to be) "channels_first"; `padding` is none of the above; channels
            or filters do not divide by `groups`.
    """

    def __init__(self, filters: int, kernel_size: int | Sequence[int], strides: int | Sequence[int] = 1,
                 padding: Any = "valid", data_format: str | None = None, dilation_rate: int | Sequence[int] = 1,
                 groups: int = 1, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, kernel_size, strides=strides, data_format=data_format, groups=groups, **kwargs)
        require_channels_last(self.data_format)
        self.dilation_rate = pair(dilation_rate)
        self.padding = standardize_padding(padding, self.kernel_size, self.dilation_rate)
        self.supports_jit = groups == 1 or ops.xla_has_fast_groups()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        y = ops.conv2d(
            inputs, self.kernel, self.strides, self.padding, self.dilation_rate, self.groups, training=bool(training)
        )
        if self.use_bias:
            y = kops.add(y, kops.reshape(self.bias, (1, 1, 1, self.filters)))
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        size = window_output_shape(input_shape, self.kernel_size, self.strides, self.padding, self.dilation_rate)
        return (input_shape[0], *size, self.filters)


def bare_conv(filters: int, kernel_size: int, strides: int = 1, *, dilation: int = 1, zero: bool = False,
              name: str | None = None) -> Conv2D:  # fmt: skip
    """A symmetrically padded convolution without bias and normalisation; `zero` starts its kernel at zero."""
    initializer = "zeros" if zero else he_fan_out()
    return Conv2D(filters, kernel_size, strides, "symmetric", dilation_rate=dilation, use_bias=False,
                  kernel_initializer=initializer, name=name)  # fmt: skip


def require_channels_last(data_format: str) -> None:
    """Raises ValueError for any data format but "channels_last"."""
    if data_format != "channels_last":
        raise ValueError(f"data_format must be 'channels_last' (batch, height, width, channels), not {data_format!r}: "
                         "keras.config.set_image_data_format('channels_last')")  # fmt: skip


@register_layer
class ConvNorm(Composite):
    """Convolution, batch normalisation, activation: the unit that every network here is made of.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/stride⌉, ⌈width/stride⌉, filters)` with the default
    padding. Sublayers `conv` and, unless folded, `norm`.

    Args:
        filters: output channels.
        kernel_size, strides, dilation: int or pair.
        groups: number of groups of channels.
        activation: name of a Keras activation, or None.
        norm: keyword arguments of `BatchNorm` (`epsilon`, `momentum` …). With `{"folded": True}` in it there is no
            normalisation and the convolution has a bias instead: what `keras_resnets.fuse` makes.
        padding: as in `Conv2D`.
        zero_gamma: start the normalisation's scale at zero, so that a residual branch starts as nothing.
        use_bias: give the convolution a bias, which the normalisation makes superfluous (but which checkpoints hold).
    """

    def __init__(self, filters: int, kernel_size: int | Sequence[int], strides: int | Sequence[int] = 1, *,
                 norm: dict[str, Any], groups: int = 1, dilation: int | Sequence[int] = 1,
                 activation: str | None = None, padding: Any = "symmetric", zero_gamma: bool = False,
                 use_bias: bool = False, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        folded = norm.get("folded", False)
        self.conv = Conv2D(filters, kernel_size, strides, padding, dilation_rate=dilation, groups=groups,
                           use_bias=use_bias or folded, kernel_initializer=he_fan_out(), name="conv")  # fmt: skip
        self.norm = None if folded else BatchNorm(**norm, zero_gamma=zero_gamma, name="norm")
        self.activation = keras.activations.get(activation)

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[self.conv] if self.norm is None else [self.conv, self.norm]]

    def call(self, x: Any) -> Any:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)
