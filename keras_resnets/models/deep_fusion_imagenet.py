"""Merge-and-run networks for ImageNet, and the residual network beside them: the second half of `deep_fusion.py`.

Bottlenecks, the stride in the 3x3. The stem is a 7x7 convolution alone, with neither normalisation nor ReLU, so that the max
pool sees signed values. Blocks that change the channels, the first of every stage, have no shortcut at all: stage 1 of
`dfn_mr50` merges nothing, stages 2 and 4 once. The classifier reads both streams.

`dfn_mr26` is in neither paper nor code: it has half the blocks of `dfn_mr50`, rounded, as that has half those of
`fusenet_resnet98`.
"""

import dataclasses
from typing import Any, Literal

import keras

from keras_resnets.assembly import BlockPlace, level
from keras_resnets.layers import MaxPool2D
from keras_resnets.layers.conv import bare_conv
from keras_resnets.layers.merge_and_run import MergeAndRun
from keras_resnets.layers.residual import ShortcutKind
from keras_resnets.models.deep_fusion import PAPER, FusionSpec, fused_stages
from keras_resnets.models.resnet import WIDTHS, Bottleneck
from keras_resnets.registry import Rename, Variant, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionImageNetSpec(FusionSpec):
    """A row for ImageNet.

    Attributes:
        depths: blocks per stage.
        output_stride: 32, 16 or 8; smaller ones dilate the last stages instead of striding.
    """

    depths: tuple[int, int, int, int]
    output_stride: Literal[32, 16, 8] = 32

    def shared(self, place: BlockPlace) -> dict[str, Any]:
        # A branch without a shortcut that started at zero would stay there.
        zero_gamma = self.zero_gamma and place.index > 0
        return {**super().shared(place), "zero_gamma": zero_gamma, "dilation": place.first_dilation}


class BottleneckSpec(FusionImageNetSpec):
    """Residual bottlenecks."""

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        shortcut: ShortcutKind = "none" if place.index == 0 else "B"
        width = WIDTHS[stage]
        return Bottleneck(4 * width, width, place.strides, shortcut=shortcut, **self.shared(place))


class MergeAndRunBottleneckSpec(FusionImageNetSpec):
    """Merge-and-run on two streams of bottlenecks."""

    streams = 2

    def block(self, stage: int, place: BlockPlace) -> keras.layers.Layer:
        width = WIDTHS[stage]
        return MergeAndRun(4 * width, width, place.strides, merge=place.index > 0, **self.shared(place))


def fusion_imagenet(spec: Any, inputs: Any) -> Any:
    """A bare 7x7 stem, max pool and four stages of blocks."""
    x = level(bare_conv(64, 7, 2, name="stem")(inputs), "C1")
    x = MaxPool2D(3, 2, padding=1, name="stem_pool")(x)
    return fused_stages(x, spec, stem_stride=4, output_stride=spec.output_stride)


# Our variable paths to MXNet's names; "l" and "r" are the two streams.
MXNET_NAMES: list[Rename] = [
    (r"^stem/kernel$", "g0_weight"),
    (r"^stage(\d)_block(\d+)/", r"g\1_b\2_"),
    (r"_first_conv(\d)/", r"_deep1l_conv\1/"),
    (r"_second_conv(\d)/", r"_deep1r_conv\1/"),
    (r"^(g\d_b\d+)_conv(\d)/", r"\1_deep1_conv\2/"),
    (r"conv(\d)/norm/moving_variance$", r"bn\1_moving_var"),
    (r"conv(\d)/norm/", r"bn\1_"),
    (r"(conv\d)/conv/kernel$", r"\1_weight"),
    (r"^predictions/kernel$", "fc_score_weight"),
    (r"^predictions/", "fc_score_"),
]


def _row(name: str, builder: str, family: str, spec: FusionImageNetSpec) -> Variant:
    return Variant(name, builder, family, PAPER, fusion_imagenet, spec, MXNET_NAMES)


VARIANTS = [
    _row("dfn_mr26", "DFNMR26", "DMRN", MergeAndRunBottleneckSpec(depths=(1, 1, 5, 1))),
    _row("dfn_mr50", "DFNMR50", "DMRN", MergeAndRunBottleneckSpec(depths=(1, 2, 11, 2))),
    _row("fusenet_resnet98", "FuseNetResNet98", "FuseNet", BottleneckSpec(depths=(2, 4, 22, 4))),
]

BUILDERS = register(VARIANTS)
