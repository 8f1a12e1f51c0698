"""Split attention, the unit of ResNeSt: grouped convolutions weighted per channel by an attention over them."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_resnets.layers.attention import gate_dtype, softmax_of_two
from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import Conv2D, ConvNorm, he_fan_out
from keras_resnets.layers.regularization import DropBlock

SplitLayout = Literal["radix_major", "cardinality_major"]


@register_layer
class SplitAttention(Composite):
    """A convolution into `radix` splits, and their sum weighted by attention (Zhang et al., 2020, arXiv 2004.08955, 3.1).

    One grouped convolution of `radix · cardinality` groups, with normalisation and ReLU, makes the splits, each of
    `filters` channels. Their sum is pooled globally and, in `cardinality` groups, reduced to `attention_width` channels
    and expanded to one logit per split and channel. The softmax of the logits over the splits weights them; a single
    split is weighted by the sigmoid. Every split reads its own slice of the input's channels, which is the difference
    from `SelectiveKernel`.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        norm: keyword arguments of `BatchNorm`.
        kernel_size: odd, of the convolution.
        strides, dilation: of the convolution.
        radix: number of splits.
        cardinality: number of groups within a split, which share no attention weights.
        attention_width: channels of the attention bottleneck; by default a quarter of `filters · radix`, rounded down, and
            at least 32, as in the authors' code.
        layout: order of the splits' channels. "radix_major" (the authors' code and checkpoints) keeps each split
            together; "cardinality_major" (the paper's figure 2) keeps each group together, and so reads the slices of
            its input in that order. See `keras_resnets.equivalence.carry_layout`.
        drop_block: keyword arguments of a `DropBlock` on the splits (the authors' PyTorch code), or None.

    Raises:
        ValueError: `kernel_size` is even; the input's channels or `filters · radix` do not divide by
            `radix · cardinality`, or `attention_width` not by `cardinality`.
    """

    def __init__(self, filters: int, *, norm: dict[str, Any], kernel_size: int = 3, strides: int = 1, dilation: int = 1,
                 radix: int = 2, cardinality: int = 1, attention_width: int | None = None,
                 layout: SplitLayout = "radix_major", drop_block: dict[str, Any] | None = None,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        attention_width = attention_width or max(filters * radix // 4, 32)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        if filters % cardinality or attention_width % cardinality:
            raise ValueError(f"filters and attention_width must divide by cardinality {cardinality}, not {filters} and "
                             f"{attention_width}")  # fmt: skip
        self.filters, self.radix, self.cardinality, self.layout = filters, radix, cardinality, layout
        groups = radix * cardinality
        self.conv = ConvNorm(filters * radix, kernel_size, strides, groups=groups, dilation=dilation,
                             activation="relu", norm=norm, name="conv")  # fmt: skip
        self.drop_block = DropBlock(**drop_block, name="drop_block") if drop_block else None
        self.fc1 = ConvNorm(
            attention_width, 1, groups=cardinality, activation="relu", norm=norm, use_bias=True, name="fc1"
        )
        self.fc2 = Conv2D(filters * radix, 1, groups=cardinality, kernel_initializer=he_fan_out(), name="fc2")

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[self.conv] if self.drop_block is None else [self.conv, self.drop_block]]

    def build(self, input_shape: Shape) -> None:
        groups = self.radix * self.cardinality
        if input_shape[-1] % groups:
            raise ValueError(f"the input's channels must divide by radix · cardinality = {self.radix} · {self.cardinality} = "
                             f"{groups}, not {input_shape[-1]}")  # fmt: skip
        super().build(input_shape)
        self.build_chain([self.fc1, self.fc2], (None, 1, 1, self.filters))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*super().compute_output_shape(input_shape)[:-1], self.filters)

    def call(self, x: Any) -> Any:
        x = chain(self.branches()[0], x)
        weights = self._weights(ops.mean(x, axis=(1, 2), keepdims=True))
        weighted = [
            part * ops.cast(weight, x.dtype) for part, weight in zip(self._splits(x, self.layout), weights, strict=True)
        ]
        return sum(weighted[1:], start=weighted[0])

    def attention(self, pooled: Any) -> Any:
        """Weights of the splits, in the order of their channels, from their global averages.

        Both `(batch, 1, 1, radix · filters)`; the weights are at least float32 and sum to one over the splits.
        """
        weights = self._weights(pooled)
        if self.layout == "cardinality_major" and self.radix > 1:
            groups = [ops.split(weight, self.cardinality, axis=-1) for weight in weights]
            weights = [part for group in zip(*groups, strict=True) for part in group]
        return ops.concatenate(weights, axis=-1)

    def _weights(self, pooled: Any) -> Sequence[Any]:
        """The weights of each split, `(batch, 1, 1, filters)`, with its groups in order."""
        sums = self._splits(pooled, self.layout)
        logits = chain([self.fc1, self.fc2], sum(sums[1:], start=sums[0]))
        logits = ops.cast(logits, gate_dtype(logits))
        if self.radix == 1:
            return [ops.sigmoid(logits)]
        # Like all grouped convolutions, fc2 keeps its groups together: (cardinality, radix, channel).
        if self.radix == 2:
            return softmax_of_two(*self._splits(logits, "cardinality_major"))
        weights = ops.softmax(
            ops.reshape(logits, (-1, self.cardinality, self.radix, self.filters // self.cardinality)), axis=2
        )
        return [ops.reshape(weight, (-1, 1, 1, self.filters)) for weight in ops.split(weights, self.radix, axis=2)]

    def _splits(self, x: Any, layout: SplitLayout) -> Sequence[Any]:
        """The `radix` splits of `x`, each `(…, filters)` with its groups in order."""
        if self.radix == 1:
            return [x]
        if layout == "radix_major" or self.cardinality == 1:
            return ops.split(x, self.radix, axis=-1)
        parts = ops.split(x, self.radix * self.cardinality, axis=-1)
        return [ops.concatenate(parts[split :: self.radix], axis=-1) for split in range(self.radix)]
