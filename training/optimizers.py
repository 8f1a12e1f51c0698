"""Optimizers in the form in which the papers' recipes mean their numbers."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_resnets_training")
class SGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum and coupled L2, as in PyTorch and Caffe.

    With gradient `g` of weight `w`: `g += l2 * w`, `v = momentum * v + g`, then `w -= lr * v`, or with Nesterov's form
    `w -= lr * (g + momentum * v)`. It differs from `keras.optimizers.SGD` twice. There `weight_decay` is decoupled, which at
    momentum 0.9 makes the same number ten times weaker. And there the velocity holds the learning rate, so that a change of
    rate takes effect with a delay.

    Args:
        learning_rate: a number or a schedule.
        momentum: at least 0, below 1.
        nesterov: look ahead by one step.
        l2: decay of every weight of two or more dimensions; biases and normalisation parameters have none.
        **kwargs: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: `momentum` or `l2` is out of range.
    """

    def __init__(self, learning_rate: Any = 0.1, momentum: float = 0.9, nesterov: bool = True, l2: float = 0.0,
                 name: str = "SGD", **kwargs: Any) -> None:  # fmt: skip
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {momentum!r}")
        if not l2 >= 0:
            raise ValueError(f"l2 must be at least 0, not {l2!r}")
        self.momentum, self.nesterov, self.l2 = momentum, nesterov, l2

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = ops.cast(gradient, variable.dtype)
        if self.l2 and len(variable.shape) > 1:
            gradient = gradient + self.l2 * variable
        velocity = self.velocities[self._get_variable_index(variable)]
        moved = self.momentum * velocity + gradient
        self.assign(velocity, moved)
        step = gradient + self.momentum * moved if self.nesterov else moved
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * step)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov, "l2": self.l2}
