"""Inception-v3 (Szegedy et al., 2015, arXiv 1512.00567): factorised convolutions side by side, without shortcuts.

    299x299 image → output            modules (InceptionModule: branches, concatenated in this order)
    stem      147x147x64, "C1"        3x3/2 32 v, 3x3 32 v, 3x3 64
    stage 1   71x71x192,  "C2"        max pool, 1x1 80, 3x3 192 v
    stage 2   35x35x288,  "C3"        max pool, three modules A: 5x5, two 3x3 in place of another 5x5
    stage 3   17x17x768,  "C4"        reduction B, four modules C: 7x7 as 1x7 and 7x1
    stage 4   8x8x2048,   "C5"        reduction D, two modules E: 3x3 fanned out into 1x3 and 3x1

"v" is no padding; 1x7 means height 1, width 7. Every convolution is followed by normalisation with epsilon 1e-3 and ReLU.
`aux_logits=True` adds the auxiliary classifier on stage 3, which serves training only (section 4; usual weight of its loss:
0.4): the output becomes `{"logits": …, "aux_logits": …}` in training and in inference, each `(batch, classes)`, and the
`classifier_activation` applies to both. Such a network needs images of at least 299 x 299, others of 75 x 75.
`keras_resnets.features.without_auxiliary` gives the network without it, as it is used and exported after training.

torchvision and timm have the same parameter names. Both count the zeros around the average pools' input, TensorFlow, where
the weights called `tf_…` come from, does not: `count_include_pad=False`. torchvision trains with dropout 0.5, TF-slim with
0.2 (`dropout_rate`). `transform_input=True` is torchvision's: images normalised with ImageNet's mean and deviation are
brought to (x/255 - 0.5)/0.5 inside the network.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import Spec, classifier, level
from keras_resnets.layers import AvgPool2D, ConvNorm, InceptionModule, MaxPool2D
from keras_resnets.layers.inception import Branches
from keras_resnets.registry import NORMALISATION, Rename, Variant, register


def module_a(pooled: int) -> Branches:
    """5x5 and two 3x3, `pooled` channels after the average pool (figure 5)."""
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": ["avg", (pooled, 1)],
    }


REDUCTION_B: Branches = {
    "branch3x3": [(384, 3, 2, "valid")],
    "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2, "valid")],
    "branch_pool": ["max"],
}


def module_c(width: int) -> Branches:
    """7x7 convolutions as 1x7 and 7x1, of `width` channels inside (figure 6)."""
    row, column = (1, 7), (7, 1)
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, row), (192, column)],
        "branch7x7dbl": [(width, 1), (width, column), (width, row), (width, column), (192, row)],
        "branch_pool": ["avg", (192, 1)],
    }


REDUCTION_D: Branches = {
    "branch3x3": [(192, 1), (320, 3, 2, "valid")],
    "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "valid")],
    "branch_pool": ["max"],
}

FAN: Branches = {"a": [(384, (1, 3))], "b": [(384, (3, 1))]}

# Figure 7.
MODULE_E: Branches = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), FAN],
    "branch3x3dbl": [(448, 1), (384, 3), FAN],
    "branch_pool": ["avg", (192, 1)],
}

STEM: Branches = {"conv": [(32, 3, 2, "valid"), (32, 3, 1, "valid"), (64, 3)]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionSpec(Spec):
    """What Inception networks share.

    Attributes:
        count_include_pad: whether the zeros around the average pools' input count in the divisor.
    """

    bn_epsilon: float = 1e-3
    count_include_pad: bool = True

    @property
    def smallest_input(self) -> int:
        """Unpadded convolutions leave one pixel of it."""
        return 75

    def module(self, branches: Branches, stage: int, block: int) -> InceptionModule:
        """The module with these branches, called after its place."""
        return InceptionModule(branches, norm=self.norm, count_include_pad=self.count_include_pad,
                               name=f"stage{stage}_block{block}")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionV3Spec(InceptionSpec):
    """The row of this table.

    Attributes:
        pooled: channels after the average pool of each module A.
        widths: channels of the factorised 7x7 convolutions of each module C.
        aux_logits: with the auxiliary classifier; the output is `{"logits": …, "aux_logits": …}`.
        transform_input: bring images normalised as "imagenet" to the normalisation "half".
    """

    pooled: tuple[int, ...] = (32, 64, 64)
    widths: tuple[int, ...] = (128, 160, 160, 192)
    aux_logits: bool = False
    transform_input: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("there are no residual branches")

    @property
    def smallest_input(self) -> int:
        """The auxiliary classifier's 5x5 convolution needs more than the rest."""
        return 299 if self.aux_logits else super().smallest_input

    def head(self, features: Any, classes: int, activation: str | None) -> Any:
        """The usual classifier; with `aux_logits`, of the first of two feature maps, and the auxiliary one of the second."""
        if not self.aux_logits:
            return super().head(features, classes, activation)
        last, inner = features
        x = AvgPool2D(5, 3, name="aux_pool")(inner)
        x = ConvNorm(128, 1, activation="relu", norm=self.norm, name="aux_conv0")(x)
        x = ConvNorm(768, 5, padding="valid", activation="relu", norm=self.norm, name="aux_conv1")(x)
        x = keras.layers.GlobalAveragePooling2D(name="aux_avg_pool")(x)
        return {
            "logits": super().head(last, classes, activation),
            "aux_logits": classifier(x, classes, activation, name="aux_predictions"),
        }


def first_stages(spec: InceptionSpec, x: Any) -> Any:
    """Stem, stage 1 and the pool after it; 192 channels of an eighth of the size."""
    x = level(InceptionModule(STEM, norm=spec.norm, name="stem")(x), "C1")
    x = MaxPool2D(3, 2, name="stem_pool")(x)
    x = ConvNorm(80, 1, activation="relu", norm=spec.norm, name="stage1_block1")(x)
    x = ConvNorm(192, 3, padding="valid", activation="relu", norm=spec.norm, name="stage1_block2")(x)
    return MaxPool2D(3, 2, name="stage1_pool")(level(x, "C2"))


def inception_v3(spec: InceptionV3Spec, inputs: Any) -> Any:
    """The last feature map; with `aux_logits`, that and the one that the auxiliary classifier reads."""
    x = first_stages(spec, _renormalised(inputs) if spec.transform_input else inputs)
    for stage, modules in enumerate(_stages(spec), start=2):
        for block, branches in enumerate(modules, start=1):
            x = spec.module(branches, stage, block)(x)
        x = level(x, f"C{stage + 1}")
        if stage == 3:
            inner = x
    return (x, inner) if spec.aux_logits else x


def _renormalised(x: Any) -> Any:
    """Images normalised as "imagenet", normalised as "half"."""
    if x.shape[-1] != 3:
        raise ValueError(f"transform_input is for images of 3 channels, not {x.shape[-1]}")
    (mean, std), (half_mean, half_std) = (np.array(NORMALISATION[name]) for name in ("imagenet", "half"))
    scale, offset = std / half_std, (mean - half_mean) / half_std
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="transform_input")(x)


def _stages(spec: InceptionV3Spec) -> list[list[Branches]]:
    return [
        [module_a(pooled) for pooled in spec.pooled],
        [REDUCTION_B, *(module_c(width) for width in spec.widths)],
        [REDUCTION_D, MODULE_E, MODULE_E],
    ]


_STEM_NAMES = {"stem/conv_1": "1a_3x3", "stem/conv_2": "2a_3x3", "stem/conv_3": "2b_3x3",
               "stage1_block1": "3b_1x1", "stage1_block2": "4a_3x3"}  # fmt: skip
# Our variable paths to the names of torchvision and timm. Their modules are called 5b, 5c, 5d, 6a, 6b … 7c.
PYTORCH_NAMES: list[Rename] = [
    (r"^(stem/conv_\d|stage1_block\d)/", lambda m: f"Conv2d_{_STEM_NAMES[m[1]]}/"),
    (r"^stage(\d)_block(\d+)/", lambda m: f"Mixed_{int(m[1]) + 3}{chr(ord('a') + int(m[2]) - (m[1] != '2'))}."),
    (r"^aux_(conv\d)/", r"AuxLogits.\1/"),
    (r"^aux_predictions/", "AuxLogits.fc/"),
    (r"(_\d)/([ab])/", r"\1\2/"),
    (r"/conv/", ".conv/"),
    (r"/norm/", ".bn/"),
    (r"^predictions/", "fc/"),
]

VARIANTS = [
    Variant(
        name="inception_v3",
        builder="InceptionV3",
        family="Inception",
        paper="Szegedy et al., 2015, arXiv 1512.00567",
        body=inception_v3,
        spec=InceptionV3Spec(),
        pytorch_names=PYTORCH_NAMES,
        input_size=299,
    )
]

BUILDERS = register(VARIANTS)
