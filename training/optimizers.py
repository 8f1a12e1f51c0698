"""Optimizers in the form in which the papers' recipes mean their numbers."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_resnets.ops import resource
from training.recipe import Recipe


def make_optimizer(recipe: Recipe, schedule: Any) -> keras.optimizers.Optimizer:
    """The optimizer of `recipe` with its learning rate, a number or a schedule. It clips nothing: `clip_norm` is for who has
    the gradient of the whole batch."""
    wanted = recipe.optimizer
    if wanted.name == "lamb":
        return LAMB(schedule, wanted.weight_decay)
    if wanted.name == "rmsprop":
        return RMSProp(schedule, wanted.rho, wanted.momentum, wanted.epsilon, wanted.l2, wanted.l2_on)
    return SGD(schedule, wanted.momentum, wanted.nesterov, wanted.l2, wanted.l2_on)


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
        l2, l2_on: decay of "kernels", weights of two or more dimensions, or of "all" weights, biases and normalisation
            parameters as well.
        **kwargs: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: `momentum`, `l2` or `l2_on` is not allowed.
    """

    def __init__(self, learning_rate: Any = 0.1, momentum: float = 0.9, nesterov: bool = True, l2: float = 0.0,
                 l2_on: str = "kernels", name: str = "SGD", **kwargs: Any) -> None:  # fmt: skip
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        _require(momentum, l2, l2_on)
        self.momentum, self.nesterov, self.l2, self.l2_on = momentum, nesterov, l2, l2_on

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = _decayed(ops.cast(gradient, variable.dtype), variable, self.l2, self.l2_on)
        velocity = self.velocities[self._get_variable_index(variable)]
        lr, momentum = (tf.cast(value, variable.dtype) for value in (learning_rate, self.momentum))
        tf.raw_ops.ResourceApplyMomentum(
            var=resource(variable), accum=resource(velocity), lr=lr, grad=gradient, momentum=momentum,
            use_nesterov=self.nesterov,
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "nesterov": self.nesterov, "l2": self.l2, "l2_on": self.l2_on}
        return {**super().get_config(), **own}


def _require(momentum: float, l2: float, l2_on: str) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, not {momentum!r}")
    if not l2 >= 0:
        raise ValueError(f"l2 must be at least 0, not {l2!r}")
    if l2_on not in ("kernels", "all"):
        raise ValueError(f"l2_on must be 'kernels' or 'all', not {l2_on!r}")


def _decayed(gradient: Any, variable: Any, l2: float, l2_on: str) -> Any:
    """The gradient with that of `l2 / 2 * Σ w²`."""
    return gradient + l2 * variable if l2 and (l2_on == "all" or len(variable.shape) > 1) else gradient


@keras.saving.register_keras_serializable("keras_resnets_training")
class RMSProp(keras.optimizers.Optimizer):
    """Gradients over the root of their running mean of squares, with momentum: TensorFlow 1's, which trained the Inceptions.

    With gradient `g` of weight `w`: `g += l2 * w`, `s = rho * s + (1 - rho) * g²` beginning with 1,
    `m = momentum * m + lr * g / sqrt(s + epsilon)`, then `w -= m`. `keras.optimizers.RMSprop` begins with 0, which makes the first
    steps larger.

    Args:
        learning_rate: a number or a schedule.
        rho: weight of the old mean of squares.
        momentum: at least 0, below 1.
        epsilon: added to the mean of squares, inside the root; 1 for the Inceptions.
        l2, l2_on: as in `SGD`.
        **kwargs: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: `rho`, `momentum`, `epsilon`, `l2` or `l2_on` is not allowed.
    """

    def __init__(self, learning_rate: Any = 0.045, rho: float = 0.9, momentum: float = 0.9, epsilon: float = 1.0,
                 l2: float = 0.0, l2_on: str = "kernels", name: str = "RMSProp", **kwargs: Any) -> None:  # fmt: skip
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= rho < 1:
            raise ValueError(f"rho must be at least 0 and below 1, not {rho!r}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, not {epsilon!r}")
        _require(momentum, l2, l2_on)
        self.rho, self.momentum, self.epsilon, self.l2, self.l2_on = rho, momentum, epsilon, l2, l2_on

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.squares = self.add_optimizer_variables(variables, "square", initializer="ones")
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = _decayed(ops.cast(gradient, variable.dtype), variable, self.l2, self.l2_on)
        place = self._get_variable_index(variable)
        square, velocity = self.squares[place], self.velocities[place]
        mean = self.rho * square + (1 - self.rho) * ops.square(gradient)
        self.assign(square, mean)
        step = ops.cast(learning_rate, variable.dtype) * gradient / ops.sqrt(mean + self.epsilon)
        moved = self.momentum * velocity + step
        self.assign(velocity, moved)
        self.assign_sub(variable, moved)

    def get_config(self) -> dict[str, Any]:
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "l2": self.l2, "l2_on": self.l2_on}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_resnets_training")
class LAMB(keras.optimizers.Optimizer):
    """Adam with a step in proportion to each weight's norm, for large batches (You et al., 2020, arXiv 1904.00962).

    As in timm, with which the "ResNet strikes back" recipes were trained: the update is `m / (sqrt(v) + epsilon)` with both
    averages freed of their bias, plus `weight_decay * w`; it is scaled by the ratio of the norms of weight and update, and by
    the rate. Weights of one dimension, biases and normalisation parameters, have neither decay nor scaling. Their gradient
    was clipped to norm 1 over all weights before, which is left to the caller here. `keras.optimizers.Lamb` decays
    beside the scaled update, which is another optimizer.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: at least 0.
        beta_1, beta_2: of the averages of the gradient and of its square.
        epsilon: added to the root.
        **kwargs: as in `keras.optimizers.Optimizer`, such as `global_clipnorm`.

    Raises:
        ValueError: `weight_decay` is below 0.
    """

    def __init__(self, learning_rate: Any = 0.005, weight_decay: float = 0.0, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-6, name: str = "LAMB", **kwargs: Any) -> None:  # fmt: skip
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, not {weight_decay!r}")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
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
            size, stride = (ops.sqrt(ops.sum(ops.square(x))) for x in (variable, update))  # norm takes no kernels
            update = update * ops.where((size > 0) & (stride > 0), size / ops.maximum(stride, 1e-30), 1.0)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * update)

    def get_config(self) -> dict[str, Any]:
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), "weight_decay": self.decay, **own}
