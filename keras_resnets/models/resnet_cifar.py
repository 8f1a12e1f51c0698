"""ResNets and plain networks for 32x32 images (He et al., 2015, arXiv 1512.03385, section 4.2).

A 3x3 convolution of 16 channels, three stages of `n` basic blocks with 16, 32 and 64 channels, `6n + 2` layers in all.
Shortcuts that change the shape are the paper's option A: every second pixel, zero channels appended at the *end*, as in
fb.resnet.torch; some ports put half of them before, which needs permuted weights. `plain*` rows have no shortcuts.

The same builder makes ResNeXt-29 for 32x32 images from bottlenecks (see resnext.py).
"""

import dataclasses
from typing import Any, Literal

from keras_resnets.assembly import Spec, level, stage_plan
from keras_resnets.layers import ConvNorm
from keras_resnets.layers.residual import ShortcutKind
from keras_resnets.models.resnet import RESNET, BasicBlock, Bottleneck
from keras_resnets.registry import Variant, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarResNetSpec(Spec):
    """A row of the CIFAR tables.

    Attributes:
        block: "basic" or "bottleneck" (four times as many output channels).
        depth: blocks per stage.
        widths: base width of each stage; the first one is the stem's.
        shortcut: "A", "B", "C" or "none" (a plain network).
        cardinality, base_width: groups of a bottleneck's 3x3 and channels per group when the stage's base width is 64.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    depth: int
    widths: tuple[int, int, int] = (16, 32, 64)
    shortcut: ShortcutKind = "A"
    cardinality: int = 1
    base_width: int = 64


def resnet_cifar(spec: CifarResNetSpec, inputs: Any) -> Any:
    """A 3x3 stem and three stages; strides 1, 2, 4."""
    x = ConvNorm(spec.widths[0], 3, activation="relu", norm=spec.norm, name="stem")(inputs)
    x = level(x, "C1")
    plan = stage_plan([spec.depth] * 3, spec.drop_path_rate, stem_stride=1)
    for stage, (places, width) in enumerate(zip(plan, spec.widths, strict=True), start=2):
        for place in places:
            shared = {
                "strides": place.strides, "norm": spec.norm, "shortcut": spec.shortcut, "drop_path": place.drop_path,
                "zero_gamma": spec.zero_gamma, "name": place.name,
            }  # fmt: skip
            if spec.block == "basic":
                x = BasicBlock(width, **shared)(x)
            else:
                grouped = width * spec.base_width // 64 * spec.cardinality
                x = Bottleneck(4 * width, grouped, groups=spec.cardinality, **shared)(x)
        x = level(x, f"C{stage}")
    return x


# The names of the common PyTorch port, whose checkpoints also prefix "module.".
PYTORCH_NAMES = [
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
