"""The residual unit: a branch of layers beside a shortcut."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops as kops

from keras_resnets import ops
from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import ConvNorm, bare_conv
from keras_resnets.layers.pooling import AvgPool2D, MaxPool2D
from keras_resnets.layers.regularization import StochasticDepth
from keras_resnets.lowering import subsample
from keras_resnets.padding import pair

ShortcutKind = Literal["A", "B", "C", "D", "P", "none"]


@register_layer
class PadShortcut(keras.layers.Layer):
    """Option A of He et al., 2015 (arXiv 1512.03385, section 3.3): every `strides`-th pixel, then zero channels appended.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.strides = filters, strides
        self.built = True

    def call(self, x: Any) -> Any:
        channels = ((0, 0), (0, 0), (0, 0), (0, self.filters - x.shape[-1]))
        if ops.is_exporting("xnnpack"):
            return kops.pad(subsample(x, pair(self.strides)), channels)
        # Padded first: oneDNN's rewriting of TensorFlow graphs merges a padding with a convolution that reads it, and forgets that
        # channels are padded.
        return subsample(kops.pad(x, channels), pair(self.strides))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        half = [None if size is None else -(-size // self.strides) for size in (height, width)]
        return (batch, *half, self.filters)


def shortcut_layers(kind: ShortcutKind, channels: int, filters: int, strides: int, norm: dict[str, Any] | None,
                    kernel_size: int = 1) -> list[keras.layers.Layer]:  # fmt: skip
    """The layers of a shortcut from `channels` to `filters`; none of them is the identity.

    Args:
        kind: "A" zero-padded identity, "B" projection where the shape changes, "C" projection always, "D" as "B" with
            the stride in a 2x2 average pool before the projection (ResNet-D), "P" as "B" but every `strides`-th pixel of
            the identity where only the size changes (keras.applications' v2).
        norm: keyword arguments of `BatchNorm` for the projection; None for a bare convolution.
        kernel_size: of a projection (3 in stages 2 to 4 of SENet-154).
    """
    if kind == "none" or (strides == 1 and channels == filters and kind != "C"):
        return []
    if kind == "A":
        return [PadShortcut(filters, strides, name="shortcut")]
    if kind == "P" and channels == filters:
        return [MaxPool2D(1, strides, name="shortcut")]
    layers: list[keras.layers.Layer] = []
    if kind == "D" and strides > 1:
        layers.append(AvgPool2D(2, strides, ceil_mode=True, count_include_pad=False, name="shortcut_pool"))
        strides = 1
    if norm is None:
        layers.append(bare_conv(filters, kernel_size, strides, name="shortcut"))
    else:
        layers.append(ConvNorm(filters, kernel_size, strides, norm=norm, name="shortcut"))
    return layers


class ResidualBlock(Composite):
    """`ReLU(branch(x) + shortcut(x))`: what every residual block of the package is.

    A subclass fills `self.branch`, a chain of layers, in its `__init__`. The shortcut is made when the input's channels
    are known.

    Args:
        filters: output channels.
        strides: of the block as a whole.
        shortcut: see `shortcut_layers`; "none" leaves the branch alone (a plain network).
        norm: keyword arguments of `BatchNorm`.
        drop_path: rate of stochastic depth on the branch.
        shortcut_kernel: size of a projection.
    """

    activation_after = True  # subclasses with pre-activation leave the sum as it is

    def __init__(self, filters: int, strides: int, shortcut: ShortcutKind, norm: dict[str, Any] | None, drop_path: float,
                 shortcut_kernel: int = 1, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.shortcut_arguments = (shortcut, filters, strides, norm, shortcut_kernel)
        self.drop_path = StochasticDepth(drop_path, name="drop_path")
        self.branch: list[keras.layers.Layer] = []
        self.shortcut: list[keras.layers.Layer] = []

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.branch, self.shortcut]

    def make_shortcut(self, channels: int) -> list[keras.layers.Layer]:
        """The layers of the shortcut from an input of `channels`."""
        kind, filters, strides, norm, kernel_size = self.shortcut_arguments
        return shortcut_layers(kind, channels, filters, strides, norm, kernel_size)

    def build(self, input_shape: Shape) -> None:
        self.shortcut = self.make_shortcut(input_shape[-1])
        self.drop_path.dtype_policy = self.dtype_policy
        super().build(input_shape)
        branch, shortcut = (self.build_chain(layers, input_shape) for layers in self.branches())
        if self.shortcut and branch != shortcut:
            raise ValueError(f"input_shape: the branch of {self.name!r} makes {branch[1:3]} pixels of {input_shape[1:3]}, its "
                             f"shortcut {shortcut[1:3]}; choose a height and width that divide by 32")  # fmt: skip

    def call(self, x: Any) -> Any:
        y = chain(self.branch, x)
        if self.shortcut_arguments[0] != "none":
            y = self.drop_path(y) + chain(self.shortcut, x)
        return kops.relu(y) if self.activation_after else y
