"""What every layer of the package shares: registration, and building sublayers by shape."""

import abc
from collections.abc import Sequence
from typing import Any

import keras

# Sizes are ints, None where unknown; the channels are always known, which the type system cannot be told.
Shape = tuple[Any, ...]

register_layer = keras.saving.register_keras_serializable("keras_resnets")


class Composite(keras.layers.Layer):
    """A layer made of other layers.

    A subclass lists its sublayers in `branches()`: each branch is a chain that starts at the layer's input, and the first
    one gives the output's shape. From that list come `build`, `compute_output_shape` and so a fast symbolic call: the
    body of `call` is not traced while a functional model is assembled. Sublayers take over the layer's dtype policy.

    `training` needs no mention in `call`: Keras hands it on to sublayers. Constructor arguments are plain numbers, strings,
    lists and dicts, so that Keras' automatic configuration serialises the layer.
    """

    @abc.abstractmethod
    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        """Chains of sublayers, each starting at the input of this layer."""

    def build(self, input_shape: Shape) -> None:
        for branch in self.branches():
            self.build_chain(branch, input_shape)

    def build_chain(self, layers: Sequence[keras.layers.Layer], shape: Shape) -> Shape:
        """Builds `layers` one after the other from `shape` on; returns the last one's output shape."""
        for layer in layers:
            layer.dtype_policy = self.dtype_policy
            if not layer.built:
                layer.build(tuple(shape))
            shape = layer.compute_output_shape(tuple(shape))
        return shape

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = tuple(input_shape)
        for layer in self.branches()[0]:
            shape = layer.compute_output_shape(shape)
        return shape


def chain(layers: Sequence[keras.layers.Layer], x: Any) -> Any:
    """Calls `layers` one after the other. Keras hands an outer call's `training` on to them."""
    for layer in layers:
        x = layer(x)
    return x
