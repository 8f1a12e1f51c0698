"""FPN: a feature pyramid network (Lin et al., 2017, arXiv 1612.03144) on the levels of a network, for detectors.

A 1x1 convolution brings every level to the same number of channels; from the top down, each map is enlarged to the size of the
next and added to it; a 3x3 convolution follows each sum. Coarser maps are added above as in Faster R-CNN (every second pixel of
the last one) or RetinaNet (Lin et al., 2017, arXiv 1708.02002: strided convolutions).
"""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops as kops

from keras_resnets.features import feature_extractor
from keras_resnets.layers import Conv2D, ConvNorm, MaxPool2D
from keras_resnets.layers.base import Shape, register_layer

Extra = Literal["pool", "conv_c5", "conv_p5"] | None


@register_layer
class NearestUpsampling(keras.layers.Layer):
    """A map enlarged to the height and width of another by repeating pixels.

    Input: a list of two, `(batch, h, w, channels)` and `(batch, height, width, any)`; output `(batch, height, width, channels)`.
    Row `i` is row `⌊i · h / height⌋`: PyTorch's "nearest", the published pyramids' rule. Where the size is doubled, or doubled
    less one as of odd maps, that is every pixel twice.
    """

    def call(self, inputs: Any) -> Any:
        x, like = inputs
        size, target = kops.shape(x)[1:3], kops.shape(like)[1:3]
        if all(_is_double(*pair) for pair in zip(size, target, strict=True)):
            doubled = kops.image.resize(x, (2 * size[0], 2 * size[1]), interpolation="nearest")
            return doubled[:, : target[0], : target[1]]
        for axis, (old, new) in enumerate(zip(size, target, strict=True), start=1):
            if not (isinstance(old, int) and isinstance(new, int) and old == new):
                x = kops.take(x, kops.arange(new, dtype="int32") * old // new, axis=axis)
        return x

    def compute_output_shape(self, input_shape: Any) -> Shape:
        (batch, _, _, channels), (_, *size, _) = input_shape
        return (batch, *size, channels)


def _is_double(old: Any, new: Any) -> bool:
    return isinstance(old, int) and isinstance(new, int) and new in (2 * old, 2 * old - 1)


def feature_pyramid(network: keras.Model, channels: int = 256, levels: Sequence[str] = ("C2", "C3", "C4", "C5"),
                    extra: Extra = "pool", norm: dict[str, Any] | None = None, name: str | None = None) -> keras.Model:  # fmt: skip
    """A model with the input and the weights of `network` that gives a pyramid of feature maps.

    Args:
        network: a network of this package, or a functional model that has its marker layers.
        channels: of every map of the pyramid.
        levels: of the network, the finest first; ("C3", "C4", "C5") for RetinaNet.
        extra: what is added above. "pool": one map, every second pixel of the last (Faster R-CNN). "conv_c5", "conv_p5": two
            maps by 3x3 convolutions of stride 2, the second after a ReLU, from the network's last level or the pyramid's
            (RetinaNet, in its first form and in later ones). None: nothing.
        norm: keyword arguments of `layers.BatchNorm` for a normalisation after each lateral and output convolution, such as
            `{"epsilon": 1e-5, "momentum": 0.9, "synchronized": True}`; None for biases instead, the plain form.
        name: of the model.

    Returns:
        A model from `(batch, height, width, channels)` to `{"P2": …, "P3": …, …}`, a map of each level's height and width for
        every level, and the extra ones.

    Raises:
        ValueError: `levels` are not different levels of `network` from fine to coarse, or another argument is not allowed.
    """
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels must be a whole number above 0, not {channels!r}")
    if extra not in (None, "pool", "conv_c5", "conv_p5"):
        raise ValueError(f"extra must be None, 'pool', 'conv_c5' or 'conv_p5', not {extra!r}")
    levels = [levels] if isinstance(levels, str) else list(levels)
    if levels != sorted(levels):
        raise ValueError(f"levels must be from fine to coarse, not {levels}")
    features = feature_extractor(network, levels).output
    sums: dict[str, Any] = {}
    for level, x in reversed(features.items()):
        number = level.removeprefix("C")
        lateral = _conv(channels, 1, norm, f"lateral{number}")(x)
        if sums:
            above = NearestUpsampling(name=f"top_down{number}")([list(sums.values())[-1], lateral])
            lateral = keras.layers.Add(name=f"sum{number}")([lateral, above])
        sums[number] = lateral
    pyramid = {f"P{number}": _conv(channels, 3, norm, f"P{number}")(sums[number]) for number in reversed(sums)}
    pyramid |= _coarser(extra, channels, features[levels[-1]], list(pyramid.values())[-1], int(levels[-1][1:]))
    return keras.Model(network.input, pyramid, name=name or f"{network.name}_fpn")


def _conv(filters: int, size: int, norm: dict[str, Any] | None, name: str, strides: int = 1) -> keras.layers.Layer:
    if norm is not None:
        return ConvNorm(filters, size, strides, norm=norm, name=name)
    initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
    return Conv2D(filters, size, strides, "symmetric", kernel_initializer=initializer, name=name)


def _coarser(extra: Extra, channels: int, last_level: Any, last_map: Any, number: int) -> dict[str, Any]:
    """The maps above the last one, which is that of level `number`."""
    first, second = f"P{number + 1}", f"P{number + 2}"
    if extra is None:
        return {}
    if extra == "pool":
        return {first: MaxPool2D(1, 2, name=first)(last_map)}
    x = _conv(channels, 3, None, first, strides=2)(last_level if extra == "conv_c5" else last_map)
    return {first: x, second: _conv(channels, 3, None, second, strides=2)(keras.layers.ReLU(name=f"{first}_relu")(x))}
