"""ResNet-RS: revisited training and scaling (Bello et al., 2021, arXiv 2103.07579).

ResNet-D with squeeze-excitation of ratio 1/4 whose stem's max pool is a strided 3x3 convolution; deeper rows for larger
images. Blocks and builder are those of resnet.py; input sizes are timm's test sizes.
"""

import dataclasses
from typing import Any

from keras_resnets.models.resnet import DEEP, row
from keras_resnets.registry import Variant, register

RS = "Bello et al., 2021, arXiv 2103.07579"


def _row(depth: int, input_size: int, depths: tuple[int, ...]) -> Variant:
    fields: dict[str, Any] = {"stem": DEEP, "stem_pool": "conv", "shortcut": "D", "attention": "se", "se_reduction": 4}
    variant = row(f"resnetrs{depth}", f"ResNetRS{depth}", 50, "ResNet-RS", RS, depths=depths, **fields)
    return dataclasses.replace(variant, input_size=input_size)


VARIANTS = [
    _row(50, 224, (3, 4, 6, 3)),
    _row(101, 288, (3, 4, 23, 3)),
    _row(152, 320, (3, 8, 36, 3)),
    _row(200, 320, (3, 24, 36, 3)),
    _row(270, 352, (4, 29, 53, 4)),
    _row(350, 384, (4, 36, 72, 4)),
    _row(420, 416, (4, 44, 87, 4)),
]

BUILDERS = register(VARIANTS)
