"""RedNet: residual networks of involutions (Li et al., 2021, arXiv 2103.06255).

A ResNet whose 3x3 convolutions are 7x7 involutions: kernels that differ from position to position, predicted from the
features there, and are shared by groups of 16 channels. The stem is 3x3 convolution, 3x3 involution, 3x3 convolution; the
7x7 convolution of ResNet in its place (`stem="conv"`) is the form of the paper's ablations. RedNet-26 and -38 have their
blocks in the middle. Where paper and code differ we follow the authors' code (d-li14/involution), a bottleneck of MMClassification.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import keras

from keras_resnets import assembly
from keras_resnets.assembly import BlockPlace, MakeBlock, Spec, StemPool, level, stage_plan, stages, stem_pool
from keras_resnets.layers import ConvNorm, Involution, NormAct
from keras_resnets.layers.base import Composite, chain, register_layer
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.models.resnet import WIDTHS
from keras_resnets.registry import Rename, Variant, register


class OperatorBottleneck(ResidualBlock):
    """1x1 → an operator that keeps the channels → 1x1, added to a shortcut.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        operator: the layer in place of a bottleneck's 3x3, with the block's stride; named "conv2".
        filters: output channels.
        width: channels of the operator.
        zero_gamma: start the last normalisation's scale at zero.
        strides, shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, operator: keras.layers.Layer, filters: int, width: int, strides: int, *, norm: dict[str, Any],
                 zero_gamma: bool, shortcut: ShortcutKind, drop_path: float, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        self.branch = [
            ConvNorm(width, 1, activation="relu", norm=norm, name="conv1"),
            operator,
            NormAct(norm, name="norm2"),
            ConvNorm(filters, 1, norm=norm, zero_gamma=zero_gamma, name="conv3"),
        ]


@register_layer
class InvolutionBottleneck(OperatorBottleneck):
    """1x1 → involution → 1x1, added to a shortcut (arXiv 2103.06255, section 4.1).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters, width, strides, zero_gamma, norm, shortcut, drop_path: see `OperatorBottleneck`.
        kernel_size, group_channels, reduction, dilation: see `Involution`.
    """

    def __init__(self, filters: int, width: int, strides: int = 1, *, norm: dict[str, Any], kernel_size: int = 7,
                 group_channels: int = 16, reduction: int = 4, dilation: int = 1, zero_gamma: bool = False,
                 shortcut: ShortcutKind = "B", drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        operator = Involution(kernel_size, strides, norm=norm, group_channels=group_channels, reduction=reduction,
                              dilation=dilation, name="conv2")  # fmt: skip
        super().__init__(operator, filters, width, strides, norm=norm, zero_gamma=zero_gamma, shortcut=shortcut,
                         drop_path=drop_path, **kwargs)  # fmt: skip


class OperatorStem(Composite):
    """3x3 convolution of stride 2 → an operator that keeps the channels → 3x3 convolution.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/2⌉, ⌈width/2⌉, 64)`.

    Args:
        operator: works on 32 channels; named "operator".
        norm: keyword arguments of `BatchNorm`; each of the three layers is followed by it and a ReLU.
    """

    def __init__(self, operator: keras.layers.Layer, norm: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = [
            ConvNorm(32, 3, 2, activation="relu", norm=norm, name="conv1"),
            operator,
            NormAct(norm, name="norm2"),
            ConvNorm(64, 3, activation="relu", norm=norm, name="conv3"),
        ]

    def branches(self) -> list[list[keras.layers.Layer]]:
        return [self.parts]

    def call(self, x: Any) -> Any:
        return chain(self.parts, x)


@register_layer
class InvolutionStem(OperatorStem):
    """3x3 convolution of stride 2 → 3x3 involution → 3x3 convolution.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/2⌉, ⌈width/2⌉, 64)`.

    Args:
        norm: keyword arguments of `BatchNorm`.
        group_channels, reduction: see `Involution`.
    """

    def __init__(self, norm: dict[str, Any], group_channels: int = 16, reduction: int = 4, **kwargs: Any) -> None:
        operator = Involution(3, norm=norm, group_channels=group_channels, reduction=reduction, name="operator")
        super().__init__(operator, norm, **kwargs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RedNetSpec(Spec):
    """A row of this table.

    Attributes:
        depths: blocks per stage.
        stem: "involution", or "conv" for ResNet's 7x7.
        stem_pool: see `assembly.stem_pool`.
        kernel_size: of the blocks' involutions; the stem's is 3.
        group_channels, reduction: of all involutions, see `Involution`.
        shortcut: see `shortcut_layers`.
        output_stride: 32, 16 or 8; smaller ones spread the taps of the last stages' involutions instead of striding.
    """

    zero_gamma: bool = True
    depths: tuple[int, int, int, int]
    stem: Literal["involution", "conv"] = "involution"
    stem_pool: StemPool = "max"
    kernel_size: int = 7
    group_channels: int = 16
    reduction: int = 4
    shortcut: ShortcutKind = "B"
    output_stride: Literal[32, 16, 8] = 32


def rednet_block(spec: RedNetSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3."""
    width = WIDTHS[stage]
    return InvolutionBottleneck(
        4 * width, width, place.strides, norm=spec.norm, kernel_size=spec.kernel_size, group_channels=spec.group_channels,
        reduction=spec.reduction, dilation=place.first_dilation, zero_gamma=spec.zero_gamma, shortcut=spec.shortcut,
        drop_path=place.drop_path, name=place.name,
    )  # fmt: skip


def rednet_stem(spec: RedNetSpec) -> keras.layers.Layer:
    """The stem of three layers."""
    return InvolutionStem(spec.norm, spec.group_channels, spec.reduction, name="stem")


def rednet(spec: Any, inputs: Any, make_block: MakeBlock = rednet_block,
           make_stem: Callable[[Any], keras.layers.Layer] = rednet_stem) -> Any:  # fmt: skip
    """Stem, ResNet's with `stem="conv"`, and four stages of blocks."""
    x = assembly.stem(inputs, (WIDTHS[0],), spec.norm) if spec.stem == "conv" else make_stem(spec)(inputs)
    x = stem_pool(level(x, "C1"), spec.stem_pool, spec.norm)
    return stages(x, spec, stage_plan(spec.depths, spec.drop_path_rate, spec.output_stride), make_block)


# Our variable paths to the names of the authors' checkpoints (MMClassification), applied in order.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv/", "backbone.conv1."),
    (r"^stem/norm/", "backbone.bn1."),
    (r"^stem/", "backbone.stem/"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"backbone.layer{m[1]}.{int(m[2]) - 1}."),
    (r"/reduce/conv/", ".conv1.conv."),
    (r"/reduce/norm/", ".conv1.bn."),
    (r"/span/", ".conv2.conv."),
    (r"stem/conv1/", "stem.0."),
    (r"stem/operator", "stem.1"),
    (r"stem/norm2/norm/", "stem.2."),
    (r"stem/conv3/", "stem.4."),
    (r"(stem\.\d\.)norm/", r"\1bn."),
    (r"(stem\.\d\.)conv/", r"\1conv."),
    (r"conv(\d)/conv/", r"conv\1."),
    (r"conv(\d)/norm/", r"bn\1."),
    (r"norm2/norm/", "bn2."),
    (r"shortcut/conv/", "downsample.0."),
    (r"shortcut/norm/", "downsample.1."),
    (r"^predictions/", "head.fc."),
]

PAPER = "Li et al., 2021, arXiv 2103.06255"

DEPTHS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

VARIANTS = [
    Variant(f"rednet{depth}", f"RedNet{depth}", "RedNet", PAPER, rednet, RedNetSpec(depths=depths), PYTORCH_NAMES)
    for depth, depths in DEPTHS.items()
]

BUILDERS = register(VARIANTS)
