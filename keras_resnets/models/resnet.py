"""ResNet: deep residual networks (He et al., 2015, arXiv 1512.03385), plain networks beside them, and their descendants.

Basic blocks (two 3x3 convolutions) up to 34 layers, bottlenecks (1x1, 3x3, 1x1) from 50 on, ReLU after the addition.
Descendants differ in few places, each a field of `ResNetSpec`:

* stride: `_v1` rows have it in the first 1x1 (the paper's Caffe release, ResNet-A), the others in the 3x3 (v1.5, ResNet-B);
* ResNet-C, -D, -S, -T: a deep stem of three 3x3 convolutions, and in D and T an average pool before strided projections
  (He et al., 2019, arXiv 1812.01187, section 4);
* wide ResNet: twice as wide 3x3 convolutions (Zagoruyko and Komodakis, 2016, arXiv 1605.07146);
* `resnetblur*`, `resnetaa*`: anti-aliased strides (Zhang, 2019, arXiv 1904.11486; average pools in timm's `aa`);
* `plain*`: the same convolutions without shortcuts.

The blocks also carry the grouped convolutions of ResNeXt and the attention of SENet and ECA-Net, whose tables are in files
of their own. Where paper and public code differ we follow torchvision and timm.
"""

import dataclasses
from typing import Any, Literal

from keras_resnets.assembly import BlockPlace, MakeBlock, Spec, StemPool, level, stage_plan, stages, stem, stem_pool
from keras_resnets.layers import AvgPool2D, BlurPool2D, ConvNorm, EfficientChannelAttention, SqueezeExcitation
from keras_resnets.layers.attention import round_channels
from keras_resnets.layers.base import register_layer
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.registry import Rename, Variant, register

Antialias = Literal["blur", "avg"] | None
WIDTHS = (64, 128, 256, 512)


def antialias_layers(kind: Antialias, strides: int, dilates: bool = False) -> list[Any]:
    """What subsamples after a convolution whose own stride was taken away; nothing for `None` or stride 1. Where a stage
    dilates instead of striding its blur stays, as in timm: without the subsampling, weights see what they saw before."""
    if kind is None or (strides == 1 and not (dilates and kind == "blur")):
        return []
    return [BlurPool2D(strides=strides, name="antialias") if kind == "blur" else AvgPool2D(strides, name="antialias")]


def attention_layers(kind: str | None, channels: int, se_channels: int) -> list[Any]:
    """Channel attention on the residual branch: squeeze-excitation, efficient channel attention, or none."""
    if kind == "se":
        return [SqueezeExcitation(se_channels, name="attention")]
    return [EfficientChannelAttention(name="attention")] if kind == "eca" else []


@register_layer
class BasicBlock(ResidualBlock):
    """3x3 → 3x3, added to a shortcut (arXiv 1512.03385, figure 5 left).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: of both convolutions.
        strides: of the first convolution.
        first_dilation, dilation: of the first and the second convolution; they differ where a stage starts to dilate.
        antialias: "blur" or "avg" moves the stride into a pool after the first convolution.
        attention, se_channels: see `attention_layers`.
        relu_before_attention: a ReLU after the second convolution too (the timm port of Caffe's SE-ResNets).
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, strides: int = 1, *, norm: dict[str, Any], first_dilation: int = 1, dilation: int = 1,
                 antialias: Antialias = None, attention: str | None = None, se_channels: int = 0,
                 relu_before_attention: bool = False, zero_gamma: bool = False, shortcut: ShortcutKind = "B",
                 drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        pool = antialias_layers(antialias, strides, first_dilation != dilation)
        self.branch = [
            ConvNorm(filters, 3, 1 if pool else strides, dilation=first_dilation, activation="relu", norm=norm, name="conv1"),
            *pool,
            ConvNorm(filters, 3, dilation=dilation, activation="relu" if relu_before_attention else None, norm=norm,
                     zero_gamma=zero_gamma, name="conv2"),
            *attention_layers(attention, filters, se_channels),
        ]  # fmt: skip


@register_layer
class Bottleneck(ResidualBlock):
    """1x1 → 3x3 → 1x1, added to a shortcut (arXiv 1512.03385, figure 5 right).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels, four times the base width.
        width: channels of the 3x3 convolution.
        reduced_width: channels of the first 1x1; `width` by default (half of it in SENet-154).
        strides: of the block, in the 3x3, or in the first 1x1 with `stride_in_1x1`.
        groups: cardinality of the 3x3 (ResNeXt).
        dilation: of the 3x3.
        antialias: "blur" or "avg" moves the stride into a pool after the 3x3.
        dilates: the block is the first of a stage that dilates instead of striding.
        attention, se_channels: see `attention_layers`.
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path, shortcut_kernel: see `ResidualBlock`.
    """

    def __init__(self, filters: int, width: int, strides: int = 1, *, norm: dict[str, Any], reduced_width: int | None = None,
                 stride_in_1x1: bool = False, groups: int = 1, dilation: int = 1, antialias: Antialias = None,
                 dilates: bool = False, attention: str | None = None, se_channels: int = 0, zero_gamma: bool = False,
                 shortcut: ShortcutKind = "B", drop_path: float = 0.0, shortcut_kernel: int = 1,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, shortcut_kernel, **kwargs)
        pool = antialias_layers(antialias, strides, dilates)
        first, second = (strides, 1) if stride_in_1x1 else (1, 1 if pool else strides)
        self.branch = [
            ConvNorm(reduced_width or width, 1, first, activation="relu", norm=norm, name="conv1"),
            ConvNorm(width, 3, second, groups=groups, dilation=dilation, activation="relu", norm=norm, name="conv2"),
            *pool,
            ConvNorm(filters, 1, norm=norm, zero_gamma=zero_gamma, name="conv3"),
            *attention_layers(attention, filters, se_channels),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetSpec(Spec):
    """A row of the ResNet tables.

    Attributes:
        block: "basic" or "bottleneck".
        depths: blocks per stage.
        stem: widths of the stem's convolutions; one means a 7x7, three mean 3x3.
        stem_pool: see `assembly.stem_pool`.
        shortcut: "A", "B", "C", "D" or "none" (a plain network), see `shortcut_layers`.
        cardinality, base_width: groups of the 3x3 and channels per group when the stage's base width is 64.
        stride_in_1x1: the stride of a bottleneck is in its first 1x1.
        reduce_first: divides the channels of a bottleneck's first 1x1 (2 in SENet-154).
        antialias: None, "blur" or "avg".
        attention: None, "se" or "eca".
        se_reduction: channels of the block's output per channel of the gate.
        se_divisor: the gate's channels are rounded to a multiple of this.
        relu_before_attention: of basic blocks, see `BasicBlock`.
        shortcut_kernel: size of projections from stage 2 on.
        output_stride: 32, 16 or 8; smaller ones dilate the last stages instead of striding.
    """

    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, int, int, int]
    stem: tuple[int, ...] = (64,)
    stem_pool: StemPool = "max"
    shortcut: ShortcutKind = "B"
    cardinality: int = 1
    base_width: int = 64
    stride_in_1x1: bool = False
    reduce_first: int = 1
    antialias: Antialias = None
    attention: Literal[None, "se", "eca"] = None
    se_reduction: int = 16
    se_divisor: int = 8
    relu_before_attention: bool = False
    shortcut_kernel: int = 1
    output_stride: Literal[32, 16, 8] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name in self.unused_options() and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} has no meaning for the blocks of this network")
        if self.shortcut == "none":
            self.refuse_residual_options("plain networks have no shortcuts")

    def unused_options(self) -> tuple[str, ...]:
        """Fields that the blocks do not read: given to a builder, they are refused rather than ignored."""
        only_bottlenecks = ("cardinality", "base_width", "stride_in_1x1", "reduce_first", "shortcut_kernel")
        return only_bottlenecks if self.block == "basic" else ()

    @property
    def expansion(self) -> int:
        """Output channels of a block per channel of its stage's base width."""
        return 4 if self.block == "bottleneck" else 1

    def width(self, stage: int) -> int:
        """Channels of a bottleneck's 3x3 in stage 0 to 3."""
        return WIDTHS[stage] * self.base_width // 64 * self.cardinality


def resnet_block(spec: ResNetSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3."""
    filters = WIDTHS[stage] * spec.expansion
    shared: dict[str, Any] = {
        "strides": place.strides, "norm": spec.norm, "shortcut": spec.shortcut, "antialias": spec.antialias,
        "attention": spec.attention, "se_channels": round_channels(filters / spec.se_reduction, spec.se_divisor),
        "zero_gamma": spec.zero_gamma, "drop_path": place.drop_path, "name": place.name,
    }  # fmt: skip
    if spec.block == "basic":
        return BasicBlock(
            filters, first_dilation=place.first_dilation, dilation=place.dilation,
            relu_before_attention=spec.relu_before_attention, **shared,
        )  # fmt: skip
    width = spec.width(stage)
    return Bottleneck(
        filters, width, reduced_width=width // spec.reduce_first, groups=spec.cardinality,
        # The strided convolution itself is never dilated; with the stride in the 1x1, the first 3x3 is one that follows it.
        dilation=place.dilation if spec.stride_in_1x1 else place.first_dilation,
        dilates=place.first_dilation != place.dilation, stride_in_1x1=spec.stride_in_1x1,
        shortcut_kernel=spec.shortcut_kernel if stage else 1, **shared,
    )  # fmt: skip


def resnet(spec: ResNetSpec, inputs: Any, make_block: MakeBlock = resnet_block) -> Any:
    """Stem and four stages of blocks; the body of every network whose ReLU follows the addition."""
    x = level(stem(inputs, spec.stem, spec.norm), "C1")
    x = stem_pool(x, spec.stem_pool, spec.norm)
    return stages(x, spec, stage_plan(spec.depths, spec.drop_path_rate, spec.output_stride), make_block)


# Our variable paths to the names of torchvision and timm, applied in order.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv/", "conv1."),
    (r"^stem/norm/", "bn1."),
    (r"^stem/conv1/conv/", "conv1.0."),
    (r"^stem/conv1/norm/", "conv1.1."),
    (r"^stem/conv2/conv/", "conv1.3."),
    (r"^stem/conv2/norm/", "conv1.4."),
    (r"^stem/conv3/conv/", "conv1.6."),
    (r"^stem/conv3/norm/", "bn1."),
    (r"^stem_pool/conv/", "maxpool.0."),
    (r"^stem_pool/norm/", "maxpool.1."),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"layer{m[1]}.{int(m[2]) - 1}."),
    (r"conv(\d)/conv/", r"conv\1."),
    (r"conv(\d)/norm/", r"bn\1."),
    (r"attention/", "se."),
    (r"(fc\d)/", r"\1."),
    (r"se\.kernel", "se.conv.weight"),
    (r"shortcut/conv/", "downsample.0."),
    (r"shortcut/norm/", "downsample.1."),
    (r"^predictions/", "fc."),
]
# With an average pool (or its place, an identity) before the projection, the Sequential's indices move up by one.
PYTORCH_NAMES_D: list[Rename] = [
    (r"shortcut/conv/", "downsample.1."),
    (r"shortcut/norm/", "downsample.2."),
    *PYTORCH_NAMES,
]

RESNET = "He et al., 2015, arXiv 1512.03385"
TRICKS = "He et al., 2019, arXiv 1812.01187"
WIDE = "Zagoruyko and Komodakis, 2016, arXiv 1605.07146"
BLUR = "Zhang, 2019, arXiv 1904.11486"

DEPTHS = {
    10: (1, 1, 1, 1), 14: (1, 1, 1, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3), 269: (3, 30, 48, 8),
}  # fmt: skip
DEEP, WIDE_DEEP, TIERED = (32, 32, 64), (64, 64, 128), (24, 32, 64)


def row(name: str, builder: str, depth: int, family: str = "ResNet", paper: str = RESNET, **fields: Any) -> Variant:
    """A row of this file's kind of network: `depth` gives block and depths, `fields` are those of `ResNetSpec`."""
    block: Literal["basic", "bottleneck"] = "basic" if depth in (10, 18, 34) else "bottleneck"
    spec = ResNetSpec(**{"block": block, "depths": DEPTHS[depth], **fields})
    names = PYTORCH_NAMES_D if spec.shortcut == "D" else PYTORCH_NAMES
    return Variant(name, builder, family, paper, resnet, spec, names)


VARIANTS = [
    row("plain18", "Plain18", 18, "Plain", shortcut="none"),
    row("plain34", "Plain34", 34, "Plain", shortcut="none"),
    row("resnet18", "ResNet18", 18),
    row("resnet26", "ResNet26", 26),
    row("resnet34", "ResNet34", 34),
    row("resnet50", "ResNet50", 50),
    row("resnet101", "ResNet101", 101),
    row("resnet152", "ResNet152", 152),
    row("resnet200", "ResNet200", 200),
    row("resnet50_v1", "ResNet50V1", 50, stride_in_1x1=True),
    row("resnet101_v1", "ResNet101V1", 101, stride_in_1x1=True),
    row("resnet152_v1", "ResNet152V1", 152, stride_in_1x1=True),
    row("resnet10t", "ResNet10T", 10, paper=TRICKS, stem=TIERED, shortcut="D"),
    row("resnet14t", "ResNet14T", 14, paper=TRICKS, stem=TIERED, shortcut="D"),
    row("resnet26t", "ResNet26T", 26, paper=TRICKS, stem=TIERED, shortcut="D"),
    row("resnet50t", "ResNet50T", 50, paper=TRICKS, stem=TIERED, shortcut="D"),
    row("resnet50c", "ResNet50C", 50, paper=TRICKS, stem=DEEP),
    row("resnet101c", "ResNet101C", 101, paper=TRICKS, stem=DEEP),
    row("resnet152c", "ResNet152C", 152, paper=TRICKS, stem=DEEP),
    row("resnet18d", "ResNet18D", 18, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet26d", "ResNet26D", 26, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet34d", "ResNet34D", 34, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet50d", "ResNet50D", 50, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet101d", "ResNet101D", 101, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet152d", "ResNet152D", 152, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet200d", "ResNet200D", 200, paper=TRICKS, stem=DEEP, shortcut="D"),
    row("resnet50s", "ResNet50S", 50, paper=TRICKS, stem=WIDE_DEEP),
    row("resnet101s", "ResNet101S", 101, paper=TRICKS, stem=WIDE_DEEP),
    row("resnet152s", "ResNet152S", 152, paper=TRICKS, stem=WIDE_DEEP),
    row("wide_resnet50_2", "WideResNet50_2", 50, "WideResNet", WIDE, base_width=128),
    row("wide_resnet101_2", "WideResNet101_2", 101, "WideResNet", WIDE, base_width=128),
    row("resnetblur18", "ResNetBlur18", 18, "ResNet-blur", BLUR, antialias="blur", stem_pool="max_blur"),
    row("resnetblur50", "ResNetBlur50", 50, "ResNet-blur", BLUR, antialias="blur", stem_pool="max_blur"),
    row("resnetblur50d", "ResNetBlur50D", 50, "ResNet-blur", BLUR, antialias="blur", stem_pool="max_blur", stem=DEEP,
        shortcut="D"),
    row("resnetblur101d", "ResNetBlur101D", 101, "ResNet-blur", BLUR, antialias="blur", stem_pool="max_blur", stem=DEEP,
        shortcut="D"),
    row("resnetaa34d", "ResNetAA34D", 34, "ResNet-aa", BLUR, antialias="avg", stem_pool="avg", stem=DEEP, shortcut="D"),
    row("resnetaa50", "ResNetAA50", 50, "ResNet-aa", BLUR, antialias="avg", stem_pool="avg"),
    row("resnetaa50d", "ResNetAA50D", 50, "ResNet-aa", BLUR, antialias="avg", stem_pool="avg", stem=DEEP, shortcut="D"),
    row("resnetaa101d", "ResNetAA101D", 101, "ResNet-aa", BLUR, antialias="avg", stem_pool="avg", stem=DEEP,
        shortcut="D"),
]  # fmt: skip

BUILDERS = register(VARIANTS)
