"""ResNets and plain networks for 32x32 images (He et al., 2015, arXiv 1512.03385, section 4.2).

A 3x3 convolution of 16 channels, three stages of `n` basic blocks with 16, 32 and 64 channels, `6n + 2` layers in all.
Shortcuts that change the shape are the paper's option A: every second pixel, zero channels appended at the *end*, as in
fb.resnet.torch; some ports put half of them before, which needs permuted weights. `plain*` rows have no shortcuts.
"""

import dataclasses
from typing import Any

from keras_resnets.assembly import BlockPlace, MakeBlock, Spec, level, stage_plan, stages
from keras_resnets.layers import ConvNorm
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.models.resnet import RESNET, BasicBlock
from keras_resnets.registry import Rename, Variant, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarResNetSpec(Spec):
    """A row of the CIFAR tables.

    Attributes:
        depth: blocks per stage.
        widths: of the stages; the first one is the stem's.
        shortcut: "A", "B", "C" or "none" (a plain network).
    """

    depth: int
    widths: tuple[int, int, int] = (16, 32, 64)
    shortcut: ShortcutKind = "A"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortcut == "none":
            self.refuse_residual_options("plain networks have no shortcuts")


def resnet_cifar_block(spec: CifarResNetSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 2."""
    return BasicBlock(
        spec.widths[stage], place.strides, norm=spec.norm, shortcut=spec.shortcut, drop_path=place.drop_path,
        zero_gamma=spec.zero_gamma, name=place.name,
    )  # fmt: skip


def resnet_cifar(spec: Any, inputs: Any, make_block: MakeBlock = resnet_cifar_block) -> Any:
    """A 3x3 stem and three stages of blocks, at strides 1, 2 and 4."""
    x = level(ConvNorm(spec.widths[0], 3, activation="relu", norm=spec.norm, name="stem")(inputs), "C1")
    return stages(x, spec, stage_plan([spec.depth] * 3, spec.drop_path_rate, stem_stride=1), make_block)


# The names of the common PyTorch port, whose checkpoints also prefix "module.".
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv/", "conv1."),
    (r"^stem/norm/", "bn1."),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"layer{m[1]}.{int(m[2]) - 1}."),
    (r"conv(\d)/conv/", r"conv\1."),
    (r"conv(\d)/norm/", r"bn\1."),
    (r"shortcut/conv/", "shortcut.0."),
    (r"shortcut/norm/", "shortcut.1."),
    (r"^predictions/", "linear."),
]


def _row(layers: int, shortcut: ShortcutKind = "A") -> Variant:
    plain = shortcut == "none"
    return Variant(
        name=f"plain{layers}_cifar" if plain else f"resnet{layers}_cifar",
        builder=f"Plain{layers}Cifar" if plain else f"ResNet{layers}Cifar",
        family="Plain-CIFAR" if plain else "ResNet-CIFAR",
        paper=RESNET,
        body=resnet_cifar,
        spec=CifarResNetSpec(depth=(layers - 2) // 6, shortcut=shortcut),
        pytorch_names=PYTORCH_NAMES,
        input_size=32,
        classes=10,
    )


VARIANTS = [_row(layers) for layers in (20, 32, 44, 56, 110, 1202)]
VARIANTS += [_row(layers, "none") for layers in (20, 32, 44, 56, 110)]

BUILDERS = register(VARIANTS)
