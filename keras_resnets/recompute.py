"""Recomputation: training in less memory by making intermediate maps a second time, in the backward pass."""

from collections.abc import Sequence
from typing import Any

import keras


def recomputed(layers: Sequence[keras.layers.Layer], x: Any) -> Any:
    """`layers` called one after the other in training mode; of what they make only the result outlives the forward pass.

    The backward pass makes it again from `x` and the weights. Values, gradients and moving statistics are those of
    calling the layers, and the statistics are updated once.

    Args:
        layers: built layers that draw no random numbers: the second time they would draw other ones.
        x: the first layer's input, or a list of inputs.

    Returns:
        The last layer's output.
    """
    variables = [variable for layer in layers for variable in layer.variables]
    updated: list[keras.Variable] = []

    def forward(x: Any, values: list[Any]) -> tuple[Any, list[Any]]:
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            before = [scope.get_current_value(variable) for variable in variables]
            for layer in layers:
                x = layer(x, training=True)
            after = [scope.get_current_value(variable) for variable in variables]
        updated[:] = [v for v, old, new in zip(variables, before, after, strict=True) if new is not old]
        return x, [new for old, new in zip(before, after, strict=True) if new is not old]

    y, values = keras.remat(forward)(x, [variable.value for variable in variables])
    for variable, value in zip(updated, values, strict=True):
        variable.assign(value)
    return y
