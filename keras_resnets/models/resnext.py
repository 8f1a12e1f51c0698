"""ResNeXt: aggregated residual transformations (Xie et al., 2017, arXiv 1611.05431).

A ResNet whose bottleneck's 3x3 is a grouped convolution: `cardinality` groups of `base_width` channels in the first stage,
twice as many per group in each later one. A name like 32x4d gives both. The stride is in the 3x3, as in the released code.

The block has three equivalent forms (figure 3), the option `form`:

* "a": `cardinality` branches 1x1 → 3x3 → 1x1 whose outputs are summed;
* "b": branches 1x1 → 3x3, concatenated, one 1x1;
* "c": 1x1, grouped 3x3, 1x1: the fast one, the default, the only one that public weights fit.

`keras_resnets.equivalence.carry_form` carries weights between them. Weights pre-trained on hashtags (WSL) and FixRes weights are
for rows of this table; their networks are not different.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_resnets.assembly import BlockPlace, Spec
from keras_resnets.layers import Composite, ConvNorm, NormAct
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.layers.conv import bare_conv
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
    resnet,
    resnet_block,
)
from keras_resnets.models.resnet_cifar import resnet_cifar
from keras_resnets.registry import Rename, Variant, register

Form = Literal["a", "b", "c"]


@register_layer
class SplitTransform(Composite):
    """`cardinality` independent branches 1x1 → 3x3, concatenated; or 1x1 → 3x3 → 1x1 to `filters` channels, summed.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, cardinality · width)`, or
    `filters` channels if they are given.

    Args:
        width: channels of each branch.
        cardinality: number of branches.
        norm: keyword arguments of `BatchNorm`.
        strides, dilation: of the 3x3 convolutions.
        filters: channels of the branches' last 1x1; None leaves it out.
    """

    def __init__(self, width: int, cardinality: int, *, norm: dict[str, Any], strides: int = 1, dilation: int = 1,
                 filters: int | None = None, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.width, self.cardinality, self.filters = width, cardinality, filters
        self.paths: list[list[keras.layers.Layer]] = [
            [
                ConvNorm(width, 1, activation="relu", norm=norm, name=f"path{i}_conv1"),
                ConvNorm(width, 3, strides, dilation=dilation, activation="relu", norm=norm, name=f"path{i}_conv2"),
            ]
            for i in range(cardinality)
        ]
        if filters:
            for i, path in enumerate(self.paths):
                path.append(bare_conv(filters, 1, name=f"path{i}_conv3"))

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return self.paths

    def call(self, x: Any) -> Any:
        outputs = [chain(path, x) for path in self.paths]
        return sum(outputs[1:], outputs[0]) if self.filters else concatenate(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = super().compute_output_shape(input_shape)
        return (*shape[:-1], self.filters or self.cardinality * self.width)


@register_layer
class SplitBottleneck(ResidualBlock):
    """The ResNeXt block in form "a" or "b" (arXiv 1611.05431, figure 3); `resnet.Bottleneck` is form "c".

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        width: channels of all branches together.
        strides, dilation: of the 3x3 convolutions.
        groups: number of branches, the cardinality.
        form: "a" or "b".
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, width: int, strides: int = 1, *, norm: dict[str, Any], groups: int, form: Form,
                 dilation: int = 1, zero_gamma: bool = False, shortcut: ShortcutKind = "B", drop_path: float = 0.0,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        split: dict[str, Any] = {"norm": norm, "strides": strides, "dilation": dilation, "name": "transforms"}
        if form == "a":
            # One normalisation after the sum: branches that normalised on their own would not equal form "c".
            norm = {**norm, "zero_gamma": zero_gamma}
            last = NormAct(norm, activation=None, name="sum_norm")
            self.branch = [SplitTransform(width // groups, groups, filters=filters, **split), last]
        else:
            last = ConvNorm(filters, 1, norm=norm, zero_gamma=zero_gamma, name="conv3")
            self.branch = [SplitTransform(width // groups, groups, **split), last]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNeXtSpec(ResNetSpec):
    """A row of the ImageNet table: `ResNetSpec`, and `form`, the form of the block."""

    form: Form = "c"


def resnext_block(spec: ResNeXtSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3, in the form asked for."""
    if spec.form == "c":
        return resnet_block(spec, stage, place)
    return SplitBottleneck(
        WIDTHS[stage] * 4, spec.width(stage), place.strides, norm=spec.norm, groups=spec.cardinality, form=spec.form,
        dilation=place.first_dilation, zero_gamma=spec.zero_gamma, shortcut=spec.shortcut, drop_path=place.drop_path,
        name=place.name,
    )  # fmt: skip


def resnext(spec: ResNeXtSpec, inputs: Any) -> Any:
    """A ResNet of ResNeXt blocks."""
    return resnet(spec, inputs, resnext_block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarResNeXtSpec(Spec):
    """A row of the CIFAR table (arXiv 1611.05431, section 5.2).

    Attributes:
        depth: blocks per stage.
        cardinality, base_width: groups of the 3x3 and channels per group in the first stage.
        widths: base widths of the stages; blocks have four times as many output channels; the first one is the stem's.
        shortcut: "A", "B" or "C".
        form: of the block.
    """

    depth: int = 3
    cardinality: int
    base_width: int = 64
    widths: tuple[int, int, int] = (64, 128, 256)
    shortcut: ShortcutKind = "B"
    form: Form = "c"


def resnext_cifar_block(spec: CifarResNeXtSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 2, in the form asked for."""
    arguments: dict[str, Any] = {
        "strides": place.strides, "norm": spec.norm, "groups": spec.cardinality, "shortcut": spec.shortcut,
        "drop_path": place.drop_path, "zero_gamma": spec.zero_gamma, "name": place.name,
    }  # fmt: skip
    filters, width = spec.widths[stage] * 4, spec.widths[stage] * spec.base_width // 64 * spec.cardinality
    if spec.form == "c":
        return Bottleneck(filters, width, **arguments)
    return SplitBottleneck(filters, width, form=spec.form, **arguments)


def resnext_cifar(spec: CifarResNeXtSpec, inputs: Any) -> Any:
    """A CIFAR ResNet of ResNeXt blocks."""
    return resnet_cifar(spec, inputs, resnext_cifar_block)


# The names of the common PyTorch port of the CIFAR networks.
CIFAR_PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv/", "conv_1_3x3."),
    (r"^stem/norm/", "bn_1."),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"stage_{m[1]}.stage_{m[1]}_bottleneck_{int(m[2]) - 1}."),
    (r"conv1/conv/", "conv_reduce."),
    (r"conv1/norm/", "bn_reduce."),
    (r"conv2/conv/", "conv_conv."),
    (r"conv2/norm/", "bn."),
    (r"conv3/conv/", "conv_expand."),
    (r"conv3/norm/", "bn_expand."),
    (r"shortcut/conv/", "shortcut.shortcut_conv."),
    (r"shortcut/norm/", "shortcut.shortcut_bn."),
    (r"^predictions/", "classifier."),
]

RESNEXT = "Xie et al., 2017, arXiv 1611.05431"


def _row(depth: int, cardinality: int, base_width: int, suffix: str = "", **fields: Any) -> Variant:
    spec = ResNeXtSpec(depths=DEPTHS[depth], cardinality=cardinality, base_width=base_width, **fields)
    return Variant(
        name=f"resnext{depth}{suffix}_{cardinality}x{base_width}d",
        builder=f"ResNeXt{depth}{suffix.upper()}_{cardinality}x{base_width}d",
        family="ResNeXt",
        paper=RESNEXT,
        body=resnext,
        spec=spec,
        pytorch_names=PYTORCH_NAMES_D if spec.shortcut == "D" else PYTORCH_NAMES,
    )


def _cifar_row(cardinality: int) -> Variant:
    return Variant(
        name=f"resnext29_{cardinality}x64d_cifar",
        builder=f"ResNeXt29_{cardinality}x64dCifar",
        family="ResNeXt-CIFAR",
        paper=RESNEXT,
        body=resnext_cifar,
        spec=CifarResNeXtSpec(cardinality=cardinality),
        pytorch_names=CIFAR_PYTORCH_NAMES,
        input_size=32,
        classes=10,
    )


# Equal complexity (table 2 of the paper), then twice the complexity, then wider.
VARIANTS = [
    _row(depth, cardinality, base_width)
    for depth in (50, 101, 152)
    for cardinality, base_width in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4), (2, 64), (64, 4), (32, 8))
]
VARIANTS += [_row(101, 32, base_width) for base_width in (16, 32, 48)]
VARIANTS += [_row(depth, 32, 4, "d", stem=DEEP, shortcut="D") for depth in (50, 101)]
VARIANTS += [_cifar_row(cardinality) for cardinality in (1, 2, 4, 8, 16)]

BUILDERS = register(VARIANTS)
