"""Recomputation: training in less memory by making intermediate maps a second time, in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops as kops

from keras_resnets import xla

_BACKEND = keras.backend.backend()
if _BACKEND == "tensorflow":
    import tensorflow as tf


def recomputed(layers: Sequence[keras.layers.Layer], x: Any, parts: Sequence[Any]) -> Any:
    """`layers` called one after the other in training mode on `x`; of what they make only the result outlives the forward pass.

    The backward pass makes it again from `parts` and the weights. Values, gradients and moving statistics are those of
    calling the layers, and the statistics are updated once.

    Args:
        layers: built layers that draw no random numbers: the second time they would draw other ones.
        x: the concatenation of `parts` along the last axis; it is not kept either.
        parts: what is kept.

    Returns:
        The last layer's output.
    """
    trainable = [variable for layer in layers for variable in layer.trainable_variables]
    state = [variable for layer in layers for variable in layer.non_trainable_variables]
    weights, state_values = ([_value(variable) for variable in variables] for variables in (trainable, state))
    updated: list[keras.Variable] = []

    def forward(x: Any, weights: Sequence[Any]) -> list[Any]:
        """The output, then new values of the variables in `updated`."""
        with keras.StatelessScope(zip([*trainable, *state], [*weights, *state_values], strict=True)) as scope:
            before = [scope.get_current_value(variable) for variable in state]
            for layer in layers:
                x = layer(x, training=True)
            after = [scope.get_current_value(variable) for variable in state]
        changes = [(v, new) for v, old, new in zip(state, before, after, strict=True) if new is not old]
        updated[:] = [variable for variable, _ in changes]
        return [x, *(value for _, value in changes)]

    if _BACKEND == "tensorflow" and not xla.compiles_here():
        y, *values = _recomputed_from_parts(forward, x, parts, weights)
    else:
        y, *values = keras.remat(lambda parts, weights: forward(_concatenated(parts), weights))(parts, weights)
    for variable, value in zip(updated, values, strict=True):
        variable.assign(value)
    return y


def _value(variable: keras.Variable) -> Any:
    """The tensor that `variable` holds now; on TensorFlow `variable.value` is read only when it is used."""
    return tf.convert_to_tensor(variable.value) if _BACKEND == "tensorflow" else variable.value


def _concatenated(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else kops.concatenate(parts, axis=-1)


def _recomputed_from_parts(forward: Callable[..., Any], x: Any, parts: Sequence[Any], weights: Sequence[Any]) -> Any:
    """What `keras.remat` does, without a copy of each input, and with the gradient of `x` in one piece: sums of the gradients
    of its parts would wait for each other until the last reader of a part has been differentiated."""

    @tf.custom_gradient
    def apply(x: Any, *weights: Any) -> Any:
        def gradient(upstream: Any, *_of_statistics: Any) -> Any:
            with tf.GradientTape() as tape:
                with tf.control_dependencies([upstream]):  # else the executor would start at once
                    again = [_concatenated([tf.identity(part) for part in parts]), *map(tf.identity, weights)]
                tape.watch(again)
                y = forward(again[0], again[1:])[0]
            return tape.gradient(y, again, upstream)

        # The tape around sees what is computed in here, and would keep it.
        return forward(tf.stop_gradient(x), [tf.stop_gradient(weight) for weight in weights]), gradient

    return apply(x, *weights)
