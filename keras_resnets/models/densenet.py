"""DenseNet: every layer reads all maps made before it (Huang et al., 2017, arXiv 1608.06993).

A dense layer normalises and activates the concatenation of its block's maps and appends `growth_rate` new ones, through a 1x1
bottleneck of `bn_size · growth_rate` channels (-B). Between blocks a transition compresses the channels (-C) and halves the
map. A last normalisation and ReLU precede the pooling. The rows here are -BC networks for ImageNet; those for CIFAR are in
densenet_cifar.py.

Kept for the backward pass, the concatenations and their normalised copies need memory quadratic in the depth of a block. With
`memory_efficient` a layer keeps its new maps only: the concatenation, both normalisations and the 1x1 are computed again in
the backward pass (Pleiss et al., 2017, arXiv 1707.06990, who keep what the 1x1 makes), for about a quarter more time. Weights,
values, gradients and moving statistics are the same in both forms.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops as kops

from keras_resnets.assembly import OrZero, Spec, StemPool, level, stem, stem_pool
from keras_resnets.layers import AvgPool2D, Composite, ConvNorm, Dropout, NormAct
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.layers.conv import bare_conv
from keras_resnets.layers.norm import normalization
from keras_resnets.recompute import recomputed
from keras_resnets.registry import Rename, Variant, register


class _DensePart(Composite):
    """What dense layers and transitions share: parts that can be recomputed, each followed by dropout.

    Args:
        dropout: rate.
        memory_efficient: keep only the parts' inputs for the backward pass.
    """

    def __init__(self, dropout: float, memory_efficient: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.memory_efficient = memory_efficient
        self.relu = keras.layers.ReLU(name="relu")
        self.dropout = Dropout(dropout, name="dropout") if dropout else None

    def build(self, input_shape: Any) -> None:
        for layer in (self.relu, self.dropout):
            if layer is not None:
                layer.dtype_policy = self.dtype_policy
        super().build(_first(input_shape))

    def run(self, parts: Sequence[Sequence[keras.layers.Layer]], inputs: Any, training: bool | None) -> Any:
        """The layers of `parts` one after the other, with dropout after each part."""
        x, *maps = inputs
        if self.dropout is None:  # parts are there to keep what has been dropped: one will do
            parts = [[layer for part in parts for layer in part]]
        for part in parts:
            x = recomputed(part, x, maps or [x]) if training and self.memory_efficient else chain(part, x)
            maps = []
            if self.dropout is not None:
                x = self.dropout(x)
        return x


@register_layer
class DenseLayer(_DensePart):
    """Normalisation → ReLU → 1x1 → normalisation → ReLU → 3x3, appended to its input; without `width`, no 1x1.

    Called with `(batch, height, width, channels)`, or with a list of that map and the maps it is the concatenation of, which is
    what `memory_efficient` keeps. Returns `(batch, height, width, channels + filters)` and what is new in it,
    `(batch, height, width, filters)`.

    Args:
        filters: new maps (growth rate).
        width: channels of the 1x1; None for a basic layer.
        norm: keyword arguments of `BatchNorm`.
        dropout: rate, after each convolution.
        memory_efficient: make concatenations and normalised maps again in the backward pass instead of keeping them.
    """

    def __init__(self, filters: int, width: int | None = None, *, norm: dict[str, Any], dropout: float = 0.0,
                 memory_efficient: bool = False, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(dropout, memory_efficient, **kwargs)
        self.norm1 = normalization(norm, "norm1")
        self.bottleneck = None if width is None else ConvNorm(width, 1, norm=norm, name="conv1")
        self.conv = bare_conv(filters, 3, name="conv1" if width is None else "conv2")

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[self.norm1, *([] if self.bottleneck is None else [self.bottleneck]), self.conv]]

    def compute_output_shape(self, input_shape: Any) -> tuple[Shape, Shape]:
        *size, channels = _first(input_shape)
        return (*size, channels + self.conv.filters), (*size, self.conv.filters)

    def call(self, inputs: Any, training: bool | None = None) -> tuple[Any, Any]:
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        parts: list[list[keras.layers.Layer]] = [[self.norm1, self.relu]]
        if self.bottleneck is not None:
            parts[0].append(self.bottleneck.conv)
            parts.append([self.relu] if self.bottleneck.norm is None else [self.bottleneck.norm, self.relu])
        parts[-1].append(self.conv)
        new = self.run(parts, inputs, training)
        return kops.concatenate([inputs[0], new], axis=-1), new


def _first(shape: Any) -> Shape:
    """The first of several shapes, or the only one."""
    return tuple(shape[0] if isinstance(shape[0], (list, tuple)) else shape)


@register_layer
class DenseTransition(_DensePart):
    """Normalisation → ReLU → 1x1 → 2x2 average pool.

    Input `(batch, height, width, channels)`, alone or in a list as in `DenseLayer`; output
    `(batch, ⌊height/2⌋, ⌊width/2⌋, filters)`.

    Args:
        filters: output channels.
        norm: keyword arguments of `BatchNorm`.
        dropout: rate, after the convolution.
        memory_efficient: make the normalised map again in the backward pass instead of keeping it.
    """

    def __init__(self, filters: int, *, norm: dict[str, Any], dropout: float = 0.0, memory_efficient: bool = False,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(dropout, memory_efficient, **kwargs)
        self.norm = normalization(norm, "norm")
        self.conv = bare_conv(filters, 1, name="conv")
        self.pool = AvgPool2D(2, name="pool")

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[self.norm, self.conv, self.pool]]  # the paper's order, in which costs are counted

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return super().compute_output_shape(_first(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if self.dropout is None or not training:  # average and 1x1 convolution commute: a quarter of the work
            return self.run([[self.norm, self.relu, self.pool, self.conv]], inputs, training)
        return self.pool(self.run([[self.norm, self.relu, self.conv]], inputs, training))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSpec(Spec):
    """What the rows of both tables set.

    Attributes:
        depths: dense layers per block.
        growth_rate: new maps of every dense layer.
        bn_size: channels of the 1x1 per new map; 0 for basic layers, which have none.
        compression: a transition's output channels per input channel, above 0 and at most 1.
        conv_dropout_rate: dropout after every convolution but the stem's (the paper's 0.2 for data without augmentation);
            `dropout_rate` is that of the classifier's input.
        memory_efficient: train in less memory, see above; nothing else changes.
    """

    depths: tuple[int, ...]
    growth_rate: int
    bn_size: OrZero = 4
    compression: float = 0.5
    conv_dropout_rate: float = 0.0
    memory_efficient: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("a DenseNet has no residual branches")
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1, not {self.compression!r}")
        if not 0 <= self.conv_dropout_rate < 1:
            raise ValueError(f"conv_dropout_rate must be at least 0 and below 1, not {self.conv_dropout_rate!r}")

    def compressed(self, channels: int) -> int:
        """Output channels of a transition from `channels`."""
        kept = math.floor(round(self.compression * channels, 6))
        if kept < 1:
            raise ValueError(
                f"compression={self.compression!r} leaves none of the {channels} channels of a dense block"
            )
        return kept


def dense_blocks(spec: DenseSpec, x: Any) -> Any:
    """Dense blocks with transitions between them, then normalisation and ReLU. The blocks' ends are the levels from "C2" on;
    that of the last one is after the ReLU."""
    shared: dict[str, Any] = {
        "norm": spec.norm, "dropout": spec.conv_dropout_rate, "memory_efficient": spec.memory_efficient,
    }  # fmt: skip
    width = spec.bn_size * spec.growth_rate or None
    for stage, depth in enumerate(spec.depths, start=1):
        maps = [x]
        for index in range(1, depth + 1):
            layer = DenseLayer(spec.growth_rate, width, **shared, name=f"stage{stage}_block{index}")
            x, new = layer([x, *maps] if spec.memory_efficient else x)
            maps.append(new)
        if stage < len(spec.depths):
            x = level(x, f"C{stage + 1}")
            transition = DenseTransition(spec.compressed(x.shape[-1]), **shared, name=f"stage{stage}_transition")
            x = transition([x, *maps] if spec.memory_efficient else x)
    return level(NormAct(spec.norm, name="norm")(x), f"C{len(spec.depths) + 1}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetSpec(DenseSpec):
    """A row of the ImageNet table.

    Attributes:
        depths: dense layers of the four blocks.
        deep_stem: three 3x3 convolutions instead of a 7x7.
        stem_pool: see `assembly.stem_pool`.
    """

    depths: tuple[int, int, int, int]
    deep_stem: bool = False
    stem_pool: StemPool = "max"


def densenet(spec: DenseNetSpec, inputs: Any) -> Any:
    """A stem of twice the growth rate, halved, and four dense blocks."""
    k = spec.growth_rate
    x = level(stem(inputs, (k, k, 2 * k) if spec.deep_stem else (2 * k,), spec.norm), "C1")
    return dense_blocks(spec, stem_pool(x, spec.stem_pool, spec.norm))


# Our variable paths to the names of torchvision and timm.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/(conv|norm)/", r"features.\g<1>0/"),
    (r"^stem/conv(\d)/(conv|norm)/", lambda m: f"features.{m[2]}{int(m[1]) - 1}/"),
    (r"^stage(\d)_block(\d+)/", r"features.denseblock\1.denselayer\2."),
    (r"^stage(\d)_transition/", r"features.transition\1."),
    (r"\.conv1/conv/", ".conv1/"),
    (r"\.conv1/norm/", ".norm2/"),
    (r"^norm/norm/", "features.norm5/"),
    (r"^predictions/", "classifier/"),
]

DENSENET = "Huang et al., 2017, arXiv 1608.06993"


def _row(name: str, builder: str, growth_rate: int, depths: tuple[int, int, int, int], **fields: Any) -> Variant:
    spec = DenseNetSpec(growth_rate=growth_rate, depths=depths, **fields)
    return Variant(name, builder, "DenseNet", DENSENET, densenet, spec, PYTORCH_NAMES)


VARIANTS = [
    _row("densenet121", "DenseNet121", 32, (6, 12, 24, 16)),
    _row("densenet169", "DenseNet169", 32, (6, 12, 32, 32)),
    _row("densenet201", "DenseNet201", 32, (6, 12, 48, 32)),
    _row("densenet264", "DenseNet264", 32, (6, 12, 64, 48)),
    _row("densenet161", "DenseNet161", 48, (6, 12, 36, 24)),
    _row("densenet232_k48", "DenseNet232_k48", 48, (6, 12, 48, 48)),
    _row("densenet264_k48", "DenseNet264_k48", 48, (6, 12, 64, 48)),
    _row("densenet264d", "DenseNet264D", 48, (6, 12, 64, 48), deep_stem=True),
    _row("densenetblur121d", "DenseNetBlur121D", 32, (6, 12, 24, 16), deep_stem=True, stem_pool="max_blur"),
]

BUILDERS = register(VARIANTS)
