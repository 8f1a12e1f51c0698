"""Res2Net: multi-scale features inside one residual block (Gao et al., 2019, arXiv 1904.01169).

A ResNet whose bottleneck's 3x3 is a `MultiScaleConv`: the channels are cut into `scale` chunks of `width` channels, and all
but the last have a 3x3 of their own, which also reads the result of the chunk before. A name like 26w4s gives `base_width`
and `scale`. Res2NeXt groups those convolutions; v1b (timm's `res2net50d` is the same network) has ResNet-D's stem and shortcuts.

Where paper and released code differ we follow the code: the untouched chunk is the last one, not the first. The first block
of every stage, of stage 1 too, is of another kind, "stage": its chunks do not read each other, and the last one is average
pooled with the block's stride, padded zeros counted. Two exceptions:

* `res2net200_v1d_26w_4s` is PaddleClas' network: the pool does not count the zeros, and stage 1 begins with a "normal" block;
* in the CIFAR networks the first block of a stage is a ResNeXt block, whose one grouped 3x3 convolves every chunk, the last one
  too. The paper's parameter counts are those of this layout with ten classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_resnets.assembly import BlockPlace, Spec
from keras_resnets.layers import AvgPool2D, Composite, ConvNorm
from keras_resnets.layers.attention import round_channels
from keras_resnets.layers.base import Shape, register_layer
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.lowering import concatenate
from keras_resnets.models.resnet import (
    DEEP,
    DEPTHS,
    PYTORCH_NAMES,
    PYTORCH_NAMES_D,
    WIDTHS,
    Bottleneck,
    ResNetSpec,
    attention_layers,
    resnet,
)
from keras_resnets.models.resnet_cifar import resnet_cifar
from keras_resnets.registry import Rename, Variant, register

BlockKind = Literal["normal", "stage"]


def _require_scale(scale: int) -> None:
    if scale < 2:
        raise ValueError(f"scale must be at least 2, one chunk to convolve and one to pass on, not {scale}")


@register_layer
class MultiScaleConv(Composite):
    """3x3 convolutions of several receptive fields on chunks of the channels (arXiv 1904.01169, section 3.1).

    Of chunks x1 … xs, kind "normal" makes y1 = K1(x1), yi = Ki(xi + y(i-1)) and ys = xs; kind "stage" makes yi = Ki(xi) and
    ys = 3x3 average pool of xs. K is a 3x3 convolution with normalisation and ReLU. The y are concatenated.
    Input `(batch, height, width, scale · width)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, scale · width)`.

    Args:
        width: channels of a chunk.
        scale: number of chunks, at least 2.
        norm: keyword arguments of `BatchNorm`.
        kind: "normal" or "stage".
        strides: of the convolutions and the pool; 1 unless `kind` is "stage".
        groups, dilation: of the convolutions.
        count_include_pad: whether the padded zeros count in the divisor of the pool.

    Raises:
        ValueError: `scale` is below 2, `width` is not positive or does not divide by `groups`, the kind is unknown or
            cannot have the strides, or the input does not have `scale · width` channels.
    """

    def __init__(self, width: int, scale: int = 4, *, norm: dict[str, Any], kind: BlockKind = "normal", strides: int = 1,
                 groups: int = 1, dilation: int = 1, count_include_pad: bool = True, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        _require_scale(scale)
        if width < 1 or width % groups:
            raise ValueError(f"width must be a positive multiple of groups={groups}, not {width}")
        if kind not in ("normal", "stage"):
            raise ValueError(f"kind must be 'normal' or 'stage', not {kind!r}")
        if kind == "normal" and strides != 1:
            raise ValueError(f"strides must be 1 where chunks are added to each other, kind 'normal', not {strides}")
        self.width, self.scale, self.kind = width, scale, kind
        self.convs = [
            ConvNorm(width, 3, strides, groups=groups, dilation=dilation, activation="relu", norm=norm, name=f"conv{i}")
            for i in range(scale - 1)
        ]
        pool = AvgPool2D(3, strides, padding=1, count_include_pad=count_include_pad, name="pool")
        self.pool = pool if kind == "stage" else None

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        """Of a chunk."""
        return [*([conv] for conv in self.convs), [] if self.pool is None else [self.pool]]

    def build(self, input_shape: Shape) -> None:
        if input_shape[-1] != self.scale * self.width:
            raise ValueError(
                f"input must have scale · width = {self.scale} · {self.width} channels, not {input_shape[-1]}"
            )
        super().build((*input_shape[:-1], self.width))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = super().compute_output_shape((*input_shape[:-1], self.width))
        return (*shape[:-1], input_shape[-1])

    def call(self, x: Any) -> Any:
        *chunks, last = ops.split(x, self.scale, axis=-1)
        outputs: list[Any] = []
        for conv, chunk in zip(self.convs, chunks, strict=True):
            outputs.append(conv(chunk + outputs[-1] if outputs and self.kind == "normal" else chunk))
        outputs.append(last if self.pool is None else self.pool(last))
        return concatenate(outputs)


@register_layer
class Res2NetBottleneck(ResidualBlock):
    """1x1 → multi-scale 3x3 → 1x1, added to a shortcut (arXiv 1904.01169, figure 2b).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        width, scale, kind, strides, groups, dilation, count_include_pad: of the multi-scale 3x3, see `MultiScaleConv`.
        attention, se_channels: see `resnet.attention_layers`.
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, width: int, scale: int = 4, strides: int = 1, *, norm: dict[str, Any],
                 kind: BlockKind = "normal", groups: int = 1, dilation: int = 1, count_include_pad: bool = True,
                 attention: str | None = None, se_channels: int = 0, zero_gamma: bool = False,
                 shortcut: ShortcutKind = "B", drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        self.branch = [
            ConvNorm(width * scale, 1, activation="relu", norm=norm, name="conv1"),
            MultiScaleConv(width, scale, norm=norm, kind=kind, strides=strides, groups=groups, dilation=dilation,
                           count_include_pad=count_include_pad, name="conv2"),
            ConvNorm(filters, 1, norm=norm, zero_gamma=zero_gamma, name="conv3"),
            *attention_layers(attention, filters, se_channels),
        ]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Res2NetSpec(ResNetSpec):
    """A row of the ImageNet table: `ResNetSpec`, and of the multi-scale 3x3:

    Attributes:
        scale: number of chunks.
        base_width: channels of a chunk, or of its groups, when the stage's base width is 64; rounded down elsewhere.
        normal_stage1: stage 1 has no block of the kind "stage".
        count_include_pad: whether the "stage" blocks' pools count the padded zeros.
    """

    scale: int = 4
    base_width: int = 26
    normal_stage1: bool = False
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_scale(self.scale)

    def unused_options(self) -> tuple[str, ...]:
        of_resnet = ("block", "stride_in_1x1", "reduce_first", "antialias", "relu_before_attention", "shortcut_kernel")
        return (*super().unused_options(), *of_resnet)


def res2net_block(spec: Res2NetSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3."""
    filters = WIDTHS[stage] * 4
    first = place.index == 0 and not (spec.normal_stage1 and stage == 0)
    return Res2NetBottleneck(
        filters, spec.width(stage), spec.scale, place.strides, norm=spec.norm, kind="stage" if first else "normal",
        groups=spec.cardinality, dilation=place.first_dilation, count_include_pad=spec.count_include_pad,
        attention=spec.attention, se_channels=round_channels(filters / spec.se_reduction, spec.se_divisor),
        zero_gamma=spec.zero_gamma, shortcut=spec.shortcut, drop_path=place.drop_path, name=place.name,
    )  # fmt: skip


def res2net(spec: Res2NetSpec, inputs: Any) -> Any:
    """A ResNet of multi-scale blocks."""
    return resnet(spec, inputs, res2net_block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarRes2NetSpec(Spec):
    """A row of the CIFAR table (arXiv 1904.01169, section 4.3).

    Attributes:
        depth: blocks per stage.
        scale: number of chunks.
        cardinality, base_width: groups of a chunk's 3x3 and channels per group when the stage's base width is 64.
        widths: base widths of the stages; blocks have four times as many output channels; the first one is the stem's.
        shortcut: "A", "B" or "C".
    """

    depth: int = 3
    scale: int
    cardinality: int
    base_width: int
    widths: tuple[int, int, int] = (64, 128, 256)
    shortcut: ShortcutKind = "B"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_scale(self.scale)
        for width in self.widths:
            if width * self.base_width < 64:
                raise ValueError(f"base_width={self.base_width} leaves no channel in a stage of width {width}: "
                                 f"{width} · {self.base_width} is less than 64")  # fmt: skip


def res2net_cifar_block(spec: CifarRes2NetSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 2: a ResNeXt block first, then multi-scale ones."""
    filters, width = spec.widths[stage] * 4, spec.widths[stage] * spec.base_width // 64 * spec.cardinality
    shared: dict[str, Any] = {
        "strides": place.strides, "norm": spec.norm, "shortcut": spec.shortcut, "drop_path": place.drop_path,
        "zero_gamma": spec.zero_gamma, "name": place.name,
    }  # fmt: skip
    if place.index == 0:
        return Bottleneck(filters, width * spec.scale, groups=spec.cardinality * spec.scale, **shared)
    return Res2NetBottleneck(filters, width, spec.scale, groups=spec.cardinality, **shared)


def res2net_cifar(spec: CifarRes2NetSpec, inputs: Any) -> Any:
    """A CIFAR ResNet of multi-scale blocks."""
    return resnet_cifar(spec, inputs, res2net_cifar_block)


_MULTI_SCALE_NAMES: list[Rename] = [
    (r"conv2/conv(\d+)/conv/", r"convs.\1."),
    (r"conv2/conv(\d+)/norm/", r"bns.\1."),
]

RES2NET = "Gao et al., 2019, arXiv 1904.01169"


def _row(name: str, builder: str, depth: int, base_width: int, scale: int, **fields: Any) -> Variant:
    spec = Res2NetSpec(**{"depths": DEPTHS[depth], "base_width": base_width, "scale": scale, **fields})
    names = PYTORCH_NAMES_D if spec.shortcut == "D" else PYTORCH_NAMES
    return Variant(name, builder, "Res2Net", RES2NET, res2net, spec, [*_MULTI_SCALE_NAMES, *names])


def _cifar_row(cardinality: int, base_width: int, scale: int) -> Variant:
    form = f"{cardinality}c{base_width}w{scale}s"
    return Variant(
        name=f"res2next29_{form}_cifar",
        builder=f"Res2NeXt29_{form}Cifar",
        family="Res2Net-CIFAR",
        paper=RES2NET,
        body=res2net_cifar,
        spec=CifarRes2NetSpec(cardinality=cardinality, base_width=base_width, scale=scale),
        pytorch_names=[*_MULTI_SCALE_NAMES, *PYTORCH_NAMES],
        input_size=32,
        classes=10,
    )


D: dict[str, Any] = {"stem": DEEP, "shortcut": "D"}
PADDLE: dict[str, Any] = {**D, "depths": (3, 12, 48, 3), "normal_stage1": True, "count_include_pad": False}

VARIANTS = [
    _row("res2net50_48w_2s", "Res2Net50_48w2s", 50, 48, 2),
    _row("res2net50_26w_4s", "Res2Net50_26w4s", 50, 26, 4),
    _row("res2net50_14w_8s", "Res2Net50_14w8s", 50, 14, 8),
    _row("res2net50_26w_6s", "Res2Net50_26w6s", 50, 26, 6),
    _row("res2net50_26w_8s", "Res2Net50_26w8s", 50, 26, 8),
    _row("res2net50_18w_4s", "Res2Net50_18w4s", 50, 18, 4),
    _row("res2net101_26w_4s", "Res2Net101_26w4s", 101, 26, 4),
    _row("res2next50", "Res2NeXt50", 50, 4, 4, cardinality=8),
    _row("seres2net50_26w_4s", "SERes2Net50_26w4s", 50, 26, 4, attention="se"),
    _row("res2net50d", "Res2Net50D", 50, 26, 4, **D),
    _row("res2net101d", "Res2Net101D", 101, 26, 4, **D),
    _row("res2net50_v1b_26w_4s", "Res2Net50V1b_26w4s", 50, 26, 4, **D),
    _row("res2net101_v1b_26w_4s", "Res2Net101V1b_26w4s", 101, 26, 4, **D),
    _row("res2net152_v1b_26w_4s", "Res2Net152V1b_26w4s", 152, 26, 4, **D),
    _row("res2net200_v1d_26w_4s", "Res2Net200V1d_26w4s", 200, 26, 4, **PADDLE),
]
VARIANTS += [_cifar_row(6, 24, 4), _cifar_row(8, 25, 4), _cifar_row(6, 24, 6)]

BUILDERS = register(VARIANTS)
