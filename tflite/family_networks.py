"""A small network of every family, made of a row of its table with fewer or other layers, for the digits at 16 to 75 pixels."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parent / "families.yaml"
SHALLOW = {"depths": (1, 1, 1, 1)}
WIDER = {"widths": (32, 64, 128)}  # so that most of a file is weights
SHIFT = 0.0875  # of the side of the image


@dataclasses.dataclass(frozen=True)
class Small:
    """A family's network.

    Attributes:
        network: name of the table's row.
        size: side of the images in pixels.
        options: of the network.
        changes: of the recipe, for this family alone.
    """

    network: str
    size: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    changes: tuple[str, ...] = ()

    def recipe(self, family: str) -> Recipe:
        """How it is trained."""
        model = json.dumps({"name": self.network, "options": self.options})
        own = [f"name={folder_name(family)}", f"description='{family}: {self.network} on the digits'", f"model={model}",
               f"data.image_size={self.size}", f"augment.shift={SHIFT * self.size}"]  # fmt: skip
        return load_recipe(RECIPE, [*own, *self.changes])


def folder_name(family: str) -> str:
    """The name of a family in lower case without hyphens."""
    return family.lower().replace("-", "_")


NETWORKS = {
    "Plain-CIFAR": Small("plain20_cifar", 16, WIDER),
    "ResNet-CIFAR": Small("resnet20_cifar", 16, WIDER),
    "PreResNet-CIFAR": Small("preresnet110_cifar", 16, {**WIDER, "depth": 3}),
    "IdentityMappings-CIFAR": Small("identity_mappings110_cifar", 16, {"depth": 5}),
    "ResNeXt-CIFAR": Small("resnext29_1x64d_cifar", 16, {"depth": 1}),
    "Res2Net-CIFAR": Small("res2next29_6c24w4s_cifar", 16, {**WIDER, "depth": 1}),
    "ResNeSt-CIFAR": Small("resnest29_cifar", 16, {"depth": 1, "widths": (48, 96, 192)}),
    "DenseNet-CIFAR": Small("densenet40_k12_cifar", 16),
    "FuseNet": Small("fuse3_20_cifar", 16, WIDER),
    "DMRN": Small("dmrn32_cifar", 16),
    "DILN": Small("diln32_cifar", 16),
    "Plain": Small("plain18", 32, SHALLOW),
    "ResNet": Small("resnet10t", 32),
    "ResNet-aa": Small("resnetaa34d", 32, SHALLOW),
    "ResNet-blur": Small("resnetblur18", 32, SHALLOW),
    "ResNet-RS": Small("resnetrs50", 32, SHALLOW),
    "ResNetV2": Small("resnetv2_18", 32, SHALLOW),
    "WideResNet": Small("wide_resnet50_2", 32, SHALLOW),
    "ResNeXt": Small("resnext50_32x4d", 32, SHALLOW),
    "SE-ResNet": Small("seresnet18", 32, SHALLOW),
    "ECA-ResNet": Small("ecaresnet26t", 32, SHALLOW),
    "SKNet": Small("skresnet18", 32, SHALLOW),
    "ResNeSt": Small("resnest14d", 32),
    "Res2Net": Small("res2net50_18w_4s", 32, SHALLOW),
    "DenseNet": Small("densenet121", 32, {"depths": (4, 8, 8, 4)}),
    "DPN": Small("dpn68", 32, {"depths": (1, 1, 1, 2)}),
    "HarDNet": Small("hardnet39ds", 32),
    "RedNet": Small("rednet26", 32, SHALLOW, ("epochs=20", "test_every=20")),
    "DCDC": Small("dcdc18", 32, SHALLOW),
    "Inception": Small("inception_v3", 75, changes=("optimizer.lr=0.02",)),
}
