"""Optimizers in the form in which the papers' recipes mean their numbers."""

import math
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


@keras.saving.register_keras_serializable("keras_resnets_training")
class LAMB(keras.optimizers.Optimizer):
    """Adam with a step in proportion to each weight's norm, for large batches (You et al., 2020, arXiv 1904.00962).

    As in timm, with which the "ResNet strikes back" recipes were trained: the gradient over all weights is clipped to norm 1,
    the update is `m / (sqrt(v) + epsilon)` with both averages freed of their bias, plus `weight_decay * w`; it is scaled by
    the ratio of the norms of weight and update, and by the rate. Weights of one dimension, biases and normalisation
    parameters, have neither decay nor scaling. `keras.optimizers.Lamb` decays beside the scaled update, which is another
    optimizer.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: at least 0.
        beta_1, beta_2: of the averages of the gradient and of its square.
        epsilon: added to the root.
        global_clipnorm: largest norm of the gradient over all weights; None for no limit.
        **kwargs: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: `weight_decay` is below 0.
    """

    def __init__(self, learning_rate: Any = 0.005, weight_decay: float = 0.0, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-6, global_clipnorm: float | None = 1.0, name: str = "LAMB",
                 **kwargs: Any) -> None:  # fmt: skip
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, not {weight_decay!r}")
        super().__init__(learning_rate=learning_rate, global_clipnorm=global_clipnorm, name=name, **kwargs)
        self.decay, self.beta_1, self.beta_2, self.epsilon = weight_decay, beta_1, beta_2, epsilon

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.means = self.add_optimizer_variables(variables, "mean")
        self.squares = self.add_optimizer_variables(variables, "square")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient, dtype = ops.cast(gradient, variable.dtype), variable.dtype
        place, step = self._get_variable_index(variable), ops.cast(self.iterations + 1, dtype)
        mean, square = self.means[place], self.squares[place]
        self.assign(mean, self.beta_1 * mean + (1 - self.beta_1) * gradient)
        self.assign(square, self.beta_2 * square + (1 - self.beta_2) * ops.square(gradient))
        # 1 - beta ** step, precise where beta is close to 1.
        unbiased_mean = mean / -ops.expm1(step * math.log(self.beta_1))
        unbiased_square = square / -ops.expm1(step * math.log(self.beta_2))
        update = unbiased_mean / (ops.sqrt(unbiased_square) + self.epsilon)
        if self.decay and len(variable.shape) > 1:
            update = update + self.decay * variable
            size, stride = ops.norm(variable), ops.norm(update)
            update = update * ops.where((size > 0) & (stride > 0), size / ops.maximum(stride, 1e-30), 1.0)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * update)

    def get_config(self) -> dict[str, Any]:
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), "weight_decay": self.decay, **own}
