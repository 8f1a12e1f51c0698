"""ResNeSt: split-attention networks (Zhang et al., 2020, arXiv 2004.08955).

A ResNet-D whose 3x3 is a `SplitAttention`: `radix` splits of `cardinality` groups, weighted per channel by an attention over
the splits. In the first block of a stage a 3x3 average pool (`avd`) carries the stride, after the split attention, or before
it with `avd_first` (the paper's fast models, `resnest50_fast_*` and `*_1s4x24d`, `*_4s2x40d`). A setting is written
radix-s-cardinality-x-width-d: 2s1x64d is ResNeSt-50's. `resnest29_cifar` puts the block into the layout of the
ResNets for 32x32 images; the paper has no such network.

Where paper and authors' code differ we follow the code, but for `zero_gamma`, which that code undoes, and stochastic depth,
which timm applies to the projections instead of the branch. timm departs from the authors in three more places, all
of them without effect on the published networks at output stride 32: see `ResNeStSpec.rules`.
"""

import dataclasses
from typing import Any, Literal

import keras

from keras_resnets.assembly import BlockPlace, OrZero
from keras_resnets.layers import AvgPool2D, ConvNorm, DropBlock, SplitAttention
from keras_resnets.layers.attention import round_channels
from keras_resnets.layers.base import register_layer
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.layers.split_attention import SplitLayout
from keras_resnets.models import resnet_cifar
from keras_resnets.models.resnet import DEEP, DEPTHS, PYTORCH_NAMES_D, WIDE_DEEP, WIDTHS, ResNetSpec, resnet
from keras_resnets.registry import Rename, Variant, register

DropBlockForm = Literal["gluon", "torch"]


@register_layer
class ResNeStBottleneck(ResidualBlock):
    """1x1 → split attention → 1x1, added to a shortcut (arXiv 2004.08955, figure 2 right).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        width: channels of each split.
        strides: of the 3x3 average pool if there is one, else of the split attention.
        avd: a 3x3 average pool after the split attention.
        avd_first: that pool before it instead.
        radix, cardinality, dilation, attention_width, layout: see `SplitAttention`; with a radix of 0 a grouped convolution
            takes its place.
        drop_block: rate of `DropBlock` after each of the three convolutions.
        drop_block_size: side of its squares in pixels.
        drop_block_form: "gluon" drops the output of the split attention, "torch" the splits before their attention, and
            each rescales as that code of the authors does.
        dilated_shortcut_pool: a projection of stride 1 is preceded by a 2x2 average pool, zeros at the bottom and right
            counted (timm in dilated stages).
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, width: int, strides: int = 1, *, norm: dict[str, Any], avd: bool = False,
                 avd_first: bool = False, radix: int = 2, cardinality: int = 1, dilation: int = 1,
                 attention_width: int | None = None, layout: SplitLayout = "radix_major", drop_block: float = 0.0,
                 drop_block_size: int = 3, drop_block_form: DropBlockForm = "gluon",
                 dilated_shortcut_pool: bool = False, zero_gamma: bool = False, shortcut: ShortcutKind = "D",
                 drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        self.dilated_shortcut_pool = dilated_shortcut_pool
        drop: dict[str, Any] = {"rate": drop_block, "block_size": drop_block_size, "shared_batch": True,
                "rescale_channels": drop_block_form == "gluon"}  # fmt: skip
        drops = [DropBlock(**drop, name=f"conv{i}_drop_block") for i in (1, 2, 3)] if drop_block else []
        inner_drop = drop if drops and radix and drop_block_form == "torch" else None
        pool = [AvgPool2D(3, strides, padding=1, name="avd")] if avd or avd_first else []
        convolution: dict[str, Any] = {"strides": 1 if pool else strides, "dilation": dilation, "norm": norm,
                                       "name": "conv2"}  # fmt: skip
        middle = (
            SplitAttention(width, radix=radix, cardinality=cardinality, attention_width=attention_width, layout=layout,
                           drop_block=inner_drop, **convolution)
            if radix
            else ConvNorm(width, 3, groups=cardinality, activation="relu", **convolution)
        )  # fmt: skip
        self.branch = [
            ConvNorm(width, 1, activation="relu", norm=norm, name="conv1"),
            *drops[:1],
            *(pool if avd_first else []),
            middle,
            *([] if inner_drop else drops[1:2]),
            *([] if avd_first else pool),
            ConvNorm(filters, 1, norm=norm, zero_gamma=zero_gamma, name="conv3"),
            *drops[2:],
        ]

    def make_shortcut(self, channels: int) -> list[keras.layers.Layer]:
        layers = super().make_shortcut(channels)
        if not self.dilated_shortcut_pool:
            return layers
        pad = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="shortcut_pad")
        return [pad, AvgPool2D(2, 1, name="shortcut_pool"), *layers]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitAttentionSpec:
    """What the rows of both tables say about their split attention.

    Attributes:
        radix: number of splits; 0 for a plain grouped convolution.
        cardinality: groups of each split.
        avd_first: the average pool that carries the stride is before the split attention.
        layout: order of the splits' channels, see `SplitAttention`; checkpoints are "radix_major".
    """

    radix: OrZero = 2
    cardinality: int = 1
    avd_first: bool = False
    layout: SplitLayout = "radix_major"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNeStSpec(SplitAttentionSpec, ResNetSpec):
    """A row of the ImageNet table: `ResNetSpec`, `SplitAttentionSpec`, and

    Attributes:
        drop_block_rate: of `DropBlock` in stages 3 and 4 (0.1 in the paper, from 0 on over the whole training).
        drop_block_size, drop_block_form: see `ResNeStBottleneck`.
        rules: "timm" for what timm does otherwise: the attention's width is rounded to a multiple of 8; at output stride 16
            and 8 the first blocks of dilated stages lose their average pool, and their projections have a 2x2 one of
            stride 1 that pads the bottom and right.
    """

    shortcut: ShortcutKind = "D"
    drop_block_rate: float = 0.0
    drop_block_size: int = 3
    drop_block_form: DropBlockForm = "gluon"
    rules: Literal["official", "timm"] = "official"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_block_rate < 1:
            raise ValueError(f"drop_block_rate must be at least 0 and below 1, not {self.drop_block_rate!r}")

    def unused_options(self) -> tuple[str, ...]:
        return ("block", "antialias", "attention", "relu_before_attention", "se_reduction", "se_divisor", "stride_in_1x1",
                "reduce_first", "shortcut_kernel")  # fmt: skip


def resnest_block(spec: ResNeStSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3."""
    width, timm = spec.width(stage), spec.rules == "timm"
    pooled = place.strides > 1 or (place.index == 0 and stage > 0 and not timm)
    dilated = place.strides == 1 and stage > 0
    return ResNeStBottleneck(
        4 * WIDTHS[stage], width, place.strides, norm=spec.norm, avd=pooled, avd_first=pooled and spec.avd_first,
        radix=spec.radix, cardinality=spec.cardinality, dilation=place.first_dilation, layout=spec.layout,
        attention_width=round_channels(width * spec.radix / 4, 8, 32, 0.9) if timm else None,
        drop_block=spec.drop_block_rate if stage >= 2 else 0.0, drop_block_size=spec.drop_block_size,
        drop_block_form=spec.drop_block_form, dilated_shortcut_pool=timm and place.index == 0 and dilated,
        zero_gamma=spec.zero_gamma, shortcut=spec.shortcut, drop_path=place.drop_path, name=place.name,
    )  # fmt: skip


def resnest(spec: ResNeStSpec, inputs: Any) -> Any:
    """A ResNet-D of split-attention blocks."""
    return resnet(spec, inputs, resnest_block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarResNeStSpec(SplitAttentionSpec, resnet_cifar.CifarResNetSpec):
    """A row of the CIFAR table: `resnet_cifar.CifarResNetSpec` and `SplitAttentionSpec`.

    `widths` are those of the stem and of the splits; the stages' outputs have four times as many channels.
    """

    shortcut: ShortcutKind = "D"


def resnest_cifar_block(spec: CifarResNeStSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 2."""
    pooled = place.strides > 1
    return ResNeStBottleneck(
        4 * spec.widths[stage], spec.widths[stage], place.strides, norm=spec.norm, avd=pooled,
        avd_first=pooled and spec.avd_first, radix=spec.radix, cardinality=spec.cardinality, layout=spec.layout,
        zero_gamma=spec.zero_gamma, shortcut=spec.shortcut, drop_path=place.drop_path, name=place.name,
    )  # fmt: skip


def resnest_cifar(spec: CifarResNeStSpec, inputs: Any) -> Any:
    """Three stages of split-attention blocks for 32x32 images."""
    return resnet_cifar.resnet_cifar(spec, inputs, resnest_cifar_block)


SPLIT_NAMES: list[Rename] = [
    (r"/conv2/conv/conv/", "/conv2.conv."),
    (r"/conv2/conv/norm/", "/conv2.bn0."),
    (r"/conv2/fc1/conv/", "/conv2.fc1."),
    (r"/conv2/fc1/norm/", "/conv2.bn1."),
    (r"/conv2/fc2/", "/conv2.fc2."),
]
PAPER = "Zhang et al., 2020, arXiv 2004.08955"


def _row(name: str, builder: str, depth: int, setting: str = "2s1x64d", **fields: Any) -> Variant:
    radix, cardinality, width = (int(number) for number in setting.removesuffix("d").replace("s", "x").split("x"))
    size = fields.pop("input_size", 224)
    spec = ResNeStSpec(
        **{
            "depths": DEPTHS[depth],
            "stem": DEEP,
            "radix": radix,
            "cardinality": cardinality,
            "base_width": width,
            **fields,
        }
    )
    return Variant(name, builder, "ResNeSt", PAPER, resnest, spec, [*SPLIT_NAMES, *PYTORCH_NAMES_D], input_size=size)


FAST_SETTINGS = ("0s1x64d", "1s1x64d", "2s1x64d", "4s1x64d", "1s2x40d", "2s2x40d", "4s2x40d", "1s4x24d")

VARIANTS = [
    _row("resnest14d", "ResNeSt14", 14),
    _row("resnest26d", "ResNeSt26", 26),
    _row("resnest50d", "ResNeSt50", 50),
    _row("resnest101e", "ResNeSt101", 101, stem=WIDE_DEEP, input_size=256),
    _row("resnest200e", "ResNeSt200", 200, stem=WIDE_DEEP, dropout_rate=0.2, input_size=320),
    _row("resnest269e", "ResNeSt269", 269, stem=WIDE_DEEP, dropout_rate=0.2, input_size=416),
    # timm's names of two of the fast settings.
    _row("resnest50d_1s4x24d", "ResNeSt50_1s4x24d", 50, "1s4x24d", avd_first=True),
    _row("resnest50d_4s2x40d", "ResNeSt50_4s2x40d", 50, "4s2x40d", avd_first=True),
    *(_row(f"resnest50_fast_{setting}", f"ResNeSt50Fast_{setting}", 50, setting, avd_first=True) for setting in FAST_SETTINGS),
    Variant(
        "resnest29_cifar", "ResNeSt29Cifar", "ResNeSt-CIFAR", PAPER, resnest_cifar, CifarResNeStSpec(depth=3),
        [*SPLIT_NAMES, (r"shortcut/conv/", "downsample.1."), (r"shortcut/norm/", "downsample.2."),
         *resnet_cifar.PYTORCH_NAMES],
        input_size=32, classes=10,
    ),
]  # fmt: skip

BUILDERS = register(VARIANTS)
