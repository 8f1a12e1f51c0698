"""ResNet v2: pre-activation residual networks (He et al., 2016, arXiv 1603.05027).

Batch normalisation and ReLU come before every convolution and nothing follows the addition, so that identities run through a
stage untouched; a last normalisation and ReLU precede the pooling. In the first unit of a stage that changes the shape,
normalisation and ReLU come before the split and feed the projection as well.

Public code differs around the stem, the field `layout`:

* "timm" (`resnetv2_*`): the max pool reads the bare stem convolution;
* "fb" (`preresnet*`): stem convolution, normalisation, ReLU, max pool; the first unit of stage 1 is not pre-activated;
* "keras" (`resnet*_v2`, as in keras.applications): the stem has a bias and its max pool pads with zeros; the stride is in the
  *last* unit of stages 1 to 3, where the shortcut takes every second pixel. The biases of keras.applications' other
  convolutions are left out: they are redundant beside the normalisations, `equivalence.carry_keras_applications` folds them in.

`preresnet*_cifar` have a bare 3x3 stem and no pool; the first unit of *every* stage is shared, also where the shape stays
(appendix of the paper, and the authors' code).

Feature levels are taken after the next normalisation and ReLU, since raw sums are not normalised; "C1" of the layouts "timm" and
"keras" is the bare stem. With the layout "keras" a stage's level is what the strided unit at its end reads: stride 4 for stage 1.
"""

import dataclasses
from typing import Any, Literal

import keras

from keras_resnets.assembly import BlockPlace, DeepStem, Spec, level, stage_plan
from keras_resnets.layers import Conv2D, ConvNorm, MaxPool2D, NormAct
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.layers.conv import bare_conv, he_fan_out
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.models.resnet import DEEP, DEPTHS, TIERED, WIDTHS
from keras_resnets.registry import Rename, Variant, register


@register_layer
class PreActBlock(ResidualBlock):
    """Pre-activated 3x3 → 3x3, or 1x1 → 3x3 → 1x1, added to a shortcut (arXiv 1603.05027, figure 1b).

    Input `(batch, height, width, channels)`, or a list of that and its pre-activation, which the branch then reads; output
    `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        width: channels of a bottleneck's 3x3; None for a basic block.
        strides: of the block, in the (first) 3x3, or in the first 1x1 with `stride_in_1x1`.
        preactivate: the branch starts with normalisation and ReLU and the shortcut reads the raw input; otherwise both
            read the input as it is (a shared pre-activation stands before the block).
        first_dilation, dilation: of the first and any other 3x3.
        zero_gamma: start the last convolution at zero, there being no normalisation after it.
        shortcut, norm, drop_path: see `ResidualBlock`; projections are bare convolutions.
    """

    activation_after = False

    def __init__(self, filters: int, width: int | None = None, strides: int = 1, *, norm: dict[str, Any],
                 preactivate: bool = True, stride_in_1x1: bool = False, first_dilation: int = 1, dilation: int = 1,
                 zero_gamma: bool = False, shortcut: ShortcutKind = "B", drop_path: float = 0.0,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, None, drop_path, **kwargs)
        normed: dict[str, Any] = {"activation": "relu", "norm": norm}
        if preactivate:
            self.branch.append(NormAct(norm, name="preact"))
        if width is None:
            self.branch += [
                ConvNorm(filters, 3, strides, dilation=first_dilation, name="conv1", **normed),
                bare_conv(filters, 3, dilation=dilation, zero=zero_gamma, name="conv2"),
            ]
        else:
            first, second = (strides, 1) if stride_in_1x1 else (1, strides)
            self.branch += [
                ConvNorm(width, 1, first, name="conv1", **normed),
                ConvNorm(width, 3, second, dilation=first_dilation, name="conv2", **normed),
                bare_conv(filters, 1, zero=zero_gamma, name="conv3"),
            ]

    def build(self, input_shape: Any) -> None:
        super().build(_raw(input_shape))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return super().compute_output_shape(_raw(input_shape))

    def call(self, x: Any) -> Any:
        if not isinstance(x, (list, tuple)):
            return super().call(x)
        raw, preactivated = x
        return self.drop_path(chain(self.branch, preactivated)) + chain(self.shortcut, raw)


def _raw(shape: Any) -> Shape:
    """The first of several shapes, or the only one."""
    return tuple(shape[0] if isinstance(shape[0], (list, tuple)) else shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetV2Spec(Spec):
    """A row of the ImageNet table.

    Attributes:
        block: "basic" or "bottleneck".
        depths: blocks per stage.
        stem: widths of the stem's convolutions; one means a 7x7, three mean 3x3.
        shortcut: "B", or "D" with an average pool before strided projections.
        layout: whose public code to follow: "timm", "fb" or "keras".
        output_stride: 32, 16 or 8; smaller ones dilate the last stages instead of striding.
    """

    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, int, int, int]
    stem: tuple[int, ...] = (64,)
    shortcut: Literal["B", "D"] = "B"
    layout: Literal["timm", "fb", "keras"] = "timm"
    output_stride: Literal[32, 16, 8] = 32


def _stem(spec: ResNetV2Spec, x: Any) -> Any:
    """The stem up to and with the max pool; its last convolution is bare unless the layout says otherwise."""
    if spec.layout == "fb":
        x = level(ConvNorm(spec.stem[0], 7, 2, activation="relu", norm=spec.norm, name="stem")(x), "C1")
        return MaxPool2D(3, 2, padding=1, nonnegative=True, name="stem_pool")(x)
    if spec.layout == "keras":
        bias_stem = Conv2D(spec.stem[0], 7, 2, "symmetric", kernel_initializer=he_fan_out(), name="stem")
        # Zeros that take part in the maximum, of signed values: this follows keras.applications, not the reference.
        x = keras.layers.ZeroPadding2D(1, name="stem_pad")(level(bias_stem(x), "C1"))
        return MaxPool2D(3, 2, name="stem_pool")(x)
    single = len(spec.stem) == 1
    bare = bare_conv(spec.stem[0], 7, 2, name="stem") if single else DeepStem(spec.stem, spec.norm, True, name="stem")
    return MaxPool2D(3, 2, padding=1, name="stem_pool")(level(bare(x), "C1"))


def resnetv2(spec: ResNetV2Spec, inputs: Any) -> Any:
    """Stem, four stages of pre-activated blocks, the last normalisation and ReLU."""
    x = _stem(spec, inputs)
    plan = list(stage_plan(spec.depths, spec.drop_path_rate, spec.output_stride))
    if spec.layout == "keras":
        plan = _stride_in_last_block(plan)
    expansion = 4 if spec.block == "bottleneck" else 1
    has_level = True  # whether the stage before has been given its level: before stage 1 that is the stem
    for stage, (places, width) in enumerate(zip(plan, WIDTHS, strict=True), start=1):
        for place in places:
            changes = place.index == 0 and (place.strides > 1 or x.shape[-1] != width * expansion)
            bare_start = spec.layout == "fb" and stage == 1 and place.index == 0
            if changes and not bare_start:
                x = NormAct(spec.norm, name=f"stage{stage}_preact")(x)
            if place.index == 0 and not has_level:
                x = level(x, f"C{stage}")
            has_level = spec.layout == "keras" and stage < 4 and place is places[-1] and place.index > 0
            if has_level:
                x = [x, level(NormAct(spec.norm, name=f"{place.name}_preact")(x), f"C{stage + 1}")]
            x = PreActBlock(
                width * expansion, width if spec.block == "bottleneck" else None, place.strides, norm=spec.norm,
                preactivate=not (changes or bare_start or has_level), first_dilation=place.first_dilation, dilation=place.dilation,
                shortcut="P" if spec.layout == "keras" else spec.shortcut, drop_path=place.drop_path,
                zero_gamma=spec.zero_gamma, name=place.name,
            )(x)  # fmt: skip
    return level(NormAct(spec.norm, name="norm")(x), "C5")


def _stride_in_last_block(plan: list[list[BlockPlace]]) -> list[list[BlockPlace]]:
    """Moves each stage's stride to the last block of the stage before. What follows a stride that was taken away is dilated:
    all blocks of a stage, with its first."""
    strides = [*(places[0].strides for places in plan[1:]), 1]
    moved = []
    for places, last in zip(plan, strides, strict=True):
        dilated = [dataclasses.replace(place, strides=1, first_dilation=place.dilation) for place in places]
        moved.append([*dilated[:-1], dataclasses.replace(dilated[-1], strides=last)])
    return moved


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarResNetV2Spec(Spec):
    """A row of the CIFAR table.

    Attributes:
        block: "basic", or "bottleneck" with the stride in the first 1x1 (the authors' code).
        depth: blocks per stage.
        widths: base widths of the stages; the first one is the stem's.
        shortcut: "A" or "B".
    """

    block: Literal["basic", "bottleneck"] = "basic"
    depth: int
    widths: tuple[int, int, int] = (16, 32, 64)
    shortcut: Literal["A", "B"] = "B"


def resnetv2_cifar(spec: CifarResNetV2Spec, inputs: Any) -> Any:
    """A bare 3x3 stem, three stages, the last normalisation and ReLU; strides 1, 2 and 4."""
    x = level(bare_conv(spec.widths[0], 3, name="stem")(inputs), "C1")
    expansion = 4 if spec.block == "bottleneck" else 1
    plan = stage_plan([spec.depth] * 3, spec.drop_path_rate, stem_stride=1)
    for stage, (places, width) in enumerate(zip(plan, spec.widths, strict=True), start=1):
        x = NormAct(spec.norm, name=f"stage{stage}_preact")(x)
        if stage > 1:
            x = level(x, f"C{stage}")
        for place in places:
            x = PreActBlock(
                width * expansion, width if spec.block == "bottleneck" else None, place.strides, norm=spec.norm,
                preactivate=place.index > 0, stride_in_1x1=True, shortcut=spec.shortcut, drop_path=place.drop_path,
                zero_gamma=spec.zero_gamma, name=place.name,
            )(x)  # fmt: skip
    return level(NormAct(spec.norm, name="norm")(x), "C4")


# Our variable paths to timm's names.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/norm/", "stem.norm/"),
    (r"^stem/conv(\d)/norm/", r"stem.norm\1/"),
    (r"^stem/conv(\d)/(conv/)?", r"stem.conv\1/"),
    (r"^stem/(conv/)?", "stem.conv/"),
    (r"^norm/norm/", "norm/"),
    (r"^stage(\d+)_preact/norm/", lambda m: f"stages.{int(m[1]) - 1}.blocks.0.norm1/"),
    (r"^(stage\d+_block\d+)_preact/", r"\1/preact/"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 1}."),
    (r"\.preact/norm/", ".norm1/"),
    (r"\.conv(\d)/norm/", lambda m: f".norm{int(m[1]) + 1}/"),
    (r"\.conv(\d)/conv/", r".conv\1/"),
    (r"\.shortcut/", ".downsample.conv/"),
    (r"^predictions/kernel", "head.fc.weight|1x1"),  # timm's classifier is a 1x1 convolution
    (r"^predictions/", "head.fc/"),
]
# And to those of the common PyTorch port for CIFAR.
CIFAR_PYTORCH_NAMES: list[Rename] = [
    (r"^stem/", "conv1/"),
    (r"^norm/norm/", "bn/"),
    (r"^stage(\d+)_preact/norm/", r"layer\1.0.bn1/"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"layer{m[1]}.{int(m[2]) - 1}."),
    (r"\.preact/norm/", ".bn1/"),
    (r"\.conv(\d)/norm/", lambda m: f".bn{int(m[1]) + 1}/"),
    (r"\.conv(\d)/conv/", r".conv\1/"),
    (r"\.shortcut/", ".downsample.0/"),
    (r"^predictions/", "fc/"),
]

RESNETV2 = "He et al., 2016, arXiv 1603.05027"


def _row(name: str, builder: str, depth: int, **fields: Any) -> Variant:
    spec = ResNetV2Spec(block="basic" if depth < 50 else "bottleneck", depths=DEPTHS[depth], **fields)
    return Variant(name, builder, "ResNetV2", RESNETV2, resnetv2, spec, PYTORCH_NAMES)


def _cifar_row(layers: int) -> Variant:
    block: Literal["basic", "bottleneck"] = "basic" if layers == 110 else "bottleneck"
    spec = CifarResNetV2Spec(block=block, depth=(layers - 2) // (6 if block == "basic" else 9))
    return Variant(f"preresnet{layers}_cifar", f"PreResNet{layers}Cifar", "PreResNet-CIFAR", RESNETV2, resnetv2_cifar, spec,
                   CIFAR_PYTORCH_NAMES, input_size=32, classes=10)  # fmt: skip


VARIANTS = [_row(f"resnetv2_{depth}", f"ResNetV2_{depth}", depth) for depth in (18, 34, 50, 101, 152, 200)]
VARIANTS += [
    _row(f"resnetv2_{depth}d", f"ResNetV2_{depth}D", depth, stem=DEEP, shortcut="D") for depth in (18, 34, 50, 101, 152)
]
VARIANTS += [_row("resnetv2_50t", "ResNetV2_50T", 50, stem=TIERED, shortcut="D")]
VARIANTS += [
    _row(f"preresnet{depth}", f"PreResNet{depth}", depth, layout="fb") for depth in (18, 34, 50, 101, 152, 200)
]
VARIANTS += [_row(f"resnet{depth}_v2", f"ResNet{depth}V2", depth, layout="keras") for depth in (50, 101, 152)]
VARIANTS += [_cifar_row(layers) for layers in (110, 164, 1001)]

BUILDERS = register(VARIANTS)
