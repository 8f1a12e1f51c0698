"""Inception-ResNet-v2 (Szegedy et al., 2016, arXiv 1602.07261, section 3.2): residual units with Inception branches.

    299x299 image → output            units
    stem, stage 1   71x71x192,  "C2"  as in Inception-v3
    stage 2         35x35x320,  "C3"  max pool, one module A, ten residual units of scale 0.17
    stage 3         17x17x1088, "C4"  a reduction, twenty residual units of scale 0.10
    stage 4         8x8x1536,   "C5"  a reduction, ten residual units of scale 0.20, 1x1 1536

A residual unit is `ReLU(x + scale · 1x1(branches of x))`, the 1x1 with a bias and without normalisation; the last one has
scale 1 and no ReLU. Other convolutions are followed by normalisation with epsilon 1e-3 and ReLU. Average pools do not count the
zeros around their input. The layout is that of the released code, which the paper's figures differ from in stem and widths.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_resnets.assembly import level
from keras_resnets.layers import Composite, Conv2D, ConvNorm, InceptionModule, StochasticDepth
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.layers.conv import he_fan_out
from keras_resnets.layers.inception import Branches
from keras_resnets.models.inception_v3 import InceptionSpec, first_stages
from keras_resnets.registry import Rename, Variant, register

MODULE_A: Branches = {
    "branch0": [(96, 1)],
    "branch1": [(48, 1), (64, 5)],
    "branch2": [(64, 1), (96, 3), (96, 3)],
    "branch_pool": ["avg", (64, 1)],
}
RESIDUAL_A: Branches = {
    "branch0": [(32, 1)],
    "branch1": [(32, 1), (32, 3)],
    "branch2": [(32, 1), (48, 3), (64, 3)],
}
REDUCTION_A: Branches = {
    "branch0": [(384, 3, 2, "valid")],
    "branch1": [(256, 1), (256, 3), (384, 3, 2, "valid")],
    "branch_pool": ["max"],
}
RESIDUAL_B: Branches = {
    "branch0": [(192, 1)],
    "branch1": [(128, 1), (160, (1, 7)), (192, (7, 1))],
}
REDUCTION_B: Branches = {
    "branch0": [(256, 1), (384, 3, 2, "valid")],
    "branch1": [(256, 1), (288, 3, 2, "valid")],
    "branch2": [(256, 1), (288, 3), (320, 3, 2, "valid")],
    "branch_pool": ["max"],
}
RESIDUAL_C: Branches = {
    "branch0": [(192, 1)],
    "branch1": [(192, 1), (224, (1, 3)), (256, (3, 1))],
}


@register_layer
class InceptionResidual(Composite):
    """`ReLU(x + scale · 1x1(branches of x))` (arXiv 1602.07261, figures 16, 17 and 19). Shape unchanged.

    Args:
        branches, norm: see `InceptionModule`.
        scale: of the residual branch.
        activation: name of a Keras activation after the addition, or None.
        zero_gamma: start the 1x1 at zero, so that the unit starts as its shortcut.
        drop_path: rate of stochastic depth on the residual branch.
    """

    def __init__(self, branches: Branches, scale: float, activation: str | None = "relu", *, norm: dict[str, Any],
                 zero_gamma: bool = False, drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.module = InceptionModule(branches, norm=norm, name="branches")
        self.scale, self.zero_gamma = scale, zero_gamma
        self.activation = keras.activations.get(activation)
        self.drop_path = StochasticDepth(drop_path, name="drop_path")
        self.residual: list[keras.layers.Layer] = []

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.residual]

    def build(self, input_shape: Shape) -> None:
        initializer = "zeros" if self.zero_gamma else he_fan_out()
        self.residual = [
            self.module,
            Conv2D(input_shape[-1], 1, kernel_initializer=initializer, name="conv"),
            self.drop_path,
        ]
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def call(self, x: Any) -> Any:
        return self.activation(x + self.scale * chain(self.residual, x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionResNetV2Spec(InceptionSpec):
    """The row of this table.

    Attributes:
        depths: residual units in stages 2, 3 and 4.
    """

    count_include_pad: bool = False
    depths: tuple[int, int, int] = (10, 20, 10)


def inception_resnet_v2(spec: InceptionResNetV2Spec, inputs: Any) -> Any:
    """Stem, four stages and the last 1x1."""
    x = first_stages(spec, inputs)
    entries, units, scales = (
        (MODULE_A, REDUCTION_A, REDUCTION_B),
        (RESIDUAL_A, RESIDUAL_B, RESIDUAL_C),
        (0.17, 0.10, 0.20),
    )
    before, last = 0, sum(spec.depths) - 1
    for stage, (entry, branches, scale, depth) in enumerate(
        zip(entries, units, scales, spec.depths, strict=True), start=2
    ):
        x = spec.module(entry, stage, 1)(x)
        for unit in range(before, before + depth):
            x = InceptionResidual(
                branches, *((1.0, None) if unit == last else (scale, "relu")), norm=spec.norm, zero_gamma=spec.zero_gamma,
                drop_path=spec.drop_path_rate * unit / max(last, 1), name=f"stage{stage}_block{unit - before + 2}",
            )(x)  # fmt: skip
        before += depth
        if stage < 4:
            x = level(x, f"C{stage + 1}")
    return level(ConvNorm(1536, 1, activation="relu", norm=spec.norm, name="stage4_conv")(x), "C5")


def _place(stage: str, block: int) -> str:
    """timm's name of a module or unit."""
    if block == 1:
        return {"2": "mixed_5b", "3": "mixed_6a", "4": "mixed_7a"}[stage]
    if stage == "4" and block == 11:
        return "block8"
    return {"2": "repeat", "3": "repeat_1", "4": "repeat_2"}[stage] + f".{block - 2}"


_STEM_NAMES = {
    "stem/conv_1": "1a",
    "stem/conv_2": "2a",
    "stem/conv_3": "2b",
    "stage1_block1": "3b",
    "stage1_block2": "4a",
}
# Our variable paths to timm's names.
PYTORCH_NAMES: list[Rename] = [
    (r"^(stem/conv_\d|stage1_block\d)/", lambda m: f"conv2d_{_STEM_NAMES[m[1]]}/"),
    (r"^stage4_conv/", "conv2d_7b/"),
    (r"^stage(\d)_block(\d+)/conv/", lambda m: f"{_place(m[1], int(m[2]))}.conv2d/"),
    (r"^stage(\d)_block(\d+)/(branches/)?", lambda m: f"{_place(m[1], int(m[2]))}."),
    (r"(branch\d)_(\d)/", lambda m: f"{m[1]}.{int(m[2]) - 1}/"),
    (r"branch_pool/", "branch3.1/"),
    (r"/conv/", ".conv/"),
    (r"/norm/", ".bn/"),
    (r"^predictions/", "classif/"),
]

VARIANTS = [
    Variant(
        name="inception_resnet_v2",
        builder="InceptionResNetV2",
        family="Inception",
        paper="Szegedy et al., 2016, arXiv 1602.07261",
        body=inception_resnet_v2,
        spec=InceptionResNetV2Spec(),
        pytorch_names=PYTORCH_NAMES,
        input_size=299,
    )
]

BUILDERS = register(VARIANTS)
