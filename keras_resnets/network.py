"""The class of every network."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_resnets import ops


@keras.saving.register_keras_serializable("keras_resnets")
class Network(keras.Model):
    """A functional `keras.Model` that remembers which table row and which weights it is (through `.keras` files too).

    Attributes:
        variant: name of the table row, as in `list_models`.
        weights_tag: tag of the pretrained weights that were loaded, or None.
    """

    # Defaults on the class: with a constructor of its own it would not be a functional model to Keras 3.12.
    variant: str | None = None
    weights_tag: str | None = None

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = "auto", steps: int | None = None,
                callbacks: Any = None) -> Any:  # fmt: skip
        """`keras.Model.predict`, which see. On TensorFlow a silent call (`verbose=0`) with an array of one batch goes to the
        network at once: the input pipeline that Keras builds for every call takes longer than a small network."""
        plain = verbose == 0 and steps is None and not callbacks
        if plain and self._is_one_batch(x, 32 if batch_size is None else batch_size):
            return self.predict_on_batch(x)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def _is_one_batch(self, x: Any, batch_size: int) -> bool:
        """Whether the input pipeline would give `x` itself, once."""
        return (
            keras.backend.backend() == "tensorflow"
            and self.distribute_strategy.num_replicas_in_sync == 1
            and self.steps_per_execution == 1
            and isinstance(x, np.ndarray)
            and x.dtype == keras.config.floatx()
            and x.ndim > 0
            and 0 < len(x) <= batch_size
        )

    def train_step(self, *arguments: Any) -> Any:
        """`keras.Model.train_step`. On TensorFlow the variables of optimizer and metrics are made ahead of its trace: Keras makes
        them while tracing, after which TensorFlow traces all of it again, which takes twice the time and another graph's memory.
        """
        if keras.backend.backend() != "tensorflow" or self.run_eagerly:
            return super().train_step(*arguments)
        import tensorflow as tf

        with tf.init_scope(), tf.variable_creator_scope(_variable_at_once):
            self._symbolic_build(data_batch=arguments[0])
        with _thrifty_updates(self.optimizer):
            return super().train_step(*arguments)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "variant": self.variant, "weights_tag": self.weights_tag}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Network":
        config = dict(config)
        variant, tag = config.pop("variant", None), config.pop("weights_tag", None)
        network = super().from_config(config, custom_objects=custom_objects)
        network.variant, network.weights_tag = variant, tag
        return network


def _variable_at_once(create: Any, **options: Any) -> Any:
    """A creator of variables that exist at once, not when a trace around it has ended."""
    return create(**{**options, "experimental_enable_variable_lifting": False})


@contextlib.contextmanager
def _thrifty_updates(optimizer: Any) -> Iterator[None]:
    """Saves memory in graphs traced meanwhile: a weight's update begins when its gradient is there, and is one operator where
    TensorFlow has that operator.

    Otherwise TensorFlow computes what does not depend on gradients, such as the decayed momenta of all weights, when a step begins,
    and keeps it through the backward pass.
    """
    import tensorflow as tf

    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of the one that scales losses
    if optimizer is None or "update_step" in vars(optimizer):  # another replica is traced too: its update serves both
        yield
        return
    has_operator = type(optimizer) is keras.optimizers.SGD and optimizer.momentum
    update_step = functools.partial(_momentum_step, optimizer) if has_operator else optimizer.update_step

    def update_after_gradient(gradient: Any, variable: Any, learning_rate: Any) -> None:
        with tf.control_dependencies([gradient]):
            update_step(gradient, variable, learning_rate)

    optimizer.update_step = update_after_gradient
    try:
        yield
    finally:
        del optimizer.update_step


def _momentum_step(optimizer: keras.optimizers.SGD, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """`optimizer.update_step` as one operator, in place: six nodes less of the graph for each weight."""
    import tensorflow as tf

    velocity = optimizer.momentums[optimizer._get_variable_index(variable)]
    lr, grad, momentum = (tf.cast(value, variable.dtype) for value in (learning_rate, gradient, optimizer.momentum))
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=ops.resource(variable), accum=ops.resource(velocity), lr=lr, grad=grad, momentum=momentum,
        use_nesterov=optimizer.nesterov,
    )  # fmt: skip
