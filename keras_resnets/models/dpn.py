"""DPN: dual path networks (Chen et al., 2017, arXiv 1707.01629).

A block's map is `[residual, dense]` in one tensor: every block adds to the first `filters` channels, as in ResNet, and
appends `growth` channels, as in DenseNet. Both come out of one pre-activated bottleneck with a grouped 3x3, which reads all
channels. In the first block of a stage a projection, with a normalisation of its own on the same input, makes the shortcut:
`filters` channels to add to and `2 · growth` dense ones to begin with.

Public code (MXNet, and timm, which took over MXNet's weights) differs, where a field of `DPNSpec` says so:

* `split_last` (rows with a "b"): the last 1x1 is two convolutions, one for each path, with as many parameters;
* `last_activation`: ReLU. timm's constructor asks for ELU, but builds ReLU, and in dpn48b SiLU, there as in the stem
  (`stem_activation`), though not in the blocks;
* `biased_variance`: MXNet's moving variances take the biased variance of a batch;
* `test_time_pool`: how the authors classify larger images than those of training. The classifier reads every 7x7 window of
  the last map, and the mean and the maximum of its *logits* over the windows are averaged ("mean-max"). At 224 pixels there
  is one window, and no difference. The weights are the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_resnets.assembly import Spec, classifier, level, stage_plan
from keras_resnets.layers import AvgPool2D, Composite, ConvNorm, MaxPool2D, NormAct
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.layers.conv import bare_conv
from keras_resnets.ops import is_exporting
from keras_resnets.registry import Rename, Variant, register

WINDOW = 7  # side of the last map of a 224-pixel image


def split_channels(x: Any, first: int) -> Sequence[Any]:
    """The first channels and the others. Exported, they are slices, which TFLite's fast kernels have, unlike uneven splits;
    otherwise a split, whose gradient is ten times as fast."""
    if is_exporting():
        return x[..., :first], x[..., first:]
    return ops.split(x, [first], axis=-1)


@register_layer
class DualPathBlock(Composite):
    """1x1 → grouped 3x3 → 1x1, each after normalisation and ReLU; added to the residual path, appended to the dense path.

    Input `(batch, height, width, channels)` with the residual path first; output `(batch, ⌈height/strides⌉, ⌈width/strides⌉,
    channels + growth)`, with a projection `(…, filters + 3 · growth)`.

    Args:
        filters: channels of the residual path.
        growth: channels appended to the dense path.
        width, groups: of the 3x3.
        strides: of the 3x3 and the projection.
        dilation: of the 3x3.
        project: make the two paths from the input by a projection.
        split_last: the last 1x1 is two convolutions, of `filters` and of `growth` channels.
        norm: keyword arguments of `BatchNorm`.

    Raises:
        ValueError: there is no projection, and the input has no more than `filters` channels or `strides` is not 1.
    """

    def __init__(self, filters: int, growth: int, width: int, groups: int, strides: int = 1, *, norm: dict[str, Any],
                 dilation: int = 1, project: bool = False, split_last: bool = False, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if strides != 1 and not project:
            raise ValueError(f"strides must be 1 without a projection, not {strides}")
        self.filters, self.growth = filters, growth
        self.branch = [
            NormAct(norm, name="preact"),
            ConvNorm(width, 1, activation="relu", norm=norm, name="conv1"),
            ConvNorm(width, 3, strides, groups=groups, dilation=dilation, activation="relu", norm=norm, name="conv2"),
        ]
        names = {"conv3_residual": filters, "conv3_dense": growth} if split_last else {"conv3": filters + growth}
        self.last = [bare_conv(channels, 1, name=name) for name, channels in names.items()]
        self.projection: list[keras.layers.Layer] = []
        if project:
            projection = bare_conv(filters + 2 * growth, 1, strides, name="projection")
            self.projection = [NormAct(norm, name="projection_preact"), projection]

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.projection, *([*self.branch, last] for last in self.last)]

    def build(self, input_shape: Shape) -> None:
        if not self.projection and input_shape[-1] <= self.filters:
            raise ValueError(f"input must have more than filters={self.filters} channels, not {input_shape[-1]}")
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *shape, channels = super().compute_output_shape(input_shape)
        return (*shape, channels + self.growth)

    def call(self, x: Any) -> Any:
        residual, dense = split_channels(chain(self.projection, x), self.filters)
        y = chain(self.branch, x)
        parts = [last(y) for last in self.last]
        added, appended = parts if len(parts) == 2 else split_channels(parts[0], self.filters)
        return ops.concatenate([residual + added, dense, appended], axis=-1)


@register_layer
class MeanMaxPool2D(keras.layers.Layer):
    """Half of the mean and the maximum over all positions: `(batch, height, width, channels)` to `(batch, channels)`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def call(self, x: Any) -> Any:
        return 0.5 * (ops.mean(x, (1, 2)) + ops.max(x, (1, 2)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPNSpec(Spec):
    """A row of the table.

    Attributes:
        depths: blocks per stage.
        stem_kernel, stem_width: of the stem's convolution.
        width, cardinality: channels and groups of stage 1's 3x3; the width doubles with every stage.
        base_width: channels of stage 1's residual path; they double with every stage.
        growth: channels that a block of each stage appends to the dense path.
        split_last, stem_activation, last_activation, biased_variance, test_time_pool: see the top of this file.
        output_stride: 32, 16 or 8; smaller ones dilate the last stages instead of striding.
    """

    bn_epsilon: float = 1e-3
    depths: tuple[int, int, int, int]
    stem_kernel: Literal[3, 7] = 7
    stem_width: int
    width: int
    cardinality: int
    base_width: int = 256
    growth: tuple[int, int, int, int]
    split_last: bool = False
    stem_activation: Literal["relu", "silu"] = "relu"
    last_activation: Literal["relu", "elu", "silu"] = "relu"
    biased_variance: bool = False
    test_time_pool: bool = False
    output_stride: Literal[32, 16, 8] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("dual path networks are without it")
        if self.dropout_rate and self.test_time_pool:
            raise ValueError(f"dropout_rate must be 0.0 with test_time_pool, not {self.dropout_rate!r}")
        if self.width % self.cardinality:
            raise ValueError(f"width must be a multiple of cardinality={self.cardinality}, not {self.width}")

    @property
    def norm(self) -> dict[str, Any]:
        return {**super().norm, "biased_variance": True} if self.biased_variance else super().norm

    @property
    def smallest_input(self) -> int:
        return self.output_stride * (WINDOW - 1) + 1 if self.test_time_pool else super().smallest_input

    def head(self, features: Any, classes: int, activation: str | None) -> Any:
        if not self.test_time_pool:
            return super().head(features, classes, activation)
        windows = AvgPool2D(WINDOW, 1, name="avg_pool")(features)
        logits = classifier(windows, classes, None)
        logits = MeanMaxPool2D(dtype=logits.dtype, name="mean_max_pool")(logits)
        return keras.layers.Activation(activation, dtype=logits.dtype, name="activation")(logits)


def dpn(spec: DPNSpec, inputs: Any) -> Any:
    """Stem, four stages, the last normalisation and activation."""
    activation = spec.stem_activation
    stem = ConvNorm(spec.stem_width, spec.stem_kernel, 2, activation=activation, norm=spec.norm, name="stem")
    pool = MaxPool2D(3, 2, padding=1, nonnegative=activation == "relu", name="stem_pool")
    x = pool(level(stem(inputs), "C1"))
    for stage, places in enumerate(stage_plan(spec.depths, output_stride=spec.output_stride)):
        for place in places:
            x = DualPathBlock(
                spec.base_width * 2**stage, spec.growth[stage], spec.width * 2**stage, spec.cardinality, place.strides,
                norm=spec.norm, dilation=place.first_dilation, project=place.index == 0, split_last=spec.split_last,
                name=place.name,
            )(x)  # fmt: skip
        if stage < 3:
            x = level(x, f"C{stage + 2}")
    return level(NormAct(spec.norm, spec.last_activation, name="norm")(x), "C5")


# Our variable paths to timm's names. A `ConvNorm` is a convolution and the normalisation after it, timm's units are a
# convolution and the normalisation before it.
PYTORCH_NAMES: list[Rename] = [
    (r"^stem/conv/", "features.conv1_1.conv/"),
    (r"^stem/norm/", "features.conv1_1.bn/"),
    (r"^norm/norm/", "features.conv5_bn_ac.bn/"),
    (r"^stage1_block1/projection", "stage1_block1/c1x1_w_s1"),
    (r"^stage(\d+)_block1/projection", r"stage\1_block1/c1x1_w_s2"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"features.conv{int(m[1]) + 1}_{m[2]}."),
    (r"(c1x1_w_s\d)_preact/norm/", r"\1.bn/"),
    (r"(c1x1_w_s\d)/", r"\1.conv/"),
    (r"\.preact/norm/", ".c1x1_a.bn/"),
    (r"\.conv1/conv/", ".c1x1_a.conv/"),
    (r"\.conv1/norm/", ".c3x3_b.bn/"),
    (r"\.conv2/conv/", ".c3x3_b.conv/"),
    (r"\.conv2/norm/", ".c1x1_c.bn/"),
    (r"\.conv3/", ".c1x1_c.conv/"),
    (r"\.conv3_residual/", ".c1x1_c1/"),
    (r"\.conv3_dense/", ".c1x1_c2/"),
    (r"^predictions/kernel", "classifier.weight|1x1"),  # timm's classifier is a 1x1 convolution
    (r"^predictions/", "classifier/"),
]

PAPER = "Chen et al., 2017, arXiv 1707.01629"

SMALL: dict[str, Any] = {"stem_kernel": 3, "stem_width": 10, "width": 128, "cardinality": 32, "base_width": 64}


def _row(name: str, depths: tuple[int, int, int, int], growth: tuple[int, int, int, int], **fields: Any) -> Variant:
    spec = DPNSpec(depths=depths, growth=growth, **fields)
    return Variant(f"dpn{name}", f"DPN{name}", "DPN", PAPER, dpn, spec, PYTORCH_NAMES)


VARIANTS = [
    _row("48b", (3, 4, 6, 3), (16, 32, 32, 64), **SMALL, split_last=True, stem_activation="silu", last_activation="silu"),
    _row("68", (3, 4, 12, 3), (16, 32, 32, 64), **SMALL),
    _row("68b", (3, 4, 12, 3), (16, 32, 32, 64), **SMALL, split_last=True),
    _row("92", (3, 4, 20, 3), (16, 32, 24, 128), stem_width=64, width=96, cardinality=32),
    _row("98", (3, 6, 20, 3), (16, 32, 32, 128), stem_width=96, width=160, cardinality=40),
    _row("107", (4, 8, 20, 3), (20, 64, 64, 128), stem_width=128, width=200, cardinality=50),
    _row("131", (4, 8, 28, 3), (16, 32, 32, 128), stem_width=128, width=160, cardinality=40),
]  # fmt: skip

BUILDERS = register(VARIANTS)
