"""HarDNet: harmonic densely connected networks (Chao et al., 2019, arXiv 1909.00948).

A DenseNet block with most of its links left out, to spare memory traffic: layer l reads layer l - 2^i for every 2^i that divides
l. Layers that many others read are wider, by the factor `multiplier` for each of their links after the first. A block's
output are its odd layers and its last one; nothing links it to the block's input. 1x1 convolutions ("transitions") follow the
blocks, ReLU6 the normalisations.

The "DS" networks are depthwise separable: a layer is a 1x1 convolution and a depthwise 3x3, which has a normalisation but no
activation; depthwise convolutions take the place of the max pools.

Where paper and released code differ we follow the code: inputs of a layer are concatenated nearest first, and widths are
rounded to even numbers by the code's rule (`harmonic_widths`). The paper's other networks, with bottlenecks (96s, 117s, 138s),
were not released.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import keras

from keras_resnets.assembly import Spec, level
from keras_resnets.layers import Composite, ConvNorm, Dropout, MaxPool2D
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.lowering import concatenate
from keras_resnets.registry import Rename, Variant, register


def harmonic_links(layer: int) -> list[int]:
    """The layers that `layer` (from 1 on) of a block reads, nearest first; 0 is the block's input."""
    return [layer - 2**i for i in range(layer.bit_length()) if layer % 2**i == 0]


def harmonic_widths(growth: int, multiplier: float, layers: int) -> list[int]:
    """Output channels of layers 1 to `layers`."""
    widths = []
    for layer in range(1, layers + 1):
        width = float(growth)
        for _ in harmonic_links(layer)[1:]:
            width *= multiplier
        widths.append(2 * (int(width + 1) // 2))
    return widths


def depthwise(channels: int, strides: int, norm: dict[str, Any], name: str) -> ConvNorm:
    """A depthwise 3x3 with normalisation and no activation."""
    return ConvNorm(channels, 3, strides, groups=channels, norm=norm, name=name)


def _require_multiplier(multiplier: float) -> None:
    if multiplier < 1:
        raise ValueError(f"multiplier must be at least 1, not {multiplier}")


@register_layer
class HarmonicBlock(Composite):
    """3x3 convolutions of harmonic widths, harmonically linked (arXiv 1909.00948, section 3).

    Input `(batch, height, width, channels)`, output `(batch, height, width, sum of the widths of odd layers and the last)`.

    Args:
        growth: channels of a layer with one link.
        multiplier: factor of a layer's channels for each link more.
        layers: number of layers.
        separable: each layer is a 1x1 convolution and a depthwise 3x3 without activation.
        norm: keyword arguments of `BatchNorm`; ReLU6 follows it unless said otherwise.

    Raises:
        ValueError: `growth` or `layers` is not positive, or `multiplier` is below 1.
    """

    def __init__(self, growth: int, multiplier: float, layers: int, *, norm: dict[str, Any], separable: bool = False,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        for argument, given in (("growth", growth), ("layers", layers)):
            if given < 1:
                raise ValueError(f"{argument} must be a whole number above 0, not {given}")
        _require_multiplier(multiplier)
        self.widths = harmonic_widths(growth, multiplier, layers)
        self.convs: list[list[keras.layers.Layer]] = []
        for i, width in enumerate(self.widths):
            size, name = (1, f"layer{i}_pointwise") if separable else (3, f"layer{i}")
            units = [ConvNorm(width, size, activation="relu6", norm=norm, name=name)]
            if separable:
                units.append(depthwise(width, 1, norm, f"layer{i}_depthwise"))
            self.convs.append(units)

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        """The layers, each with an input of its own."""
        return self.convs

    def build(self, input_shape: Shape) -> None:
        channels = [input_shape[-1], *self.widths]
        for layer, units in enumerate(self.convs, start=1):
            self.build_chain(units, (*input_shape[:-1], sum(channels[link] for link in harmonic_links(layer))))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], sum(_kept(self.widths)))

    def call(self, x: Any) -> Any:
        outputs = [x]
        for layer, units in enumerate(self.convs, start=1):
            outputs.append(chain(units, concatenate([outputs[link] for link in harmonic_links(layer)])))
        return concatenate(_kept(outputs[1:]))


def _kept(layers: Sequence[Any]) -> Sequence[Any]:
    """Of what belongs to layers 1, 2, …: that of the odd layers and the last one."""
    return [item for layer, item in enumerate(layers, start=1) if layer % 2 or layer == len(layers)]


@register_layer
class HarDNetStem(Composite):
    """3x3 convolution of stride 2, then a 3x3 or a 1x1.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/2⌉, ⌈width/2⌉, widths[1])`.

    Args:
        widths: output channels of the two convolutions.
        kernel_size: of the second one.
        norm: keyword arguments of `BatchNorm`; each convolution is followed by it and ReLU6.
    """

    def __init__(self, widths: Sequence[int], kernel_size: int, norm: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convs = [
            ConvNorm(widths[0], 3, 2, activation="relu6", norm=norm, name="conv1"),
            ConvNorm(widths[1], kernel_size, activation="relu6", norm=norm, name="conv2"),
        ]

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.convs]

    def call(self, x: Any) -> Any:
        return chain(self.convs, x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarDNetSpec(Spec):
    """A row of the table.

    Attributes:
        stem: widths of the stem's two convolutions.
        depths: blocks per stage; a stage ends where the map is halved.
        growth, layers: of each block, see `HarmonicBlock`.
        multiplier: of all blocks, see `HarmonicBlock`.
        transitions: output channels of the 1x1 convolution after each block.
        separable: depthwise separable layers, and depthwise convolutions in place of pools.
        block_dropout_rate: between the last block and its transition.
    """

    stem: tuple[int, int]
    depths: tuple[int, int, int, int]
    growth: tuple[int, ...]
    layers: tuple[int, ...]
    multiplier: float
    transitions: tuple[int, ...]
    separable: bool = False
    block_dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("there are no residual branches")
        if not 0 <= self.block_dropout_rate < 1:
            raise ValueError(f"block_dropout_rate must be at least 0 and below 1, not {self.block_dropout_rate!r}")
        _require_multiplier(self.multiplier)
        for option in ("growth", "layers", "transitions"):
            if len(getattr(self, option)) != sum(self.depths):
                raise ValueError(f"{option} must hold a number for each of the {sum(self.depths)} blocks of depths={self.depths}, "
                                 f"not {getattr(self, option)!r}")  # fmt: skip


def hardnet(spec: HarDNetSpec, inputs: Any) -> Any:
    """Stem, and four stages of blocks with their transitions; every stage starts by halving the map."""
    x = level(HarDNetStem(spec.stem, 1 if spec.separable else 3, spec.norm, name="stem")(inputs), "C1")
    blocks = zip(spec.growth, spec.layers, spec.transitions, strict=True)
    for stage, depth in enumerate(spec.depths, start=1):
        if spec.separable:
            x = depthwise(x.shape[-1], 2, spec.norm, f"stage{stage}_down")(x)
        elif stage == 1:
            x = MaxPool2D(3, 2, padding=1, nonnegative=True, name="stage1_down")(x)
        else:
            x = MaxPool2D(2, name=f"stage{stage}_down")(x)
        for block, (growth, layers, filters) in enumerate(itertools.islice(blocks, depth), start=1):
            x = HarmonicBlock(growth, spec.multiplier, layers, norm=spec.norm, separable=spec.separable,
                              name=f"stage{stage}_block{block}")(x)  # fmt: skip
            if spec.block_dropout_rate and (stage, block) == (4, depth):
                x = Dropout(spec.block_dropout_rate, name="block_dropout")(x)
            x = ConvNorm(filters, 1, activation="relu6", norm=spec.norm, name=f"stage{stage}_transition{block}")(x)
        x = level(x, f"C{stage + 1}")
    return x


def _pytorch_names(spec: HarDNetSpec) -> list[Rename]:
    """Our variable paths to the names of the authors' code, whose layers are one flat list `base`, dropout and pools too."""
    base = ["stem/conv1", "stem/conv2"]
    for stage, depth in enumerate(spec.depths, start=1):
        base.append(f"stage{stage}_down")
        base += [f"stage{stage}_{part}{block}" for block in range(1, depth + 1) for part in ("block", "transition")]
    if spec.block_dropout_rate:
        base.insert(-1, "block_dropout")
    return [
        (r"^(stage\d_down)/conv/", r"\1/dwconv/"),
        *((rf"^{name}/", f"base.{index}.") for index, name in enumerate(base)),
        (r"layer(\d+)_pointwise/", r"layers.\1.layer1."),
        (r"layer(\d+)_depthwise/conv/", r"layers.\1.layer2.dwconv."),
        (r"layer(\d+)_depthwise/", r"layers.\1.layer2."),
        (r"layer(\d+)/", r"layers.\1."),
        (r"^predictions/", f"base.{len(base)}.3/"),
    ]


def _row(name: str, **fields: Any) -> Variant:
    spec = HarDNetSpec(**fields)
    paper = "Chao et al., 2019, arXiv 1909.00948"
    return Variant(f"hardnet{name.lower()}", f"HarDNet{name}", "HarDNet", paper, hardnet, spec, _pytorch_names(spec))


H39: dict[str, Any] = {
    "stem": (24, 48), "depths": (1, 1, 1, 1), "multiplier": 1.6, "growth": (16, 20, 64, 160), "layers": (4, 16, 8, 4),
    "transitions": (96, 320, 640, 1024),
}  # fmt: skip
H68: dict[str, Any] = {
    "stem": (32, 64), "depths": (1, 2, 1, 1), "multiplier": 1.7, "growth": (14, 16, 20, 40, 160),
    "layers": (8, 16, 16, 16, 4), "transitions": (128, 256, 320, 640, 1024),
}  # fmt: skip
H85: dict[str, Any] = {
    "stem": (48, 96), "depths": (1, 2, 2, 1), "multiplier": 1.7, "growth": (24, 24, 28, 36, 48, 256),
    "layers": (8, 16, 16, 16, 16, 4), "transitions": (192, 256, 320, 480, 720, 1280),
}  # fmt: skip

VARIANTS = [
    _row("39DS", **H39, separable=True, dropout_rate=0.05),
    _row("68DS", **H68, separable=True, dropout_rate=0.05),
    _row("68", **H68, dropout_rate=0.1),
    _row("85", **H85, dropout_rate=0.2, block_dropout_rate=0.1),
]

BUILDERS = register(VARIANTS)
