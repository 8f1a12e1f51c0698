"""Channel attention on residual blocks: SE-ResNet, SE-ResNeXt, SENet-154, ECA-ResNet.

Squeeze-excitation (Hu et al., 2018, arXiv 1709.01507) and efficient channel attention (Wang et al., 2020, arXiv 1910.03151)
gate the residual branch after its last normalisation, before the addition. Blocks and builder are those of resnet.py.

`legacy_*` rows are the authors' Caffe networks: the stride of an SE-ResNet is in the first 1x1, the stem's max pool rounds up
without padding, basic blocks have a ReLU before the gate. The other rows are timm's: stride in the 3x3, symmetric pool, the
gate's channels rounded to multiples of 8. SENet-154 halves the first 1x1, has 3x3 projections and drops out 0.2.
"""

import dataclasses
from typing import Any

from keras_resnets.models.resnet import DEEP, PYTORCH_NAMES, TIERED, WIDE_DEEP, row
from keras_resnets.registry import Rename, Variant, register

SE = "Hu et al., 2018, arXiv 1709.01507"
ECA = "Wang et al., 2020, arXiv 1910.03151"

LEGACY_PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv/", "layer0.conv1."),
    (r"^stem/norm/", "layer0.bn1."),
    (r"^stem/conv(\d)/conv/", r"layer0.conv\1."),
    (r"^stem/conv(\d)/norm/", r"layer0.bn\1."),
    (r"attention/", "se_module."),
    (r"^predictions/", "last_linear."),
    *PYTORCH_NAMES,
]


def _se(name: str, builder: str, depth: int, **fields: Any) -> Variant:
    return row(name, builder, depth, "SE-ResNet", SE, attention="se", **fields)


def _eca(name: str, builder: str, depth: int, **fields: Any) -> Variant:
    return row(name, builder, depth, "ECA-ResNet", ECA, attention="eca", **fields)


def _legacy(name: str, builder: str, depth: int, **fields: Any) -> Variant:
    variant = _se(name, builder, depth, stem_pool="max_ceil", se_divisor=1, **fields)
    return dataclasses.replace(variant, pytorch_names=LEGACY_PYTORCH_NAMES)


D: dict[str, Any] = {"stem": DEEP, "shortcut": "D"}
T: dict[str, Any] = {"stem": TIERED, "shortcut": "D"}
X32X4: dict[str, Any] = {"cardinality": 32, "base_width": 4}
X64X4: dict[str, Any] = {"cardinality": 64, "base_width": 4}
X32X8: dict[str, Any] = {"cardinality": 32, "base_width": 8}
AA: dict[str, Any] = {"antialias": "avg", "stem_pool": "avg"}
SENET154: dict[str, Any] = {**X64X4, "stem": WIDE_DEEP, "reduce_first": 2, "shortcut_kernel": 3}

VARIANTS = [
    _se("seresnet18", "SEResNet18", 18),
    _se("seresnet34", "SEResNet34", 34),
    _se("seresnet50", "SEResNet50", 50),
    _se("seresnet101", "SEResNet101", 101),
    _se("seresnet152", "SEResNet152", 152),
    _se("seresnet50t", "SEResNet50T", 50, **T),
    _se("seresnet152d", "SEResNet152D", 152, **D),
    _se("seresnet200d", "SEResNet200D", 200, **D),
    _se("seresnet269d", "SEResNet269D", 269, **D),
    _se("seresnetaa50d", "SEResNetAA50D", 50, **D, **AA),
    _se("seresnext26d_32x4d", "SEResNeXt26D_32x4d", 26, **D, **X32X4),
    _se("seresnext26t_32x4d", "SEResNeXt26T_32x4d", 26, **T, **X32X4),
    _se("seresnext50_32x4d", "SEResNeXt50_32x4d", 50, **X32X4),
    _se("seresnext101_32x4d", "SEResNeXt101_32x4d", 101, **X32X4),
    _se("seresnext101_64x4d", "SEResNeXt101_64x4d", 101, **X64X4),
    _se("seresnext101_32x8d", "SEResNeXt101_32x8d", 101, **X32X8),
    _se("seresnext101d_32x8d", "SEResNeXt101D_32x8d", 101, **D, **X32X8),
    _se("seresnextaa101d_32x8d", "SEResNeXtAA101D_32x8d", 101, **D, **X32X8, **AA),
    _se("senet154", "SENet154", 152, **SENET154),
    _legacy("legacy_seresnet18", "LegacySEResNet18", 18, relu_before_attention=True),
    _legacy("legacy_seresnet34", "LegacySEResNet34", 34, relu_before_attention=True),
    _legacy("legacy_seresnet50", "LegacySEResNet50", 50, stride_in_1x1=True),
    _legacy("legacy_seresnet101", "LegacySEResNet101", 101, stride_in_1x1=True),
    _legacy("legacy_seresnet152", "LegacySEResNet152", 152, stride_in_1x1=True),
    _legacy("legacy_seresnext26_32x4d", "LegacySEResNeXt26_32x4d", 26, **X32X4),
    _legacy("legacy_seresnext50_32x4d", "LegacySEResNeXt50_32x4d", 50, **X32X4),
    _legacy("legacy_seresnext101_32x4d", "LegacySEResNeXt101_32x4d", 101, **X32X4),
    _legacy("legacy_senet154", "LegacySENet154", 152, dropout_rate=0.2, **SENET154),
    _eca("ecaresnet26t", "ECAResNet26T", 26, **T),
    _eca("ecaresnet50t", "ECAResNet50T", 50, **T),
    _eca("ecaresnet50d", "ECAResNet50D", 50, **D),
    _eca("ecaresnet101d", "ECAResNet101D", 101, **D),
    _eca("ecaresnet200d", "ECAResNet200D", 200, **D),
    _eca("ecaresnet269d", "ECAResNet269D", 269, **D),
    _eca("ecaresnetlight", "ECAResNetLight", 50, depths=(1, 1, 11, 3), shortcut="D"),
    _eca("ecaresnext26t_32x4d", "ECAResNeXt26T_32x4d", 26, **T, **X32X4),
    _eca("ecaresnext50t_32x4d", "ECAResNeXt50T_32x4d", 50, **T, **X32X4),
]

BUILDERS = register(VARIANTS)
