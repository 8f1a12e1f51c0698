"""The Inception module: parallel branches whose outputs are concatenated."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import ConvNorm
from keras_resnets.layers.pooling import AvgPool2D, MaxPool2D
from keras_resnets.lowering import concatenate

# A convolution (filters, kernel_size[, strides[, padding]]), a pool, or branches of its own.
Step = Sequence[Any] | Literal["avg", "max"] | Mapping[str, Any]
Branches = Mapping[str, Sequence[Step]]


@register_layer
class InceptionModule(Composite):
    """Chains of convolutions and pools side by side on one input, concatenated (Szegedy et al., 2015, arXiv 1512.00567).

    Input `(batch, height, width, channels)`, output `(batch, out_height, out_width, sum of the branches' channels)`.

    Args:
        branches: the steps of each branch by its name, in the order of concatenation. A step is

            * `(filters, kernel_size)`, `(filters, kernel_size, strides)` or `(filters, kernel_size, strides, padding)`: a
              convolution as in `ConvNorm`, with normalisation and ReLU; symmetric padding by default;
            * "avg", a 3x3 average pool of stride 1, or "max", an unpadded 3x3 max pool of stride 2;
            * branches again: their concatenation.
        norm: keyword arguments of `BatchNorm`.
        count_include_pad: whether the zeros around the average pools' input count in the divisor.

    Sublayers carry the branch's name; those of a branch with several convolutions are numbered: `name_1`, `name_2` …

    Raises:
        ValueError: there are no branches, a step is none of these, or the branches make maps of different sizes.
    """

    def __init__(self, branches: Branches, *, norm: dict[str, Any], count_include_pad: bool = True,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if not branches:
            raise ValueError(f"branches must hold at least one branch, not {branches!r}")
        self.norm_arguments, self.count_include_pad = norm, count_include_pad
        self.chains = [self._chain(name, steps) for name, steps in branches.items()]

    def _chain(self, branch: str, steps: Sequence[Step]) -> list[keras.layers.Layer]:
        layers: list[keras.layers.Layer] = []
        several, number = sum(not isinstance(step, str) for step in steps) > 1, 0
        for step in steps:
            if step == "avg":
                pad = self.count_include_pad
                layers.append(AvgPool2D(3, 1, padding=1, count_include_pad=pad, name=f"{branch}_avg"))
            elif step == "max":
                layers.append(MaxPool2D(3, 2, name=f"{branch}_max"))
            else:
                number += 1
                layers.append(self._convolution(step, f"{branch}_{number}" if several else branch))
        return layers

    def _convolution(self, step: Any, name: str) -> keras.layers.Layer:
        if isinstance(step, Mapping):
            return InceptionModule(step, norm=self.norm_arguments, name=name)
        if not isinstance(step, Sequence) or isinstance(step, str) or not 2 <= len(step) <= 4:
            raise ValueError("a step of branches must be (filters, kernel_size[, strides[, padding]]), 'avg', 'max' or branches "
                             f"again, not {step!r}")  # fmt: skip
        options = dict(zip(("strides", "padding"), step[2:], strict=False))
        return ConvNorm(step[0], step[1], activation="relu", norm=self.norm_arguments, name=name, **options)

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return self.chains

    def build(self, input_shape: Shape) -> None:
        sizes = [self.build_chain(layers, input_shape)[1:3] for layers in self.chains]
        if len(set(sizes)) > 1:
            raise ValueError(f"branches of {self.name!r} make maps of different sizes of {tuple(input_shape)}: {sizes}")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        channels, shape = 0, tuple(input_shape)
        for layers in self.chains:
            shape = tuple(input_shape)
            for layer in layers:
                shape = layer.compute_output_shape(shape)
            channels += shape[-1]
        return (*shape[:-1], channels)

    def call(self, x: Any) -> Any:
        outputs = [chain(layers, x) for layers in self.chains]
        return concatenate(outputs)
