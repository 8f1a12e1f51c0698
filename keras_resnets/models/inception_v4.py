"""Inception-v4 (Szegedy et al., 2016, arXiv 1602.07261): Inception modules of one pattern per stage, without shortcuts.

    299x299 image → output            modules (InceptionModule: branches, concatenated in this order)
    stem      147x147x64, "C1"        3x3/2 32 v, 3x3 32 v, 3x3 64, as in Inception-v3
    stage 1   73x73x160,  "C2"        max pool beside a strided 3x3 (figure 3)
    stage 2   35x35x384,  "C3"        two more of the stem's forks, four modules A (figure 4)
    stage 3   17x17x1024, "C4"        reduction A, seven modules B: 7x7 as 1x7 and 7x1 (figures 7 and 5)
    stage 4   8x8x1536,   "C5"        reduction B, three modules C: 3x3 fanned out into 1x3 and 3x1 (figures 8 and 6)

"v" and "valid" are no padding; 1x7 means height 1, width 7. Every convolution is followed by normalisation with epsilon 1e-3
and ReLU. Average pools do not count the zeros around their input. Where paper and released code differ (the order of 1x7 and
7x1, the widths of reduction B) we follow timm, whose weights are TensorFlow's.
"""

import dataclasses
from typing import Any

from keras_resnets.assembly import level
from keras_resnets.layers import InceptionModule
from keras_resnets.layers.inception import Branches
from keras_resnets.models.inception_v3 import STEM, InceptionSpec
from keras_resnets.registry import Rename, Variant, register

ROW, COLUMN = (1, 7), (7, 1)

FORK_3A: Branches = {"pool": ["max"], "conv": [(96, 3, 2, "valid")]}
FORK_4A: Branches = {
    "branch0": [(64, 1), (96, 3, 1, "valid")],
    "branch1": [(64, 1), (64, ROW), (64, COLUMN), (96, 3, 1, "valid")],
}
FORK_5A: Branches = {"conv": [(192, 3, 2, "valid")], "pool": ["max"]}

MODULE_A: Branches = {
    "branch0": [(96, 1)],
    "branch1": [(64, 1), (96, 3)],
    "branch2": [(64, 1), (96, 3), (96, 3)],
    "branch_pool": ["avg", (96, 1)],
}
REDUCTION_A: Branches = {
    "branch0": [(384, 3, 2, "valid")],
    "branch1": [(192, 1), (224, 3), (256, 3, 2, "valid")],
    "branch_pool": ["max"],
}
MODULE_B: Branches = {
    "branch0": [(384, 1)],
    "branch1": [(192, 1), (224, ROW), (256, COLUMN)],
    "branch2": [(192, 1), (192, COLUMN), (224, ROW), (224, COLUMN), (256, ROW)],
    "branch_pool": ["avg", (128, 1)],
}
REDUCTION_B: Branches = {
    "branch0": [(192, 1), (192, 3, 2, "valid")],
    "branch1": [(256, 1), (256, ROW), (320, COLUMN), (320, 3, 2, "valid")],
    "branch_pool": ["max"],
}
FAN: Branches = {"a": [(256, (1, 3))], "b": [(256, (3, 1))]}
MODULE_C: Branches = {
    "branch0": [(256, 1)],
    "branch1": [(384, 1), FAN],
    "branch2": [(384, 1), (448, (3, 1)), (512, (1, 3)), FAN],
    "branch_pool": ["avg", (256, 1)],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionV4Spec(InceptionSpec):
    """The row of this table.

    Attributes:
        depths: modules A, B and C.
    """

    count_include_pad: bool = False
    depths: tuple[int, int, int] = (4, 7, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("there are no residual branches")


def inception_v4(spec: InceptionV4Spec, inputs: Any) -> Any:
    """Stem and four stages of modules."""
    stages = [
        [FORK_3A],
        [FORK_4A, FORK_5A, *[MODULE_A] * spec.depths[0]],
        [REDUCTION_A, *[MODULE_B] * spec.depths[1]],
        [REDUCTION_B, *[MODULE_C] * spec.depths[2]],
    ]
    x = level(InceptionModule(STEM, norm=spec.norm, name="stem")(inputs), "C1")
    for stage, modules in enumerate(stages, start=1):
        for block, branches in enumerate(modules, start=1):
            x = spec.module(branches, stage, block)(x)
        x = level(x, f"C{stage + 1}")
    return x


# Index of a stage's first module in timm's list of features.
_FIRST = {"1": 3, "2": 4, "3": 10, "4": 18}
# Our variable paths to timm's names.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv_(\d)/", lambda m: f"features.{int(m[1]) - 1}/"),
    (r"^stage(\d)_block(\d+)/", lambda m: f"features.{_FIRST[m[1]] + int(m[2]) - 1}."),
    (r"^(features\.(\d+)\.branch\d)_(\d)/", lambda m: f"{m[1]}{'_' if int(m[2]) > 18 else '.'}{int(m[3]) - 1}/"),
    (r"branch_pool/", "branch3.1/"),
    (r"(_\d)/([ab])/", r"\1\2/"),
    (r"/conv/", ".conv/"),
    (r"/norm/", ".bn/"),
    (r"^predictions/", "last_linear/"),
]

VARIANTS = [
    Variant(
        name="inception_v4",
        builder="InceptionV4",
        family="Inception",
        paper="Szegedy et al., 2016, arXiv 1602.07261",
        body=inception_v4,
        spec=InceptionV4Spec(),
        pytorch_names=PYTORCH_NAMES,
        input_size=299,
    )
]

BUILDERS = register(VARIANTS)
