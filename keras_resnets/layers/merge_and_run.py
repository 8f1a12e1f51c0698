"""Two branches side by side: merge-and-run and inception-like blocks (Zhao et al., 2016, arXiv 1611.07718).

Both have the convolutions of two residual blocks in the depth of one. An inception-like block adds its branches to one map;
merge-and-run has a stream for each branch, which the mean of both streams connects.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops as kops

from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import Conv2D, ConvNorm
from keras_resnets.layers.regularization import StochasticDepth
from keras_resnets.layers.residual import ResidualBlock


def _branch(name: str, filters: int, width: int | None, strides: int, norm: dict[str, Any],
            zero_gamma: bool = False, groups: int = 1, dilation: int = 1) -> list[keras.layers.Layer]:  # fmt: skip
    """Two 3x3 convolutions, or a bottleneck around a 3x3 of `width` channels; the last one without its ReLU."""
    normed: dict[str, Any] = {"activation": "relu", "norm": norm, "groups": groups}
    if width is None:
        first = [ConvNorm(filters, 3, strides, name=f"{name}_conv1", **normed)]
    else:
        first = [
            ConvNorm(width, 1, name=f"{name}_conv1", **normed),
            ConvNorm(width, 3, strides, dilation=dilation, name=f"{name}_conv2", **normed),
        ]
    size, last = (3, 2) if width is None else (1, 3)
    last_conv = ConvNorm(filters, size, norm=norm, groups=groups, zero_gamma=zero_gamma, name=f"{name}_conv{last}")
    return [*first, last_conv]


class _TwoBranches(Composite):
    """Two branches side by side, and the lines that pass them: identities, or projections where the shape changes."""

    def __init__(self, filters: int, width: int | None, strides: int, norm: dict[str, Any], zero_gamma: bool,
                 drop_path: float, lines: Sequence[str], dilation: int = 1, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.filters, self.strides, self.norm, self.line_names = filters, strides, norm, lines
        # A branch with nothing beside it is all there is, and never dropped.
        self.drop_path = StochasticDepth(drop_path if lines else 0.0, name="drop_path")
        self.first, self.second = self.make_branches(filters, width, strides, norm, zero_gamma, dilation)
        self.lines: list[list[keras.layers.Layer]] = []

    def make_branches(self, filters: int, width: int | None, strides: int, norm: dict[str, Any], zero_gamma: bool,
                      dilation: int) -> Sequence[list[keras.layers.Layer]]:  # fmt: skip
        """The layers of both branches."""
        return [
            _branch(name, filters, width, strides, norm, zero_gamma, dilation=dilation) for name in ("first", "second")
        ]

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.first, self.second, *self.lines]

    def build(self, input_shape: Shape) -> None:
        changes = self.strides > 1 or input_shape[-1] != self.filters
        self.lines = [
            [ConvNorm(self.filters, 1, self.strides, norm=self.norm, name=name)] if changes else []
            for name in self.line_names
        ]
        self.drop_path.dtype_policy = self.dtype_policy
        super().build(input_shape)


@register_layer
class InceptionLikeBlock(_TwoBranches):
    """`ReLU(x + first(x) + second(x))`, both branches two 3x3 convolutions.

    Folded, both are one branch: its first convolution makes the maps of both, its second one sums over them.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: of all convolutions.
        strides: of the first ones.
        norm: keyword arguments of `BatchNorm`.
        identity: without it the sum is that of the branches alone.
        zero_gamma: start both branches at zero.
        drop_path: rate of stochastic depth, of each branch; none without `identity`.
    """

    def __init__(self, filters: int, strides: int = 1, *, norm: dict[str, Any], identity: bool = True,
                 zero_gamma: bool = False, drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, None, strides, norm, zero_gamma, drop_path, ["shortcut"] * identity, **kwargs)

    def make_branches(self, filters: int, width: int | None, strides: int, norm: dict[str, Any], zero_gamma: bool,
                      dilation: int) -> Sequence[list[keras.layers.Layer]]:  # fmt: skip
        if not norm.get("folded"):
            return super().make_branches(filters, width, strides, norm, zero_gamma, dilation)
        first = ConvNorm(2 * filters, 3, strides, activation="relu", norm=norm, name="both_conv1")
        return [first, ConvNorm(filters, 3, norm=norm, name="both_conv2")], []

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.first, *([self.second] if self.second else []), *self.lines]

    def call(self, x: Any) -> Any:
        y = self.drop_path(chain(self.first, x))
        if self.second:
            y += self.drop_path(chain(self.second, x))
        return kops.relu(sum((chain(line, x) for line in self.lines), y))


@register_layer
class MergeAndRun(_TwoBranches):
    """A residual branch on each of two streams, and the mean of the streams added to both.

    Streams a and b become `ReLU(m + first(a))` and `ReLU(m + second(b))` with `m = (a + b) / 2`. Input: a list of two
    `(batch, height, width, channels)`; output: a list of two `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`, or one
    of them with `join`.

    Args:
        filters: output channels of a stream.
        width: channels of the 3x3 of a bottleneck; None for branches of two 3x3 convolutions.
        strides: of the block, in the first 3x3.
        dilation: of the 3x3 of a bottleneck.
        norm: keyword arguments of `BatchNorm`.
        merge: without it the streams only run.
        join: add both branches to the mean instead, `ReLU(m + first(a) + second(b))`: the end of two streams.
        zero_gamma: start both branches at zero.
        drop_path: rate of stochastic depth, of each branch; none without `merge`.

    Raises:
        ValueError: the input is not two streams of one shape, or `dilation` is given without `width`.
    """

    def __init__(self, filters: int, width: int | None = None, strides: int = 1, *, norm: dict[str, Any],
                 dilation: int = 1, merge: bool = True, join: bool = False, zero_gamma: bool = False,
                 drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        if width is None and dilation != 1:
            raise ValueError(f"dilation must be 1 without a bottleneck's width, not {dilation}")
        lines = ["first_shortcut", "second_shortcut"] if merge else []
        super().__init__(filters, width, strides, norm, zero_gamma, drop_path, lines, dilation, **kwargs)
        self.join = join

    def build(self, input_shape: Any) -> None:
        shapes = [tuple(shape) for shape in input_shape if isinstance(shape, (tuple, list))]
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise ValueError(f"input must be two streams of one shape, not {input_shape}")
        super().build(shapes[0])

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = super().compute_output_shape(input_shape[0])
        return shape if self.join else [shape, shape]

    def call(self, streams: Any) -> Any:
        first, second = (
            self.drop_path(chain(run, x)) for run, x in zip((self.first, self.second), streams, strict=True)
        )
        ends = [first + second] if self.join else [first, second]
        if self.lines:
            a, b = (chain(line, x) for line, x in zip(self.lines, streams, strict=True))
            merged = 0.5 * (a + b)
            ends = [merged + end for end in ends]
        ends = [kops.relu(end) for end in ends]
        return ends[0] if self.join else ends


@register_layer
class AveragedIdentityBlock(ResidualBlock):
    """What `MergeAndRun` is on its streams in one tensor: a residual block of two groups with an averaging shortcut.

    `ReLU(branch(x) + M x)`, where `M = [[I, I], [I, I]] / 2`, a 1x1 convolution that is not trained, gives both streams their
    mean. `M² = M`: identities in a row average once. `equivalence.carry_merge_and_run` carries the weights.

    Input `(batch, height, width, 2·channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, 2·filters)`.

    Args:
        filters, width, strides, norm: as in `MergeAndRun`.
    """

    def __init__(self, filters: int, width: int | None = None, strides: int = 1, *, norm: dict[str, Any],
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(2 * filters, strides, "B", norm, 0.0, **kwargs)
        self.filters, self.strides, self.norm = filters, strides, norm
        self.branch = _branch("grouped", 2 * filters, width and 2 * width, strides, norm, groups=2)

    def make_shortcut(self, channels: int) -> list[keras.layers.Layer]:
        average = Conv2D(
            2 * self.filters, 1, use_bias=False, kernel_initializer=_averaging, trainable=False, name="average"
        )
        if self.strides == 1 and channels == 2 * self.filters:
            return [average]
        projection = ConvNorm(2 * self.filters, 1, self.strides, groups=2, norm=self.norm, name="shortcut")
        return [projection, average]


def _averaging(shape: Shape, dtype: Any = None) -> Any:
    """The matrix M as the kernel of a 1x1 convolution."""
    return kops.convert_to_tensor(np.tile(np.eye(shape[-1] // 2) / 2, (1, 1, 2, 2)), dtype)
