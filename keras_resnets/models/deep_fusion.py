"""Deep fusion on 32x32 images: merge-and-run networks, and the others of their study (Zhao et al., 2016, arXiv 1611.07718).

A residual network is many networks of different depths, fused. The study makes that ensemble larger and its members shallower
without more weights, with two branches of two 3x3 convolutions side by side in every block:

* `dmrn*` (the authors' DFN-MR, later DMRNet): merge-and-run on two streams, which start as copies of the stem's map; where the
  shape changes each stream has a projection of its own; the last block joins the streams;
* `diln*`: both branches read one map and are added to it ("inception-like"), in one row without the identity;
* `fusenet_plain*`, `fusenet_resnet*`: what they are compared with. The residual networks differ from `resnet*_cifar` in their
  projections, which are convolutions with normalisation (option B);
* `fuse3_*`, `fuse6_*`: three and six fusions in all, each of a long path with a short one: an identity, or a single
  convolution at the very first fusion and where the shape changes.

Numbers in names are layers, those side by side counted once, and how many times wider the network is.

We follow the authors' MXNet code: epsilon 2e-5, moving variances of the biased variance, MXNet's parameter names in
`load_pytorch_weights`. One thing is the package's: that code starts convolutions with a standard deviation of
`sqrt(2 / fan_in)` and the classifier uniformly within `1 / sqrt(fan_in)`, ours with `sqrt(2 / fan_out)`, which is the same
where a convolution keeps the channels, and Glorot's uniform.
"""

import dataclasses
from typing import Any, ClassVar

import keras
from keras import ops as kops

from keras_resnets.assembly import BlockPlace, Spec, level, stage_plan, stages
from keras_resnets.layers import ConvNorm
from keras_resnets.layers.base import register_layer
from keras_resnets.layers.merge_and_run import InceptionLikeBlock, MergeAndRun
from keras_resnets.layers.residual import ResidualBlock
from keras_resnets.models.resnet import BasicBlock
from keras_resnets.registry import Rename, Variant, register


@register_layer
class LongShortBlock(ResidualBlock):
    """`ReLU(long(x) + short(x))`: a chain of 3x3 convolutions beside an identity or a single one.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: of all convolutions.
        convs: convolutions of the long path, the last one without its ReLU.
        strides: of the first convolutions.
        norm: keyword arguments of `BatchNorm`.
        short_conv: make the short path a 3x3 convolution even where the shape stays.
        zero_gamma: start the long path at zero.
        drop_path: rate of stochastic depth, of the long path.
    """

    def __init__(self, filters: int, convs: int, strides: int = 1, *, norm: dict[str, Any], short_conv: bool = False,
                 zero_gamma: bool = False, drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, "B", norm, drop_path, **kwargs)
        self.filters, self.strides, self.norm, self.short_conv = filters, strides, norm, short_conv
        self.branch = [
            ConvNorm(filters, 3, strides if i == 0 else 1, activation=None if i == convs - 1 else "relu", norm=norm,
                     zero_gamma=zero_gamma and i == convs - 1, name=f"long{i}")
            for i in range(convs)
        ]  # fmt: skip

    def make_shortcut(self, channels: int) -> list[keras.layers.Layer]:
        if not self.short_conv and self.strides == 1 and channels == self.filters:
            return []
        return [ConvNorm(self.filters, 3, self.strides, norm=self.norm, name="short")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionSpec(Spec):
    """A row of this file's networks; `block` makes the block at a place of stage 0, 1, …"""

    bn_epsilon: float = 2e-5
    streams: ClassVar[int] = 1  # two, in merge-and-run networks

    @property
    def norm(self) -> dict[str, Any]:
        return {**super().norm, "biased_variance": True}

    def shared(self, place: BlockPlace) -> dict[str, Any]:
        """Arguments of every block with a shortcut."""
        return {"norm": self.norm, "zero_gamma": self.zero_gamma, "drop_path": place.drop_path, "name": place.name}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionCifarSpec(FusionSpec):
    """A row for 32x32 images.

    Attributes:
        depths: blocks per stage.
        widths: of the stages; the first one is the stem's.
    """

    depths: tuple[int, int, int]
    widths: tuple[int, int, int] = (16, 32, 64)


class PlainSpec(FusionCifarSpec):
    """Single convolutions, one after the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("plain networks have no shortcuts")

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        width = self.widths[stage]
        return ConvNorm(width, 3, place.strides, activation="relu", norm=self.norm, name=place.name)


class ResidualSpec(FusionCifarSpec):
    """Basic blocks with projections where the shape changes."""

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        return BasicBlock(self.widths[stage], place.strides, **self.shared(place))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionLikeSpec(FusionCifarSpec):
    """Inception-like blocks.

    Attributes:
        identity: see `InceptionLikeBlock`.
    """

    identity: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.identity:
            self.refuse_residual_options("blocks with identity=False have no shortcuts")

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        return InceptionLikeBlock(self.widths[stage], place.strides, identity=self.identity, **self.shared(place))


class MergeAndRunSpec(FusionCifarSpec):
    """Merge-and-run blocks; the last one joins the streams."""

    streams = 2

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        last = stage == 2 and place.index == self.depths[2] - 1
        return MergeAndRun(self.widths[stage], None, place.strides, join=last, **self.shared(place))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongShortSpec(FusionCifarSpec):
    """Long paths beside short ones; `depths` counts the fusions.

    Attributes:
        convs: convolutions of a long path.
    """

    convs: int

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        first = stage == 0 and place.index == 0
        return LongShortBlock(self.widths[stage], self.convs, place.strides, short_conv=first, **self.shared(place))


def fusion_cifar(spec: Any, inputs: Any) -> Any:
    """A 3x3 stem and three stages of blocks, at strides 1, 2 and 4."""
    x = level(ConvNorm(spec.widths[0], 3, activation="relu", norm=spec.norm, name="stem")(inputs), "C1")
    return fused_stages(x, spec, stem_stride=1)


def fused_stages(x: Any, spec: Any, stem_stride: int, output_stride: int = 32) -> Any:
    """All blocks of `spec`. Two streams start as copies of `x`; a level of them is one map, the first stream's channels
    before those of the second."""
    plan = stage_plan(spec.depths, spec.drop_path_rate, output_stride, stem_stride)
    if spec.streams == 1:
        return stages(x, spec, plan, lambda spec, stage, place: spec.block(stage, place))
    for stage, places in enumerate(plan):
        streams = kops.split(x, 2, axis=-1) if stage else [x, x]
        for place in places:
            streams = spec.block(stage, place)(streams)
        if isinstance(streams, list):
            streams = keras.layers.Concatenate(name=f"stage{stage + 1}_streams")(streams)
        x = level(streams, f"C{stage + 2}")
    return x


def stage_depths(layers: int, convs: int) -> tuple[int, int, int]:
    """Blocks per stage by the study's rule.

    Args:
        layers: of a plain network with as many convolutions, stem and classifier included: the study's "depth", by which it
            compares networks. Each stage gets its share of what is left for it, rounded down.
        convs: convolutions of a block.

    Raises:
        ValueError: a stage would have no block.
    """
    depths, left = [], layers - 2
    for remaining in (3, 2, 1):
        depths.append(left // (convs * remaining))
        left -= depths[-1] * convs
    if min(depths) < 1:
        raise ValueError(f"layers must be at least {3 * convs + 2} for three stages of blocks of {convs} convolutions, "
                         f"not {layers}")  # fmt: skip
    return (depths[0], depths[1], depths[2])


def _mxnet_names(*own: Rename) -> list[Rename]:
    """Rules from our variable paths to MXNet's names: a family's `own`, then those that all share."""
    return [
        *own,
        (r"^stage(\d)_block(\d+)/", r"g\1_b\2/"),
        (r"^stem/", "g0/"),
        (r"/norm/moving_variance$", "_bn_moving_var"),
        (r"/norm/", "_bn_"),
        (r"/conv/kernel$", "_conv_weight"),
        (r"^(g\d_b\d+)/", r"\1_"),
        (r"^predictions/kernel$", "cls_fc_weight"),
        (r"^predictions/", "cls_fc_"),
    ]


PLAIN_NAMES = _mxnet_names((r"^(stage\d_block\d+)/", r"\1/p1/"))
RESIDUAL_NAMES = _mxnet_names((r"/shortcut/", "/p0_line/"), (r"/conv(\d)/", r"/p2_two\1/"))
INCEPTION_LIKE_NAMES = _mxnet_names(
    (r"/shortcut/", "/p0_line/"), (r"/first_conv(\d)/", r"/p1_two\1/"), (r"/second_conv(\d)/", r"/p2_two\1/")
)
MERGE_AND_RUN_NAMES = _mxnet_names(
    (r"/first_shortcut/", "/l1_line/"),
    (r"/second_shortcut/", "/l2_line/"),
    (r"/first_conv(\d)/", r"/d1_two\1/"),
    (r"/second_conv(\d)/", r"/d2_two\1/"),
)
LONG_SHORT_NAMES = _mxnet_names((r"/short/", "/p0_line/"), (r"/long(\d+)/", r"/p2_\1/"))

PAPER = "Zhao et al., 2016, arXiv 1611.07718"


def _row(name: str, builder: str, names: list[Rename], spec: FusionCifarSpec, family: str = "FuseNet") -> Variant:
    return Variant(
        f"{name}_cifar", f"{builder}Cifar", family, PAPER, fusion_cifar, spec, names, input_size=32, classes=10
    )


def _two_branches(layers: int, factor: int = 1) -> dict[str, Any]:
    """Depths and widths of a network of `layers`, those side by side counted once, that is `factor` times as wide."""
    return {"depths": stage_depths(2 * layers - 2, 4), "widths": (16 * factor, 32 * factor, 64 * factor)}


def _long_short(fusions: int, layers: int) -> Variant:
    """A row with `layers` on its longest path."""
    spec = LongShortSpec(depths=(fusions // 3,) * 3, convs=(layers - 2) // fusions)
    return _row(f"fuse{fusions}_{layers}", f"Fuse{fusions}_{layers}", LONG_SHORT_NAMES, spec)


VARIANTS = [
    _row("dmrn32", "DMRN32", MERGE_AND_RUN_NAMES, MergeAndRunSpec(**_two_branches(32)), "DMRN"),
    _row("dmrn50", "DMRN50", MERGE_AND_RUN_NAMES, MergeAndRunSpec(**_two_branches(50)), "DMRN"),
    _row("dmrn56", "DMRN56", MERGE_AND_RUN_NAMES, MergeAndRunSpec(**_two_branches(56)), "DMRN"),
    _row("dmrn32_w4", "DMRN32W4", MERGE_AND_RUN_NAMES, MergeAndRunSpec(**_two_branches(32, 4)), "DMRN"),
    _row("dmrn50_w4", "DMRN50W4", MERGE_AND_RUN_NAMES, MergeAndRunSpec(**_two_branches(50, 4)), "DMRN"),
    _row("diln32", "DILN32", INCEPTION_LIKE_NAMES, InceptionLikeSpec(**_two_branches(32)), "DILN"),
    _row("diln50", "DILN50", INCEPTION_LIKE_NAMES, InceptionLikeSpec(**_two_branches(50)), "DILN"),
    _row("diln56", "DILN56", INCEPTION_LIKE_NAMES, InceptionLikeSpec(**_two_branches(56)), "DILN"),
    _row("diln32_w4", "DILN32W4", INCEPTION_LIKE_NAMES, InceptionLikeSpec(**_two_branches(32, 4)), "DILN"),
    _row("diln50_w4", "DILN50W4", INCEPTION_LIKE_NAMES, InceptionLikeSpec(**_two_branches(50, 4)), "DILN"),
    _row("diln56_noidentity", "DILN56NoIdentity", INCEPTION_LIKE_NAMES,
         InceptionLikeSpec(**_two_branches(56), identity=False), "DILN"),
    *(_row(f"fusenet_plain{layers}", f"FuseNetPlain{layers}", PLAIN_NAMES, PlainSpec(depths=stage_depths(layers, 1)))
      for layers in (20, 32, 56, 110)),
    *(_row(f"fusenet_resnet{layers}", f"FuseNetResNet{layers}", RESIDUAL_NAMES, ResidualSpec(depths=stage_depths(layers, 2)))
      for layers in (20, 32, 56, 110)),
    *(_long_short(fusions, layers) for fusions in (3, 6) for layers in (20, 26, 56)),
]  # fmt: skip

BUILDERS = register(VARIANTS)
