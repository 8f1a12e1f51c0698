"""DenseNets for 32x32 images (Huang et al., 2017, arXiv 1608.06993, section 4): a bare 3x3 stem and three dense blocks.

A network of depth L and growth rate k has `(L - 4) / 3` layers per block, half as many with bottlenecks. Basic networks
("densenet40_k12_cifar") have neither bottlenecks nor compression, those called "bc" have both. Stems have 16 channels in
basic networks, twice the growth rate with bottlenecks, as the paper says; in the authors' code they have twice the growth
rate in both, which `stem_width=0` asks for.
"""

import dataclasses
from typing import Any

from keras_resnets.assembly import OrZero, level
from keras_resnets.layers.conv import bare_conv
from keras_resnets.models.densenet import DENSENET, DenseSpec, dense_blocks
from keras_resnets.registry import Rename, Variant, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarDenseNetSpec(DenseSpec):
    """A row of this table.

    Attributes:
        depths: dense layers of the three blocks.
        stem_width: channels of the stem; 0 for twice the growth rate.
    """

    depths: tuple[int, int, int]
    stem_width: OrZero = 0


def densenet_cifar(spec: CifarDenseNetSpec, inputs: Any) -> Any:
    """A bare 3x3 stem and three dense blocks, at strides 1, 2 and 4."""
    x = bare_conv(spec.stem_width or 2 * spec.growth_rate, 3, name="stem")(inputs)
    return dense_blocks(spec, level(x, "C1"))


# Our variable paths to the names of the common PyTorch port.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/", "conv1/"),
    (r"^stage(\d)_block(\d+)/", lambda m: f"dense{m[1]}.{int(m[2]) - 1}."),
    (r"^stage(\d)_transition/norm/", r"trans\1.bn1/"),
    (r"^stage(\d)_transition/conv/", r"trans\1.conv1/"),
    (r"\.norm1/", ".bn1/"),
    (r"\.conv1/conv/", ".conv1/"),
    (r"\.conv1/norm/", ".bn2/"),
    (r"^norm/norm/", "bn/"),
    (r"^predictions/", "fc/"),
]


def _row(layers: int, growth_rate: int, bottleneck: bool = True) -> Variant:
    per_block = (layers - 4) // (6 if bottleneck else 3)
    fields: dict[str, Any] = {} if bottleneck else {"bn_size": 0, "compression": 1.0, "stem_width": 16}
    form = f"{layers}bc" if bottleneck else f"{layers}"
    return Variant(
        name=f"densenet{form}_k{growth_rate}_cifar",
        builder=f"DenseNet{form.upper()}_k{growth_rate}Cifar",
        family="DenseNet-CIFAR",
        paper=DENSENET,
        body=densenet_cifar,
        spec=CifarDenseNetSpec(depths=(per_block,) * 3, growth_rate=growth_rate, **fields),
        pytorch_names=PYTORCH_NAMES,
        input_size=32,
        classes=10,
    )


VARIANTS = [_row(40, 12, False), _row(100, 12, False), _row(100, 24, False)]
VARIANTS += [_row(100, 12), _row(250, 24), _row(190, 40), _row(40, 36), _row(40, 48), _row(40, 60)]

BUILDERS = register(VARIANTS)
