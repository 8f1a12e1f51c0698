"""SKNet: selective kernel networks (Li et al., 2019, arXiv 1903.06586).

A ResNet whose 3x3 is a `SelectiveKernel`: a 3x3 and a dilated 3x3 (field 5x5), mixed per channel by an attention over the two.
`sknet*` rows are the paper's (ResNeXt 32x4d widths, both paths read all channels, Caffe's max pool). `skresnet*` rows are
timm's: each path reads half of the channels, and basic blocks have a selective kernel in place of their first 3x3;
`skresnext50_32x4d` is the paper's SKNet-50 but for the max pool.
"""

import dataclasses
from typing import Any

from keras_resnets.assembly import BlockPlace
from keras_resnets.layers import ConvNorm, SelectiveKernel
from keras_resnets.layers.attention import round_channels
from keras_resnets.layers.base import register_layer
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.models.resnet import DEEP, DEPTHS, PYTORCH_NAMES, PYTORCH_NAMES_D, WIDTHS, ResNetSpec, resnet
from keras_resnets.registry import Rename, Variant, register


@register_layer
class SelectiveKernelBasicBlock(ResidualBlock):
    """Selective kernel → 3x3, added to a shortcut.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: of both convolutions.
        attention_width: see `SelectiveKernel`.
        strides, first_dilation: of the selective kernel.
        dilation: of the 3x3.
        split_input: see `SelectiveKernel`.
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, attention_width: int, strides: int = 1, *, norm: dict[str, Any],
                 first_dilation: int = 1, dilation: int = 1, split_input: bool = False, zero_gamma: bool = False,
                 shortcut: ShortcutKind = "B", drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        self.branch = [
            SelectiveKernel(filters, attention_width, norm=norm, strides=strides, dilation=first_dilation,
                            split_input=split_input, name="conv1"),
            ConvNorm(filters, 3, dilation=dilation, norm=norm, zero_gamma=zero_gamma, name="conv2"),
        ]  # fmt: skip


@register_layer
class SelectiveKernelBottleneck(ResidualBlock):
    """1x1 → selective kernel → 1x1, added to a shortcut (arXiv 1903.06586, table 1).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        width: channels of the selective kernel.
        attention_width, split_input: see `SelectiveKernel`.
        strides, dilation, groups: of the selective kernel.
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, width: int, attention_width: int, strides: int = 1, *, norm: dict[str, Any],
                 groups: int = 1, dilation: int = 1, split_input: bool = False, zero_gamma: bool = False,
                 shortcut: ShortcutKind = "B", drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        self.branch = [
            ConvNorm(width, 1, activation="relu", norm=norm, name="conv1"),
            SelectiveKernel(width, attention_width, norm=norm, strides=strides, groups=groups, dilation=dilation,
                            split_input=split_input, name="conv2"),
            ConvNorm(filters, 1, norm=norm, zero_gamma=zero_gamma, name="conv3"),
        ]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class SKNetSpec(ResNetSpec):
    """A row of this table: `ResNetSpec`, and of the selective kernel:

    Attributes:
        sk_reduction: channels of the selective kernel per channel of its attention.
        sk_divisor: the attention's channels are rounded to a multiple of this, and at least this.
        split_input: every path reads its share of the channels only.
    """

    sk_reduction: int = 16
    sk_divisor: int = 32
    split_input: bool = False

    def unused_options(self) -> tuple[str, ...]:
        of_resnet = ("antialias", "attention", "relu_before_attention", "se_reduction", "se_divisor", "stride_in_1x1",
                     "reduce_first", "shortcut_kernel")  # fmt: skip
        return (*super().unused_options(), *of_resnet)


def sknet_block(spec: SKNetSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3."""
    shared: dict[str, Any] = {
        "strides": place.strides, "norm": spec.norm, "shortcut": spec.shortcut, "drop_path": place.drop_path,
        "split_input": spec.split_input, "zero_gamma": spec.zero_gamma, "name": place.name,
    }  # fmt: skip
    width = WIDTHS[stage] if spec.block == "basic" else spec.width(stage)
    attention_width = round_channels(width / spec.sk_reduction, spec.sk_divisor, round_limit=0.9)
    if spec.block == "basic":
        return SelectiveKernelBasicBlock(
            width, attention_width, first_dilation=place.first_dilation, dilation=place.dilation, **shared
        )
    return SelectiveKernelBottleneck(
        4 * WIDTHS[stage], width, attention_width, groups=spec.cardinality, dilation=place.first_dilation, **shared
    )


def sknet(spec: SKNetSpec, inputs: Any) -> Any:
    """A ResNet of selective-kernel blocks."""
    return resnet(spec, inputs, sknet_block)


_SK_NAMES: list[Rename] = [
    (r"(conv\d)/path(\d)/conv/", r"\1.paths.\2.conv."),
    (r"(conv\d)/path(\d)/norm/", r"\1.paths.\2.bn."),
    (r"(conv\d)/reduce/conv/", r"\1.attn.fc_reduce."),
    (r"(conv\d)/reduce/norm/", r"\1.attn.bn."),
    (r"(conv\d)/select/", r"\1.attn.fc_select."),
    (r"^(stage.+)/(conv\d)/conv/", r"\1/\2.conv."),
    (r"^(stage.+)/(conv\d)/norm/", r"\1/\2.bn."),
]


def _row(name: str, builder: str, depth: int, **fields: Any) -> Variant:
    spec = SKNetSpec(block="basic" if depth < 50 and depth != 26 else "bottleneck", depths=DEPTHS[depth], **fields)
    names = PYTORCH_NAMES_D if spec.shortcut == "D" else PYTORCH_NAMES
    paper = "Li et al., 2019, arXiv 1903.06586"
    return Variant(name, builder, "SKNet", paper, sknet, spec, [*_SK_NAMES, *names])


SPLIT: dict[str, Any] = {"split_input": True, "sk_divisor": 8}
SPLIT_BASIC: dict[str, Any] = {"split_input": True, "sk_reduction": 8, "sk_divisor": 16}
X32X4: dict[str, Any] = {"cardinality": 32, "base_width": 4}

VARIANTS = [
    _row("sknet26", "SKNet26", 26, stem_pool="max_ceil", **X32X4),
    _row("sknet50", "SKNet50", 50, stem_pool="max_ceil", **X32X4),
    _row("sknet101", "SKNet101", 101, stem_pool="max_ceil", **X32X4),
    _row("skresnet18", "SKResNet18", 18, **SPLIT_BASIC),
    _row("skresnet34", "SKResNet34", 34, **SPLIT_BASIC),
    _row("skresnet50", "SKResNet50", 50, **SPLIT),
    _row("skresnet50d", "SKResNet50D", 50, stem=DEEP, shortcut="D", **SPLIT),
    _row("skresnext50_32x4d", "SKResNeXt50_32x4d", 50, **X32X4),
]

BUILDERS = register(VARIANTS)
