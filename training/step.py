"""One step of training and one of testing, the same on one device, on several, and on several machines.

Under a strategy of `tf.distribute` a step has three parts. Every replica computes the gradient of its share of the batch and
the replicas add theirs up; what needs the gradient of the whole batch (its norm, its overflow) comes after that, the same on
every replica; then each replica updates its copy of the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_resnets.assembly import Network
from keras_resnets.layers import BatchNorm, DropBlock
from training.recipe import Recipe

PACK = 2**24  # bytes of gradients that travel together: sent while others are still computed, and without a copy of all
DRAWS = 64  # of random numbers that a layer has for itself in a step: one in each part of a batch


class LossScale:
    """The factor that keeps float16 gradients within their range (Micikevicius et al., 2017, arXiv 1710.03740).

    Halved when a gradient overflows, which leaves the step out; doubled after `patience` steps without. Make it in the scope
    of the strategy.
    """

    def __init__(self, patience: int = 2000) -> None:
        self.patience = patience
        self.factor = tf.Variable(2.0**15, trainable=False, name="loss_scale")
        self.good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.factor, self.good_steps]

    def update(self, finite: tf.Tensor) -> None:
        """Takes note of a step whose gradients were finite or not."""
        good = tf.where(finite, self.good_steps + 1, tf.zeros_like(self.good_steps))
        doubles = good >= self.patience
        change = tf.where(finite, tf.where(doubles, 2.0, 1.0), 0.5)
        self.factor.assign(self.factor * change)
        self.good_steps.assign(tf.where(doubles, tf.zeros_like(good), good))


class Trainer:
    """A network in training, with everything that changes while it is trained. Make it in the scope of `strategy`.

    Args:
        network: gives logits.
        recipe: says how it is trained.
        optimizer: one of `training.optimizers`; its `update_step` is called with gradients that are summed over the batch and
            clipped.
        loss: gives the loss of each example from targets, the network's outputs and the teacher's logits.
        steps: of the whole run, by the end of which DropBlock has its full rate.
        average: a network of the same form that takes the moving average of the weights, or None.
        teacher: gives logits for the network's inputs, or None.
    """

    def __init__(self, network: Network, recipe: Recipe, optimizer: keras.optimizers.Optimizer,
                 loss: Callable[[Any, Any, Any], Any], steps: int, average: Network | None = None,
                 teacher: Callable[[Any], Any] | None = None) -> None:  # fmt: skip
        self.network, self.recipe, self.optimizer, self.loss, self.steps = network, recipe, optimizer, loss, steps
        self.average, self.teacher, self.strategy = average, teacher, tf.distribute.get_strategy()
        optimizer.build(network.trainable_variables)
        self.loss_scale = LossScale() if recipe.precision == "mixed_float16" else None
        self.train_metrics = [keras.metrics.Mean(name="loss"), keras.metrics.Mean(name="accuracy")]
        self.test_metrics = [keras.metrics.Mean(name=name) for name in ("loss", "accuracy", "top5")]
        weights = {id(variable) for variable in network.weights}
        self._random_states = [variable for variable in network.variables if id(variable) not in weights]
        layers = list(network._flatten_layers())
        moving = [layer for layer in layers if isinstance(layer, BatchNorm) and layer.trainable]
        paths = {variable.path for layer in moving for variable in (layer.moving_mean, layer.moving_variance)}
        self._statistics = [
            variable for each in (network, average) if each for variable in each.weights if variable.path in paths
        ]
        self._drop_block = [
            layer.progress for layer in layers if isinstance(layer, DropBlock) and layer.progress is not None
        ]

    @property
    def tested(self) -> Network:
        """The network that is tested and saved."""
        return self.network if self.average is None else self.average

    def variables(self) -> dict[str, Any]:
        """Everything that a later step depends on, by name."""
        groups: dict[str, Sequence[Any]] = {
            "network": self.network.weights,
            "optimizer": self.optimizer.variables,
            "average": self.average.weights if self.average is not None else [],
            "metrics": [variable for metric in self.train_metrics for variable in metric.variables],
            "loss_scale": self.loss_scale.variables if self.loss_scale else [],
        }
        return {
            f"{group}/{place}": variable for group, listed in groups.items() for place, variable in enumerate(listed)
        }

    @tf.function
    def train(self, images: Any, labels: Any, wish: Any) -> Any:
        """One optimizer step on a batch, distributed over the replicas.

        Args:
            images, labels: of the whole batch, `(batch, height, width, 3)` and `(batch, classes)`.
            wish: a number that this process wants the others to know.

        Returns:
            The sum of all processes' wishes.
        """
        step = self.optimizer.iterations.value
        progress = tf.cast(step, tf.float32) / self.steps
        for variable in self._drop_block:
            variable.assign(progress)
        for place, state in enumerate(self._random_states):  # so dropout follows from seed and step alone
            state.assign(tf.cast(tf.stack([self.recipe.seed * 100_003 + place, step * DRAWS]), state.dtype))
        gradients, finite, wishes = self.strategy.run(self._gradients, args=(images, labels, wish))
        if self.loss_scale is None:
            self._apply(gradients)
        else:  # outside of the replicas, where a condition may hold the replicas' updates
            finite = self.strategy.experimental_local_results(finite)[0]
            tf.cond(finite, lambda: self._apply(gradients), lambda: None)
            self.loss_scale.update(finite)
        self.optimizer.iterations.assign_add(1)
        if self.average is not None:
            for average, variable in zip(self.average.weights, self.network.weights, strict=True):
                self.strategy.extended.update(average.value, self._move, args=(variable.value,), group=False)
        return self.strategy.experimental_local_results(wishes)[0]

    def _gradients(self, images: Any, labels: Any, wish: Any) -> tuple[list[Any], Any, Any]:
        """In a replica: the gradient over the whole batch, clipped, for each trainable variable."""
        replica = tf.distribute.get_replica_context()
        factor = 1.0 if self.loss_scale is None else self.loss_scale.factor
        sums: list[Any] = []
        parts = zip(*(tf.split(whole, self.recipe.accumulate) for whole in (images, labels)), strict=True)
        for part_images, part_labels in parts:
            with tf.control_dependencies(sums):  # one part after the other: that is what saves memory
                part = self._part_gradients(tf.identity(part_images), part_labels, factor)
            sums = [a + b for a, b in zip(sums, part, strict=True)] if sums else part
        packs = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK)
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums, packs)
        finite = tf.constant(True)
        if self.loss_scale is not None:
            sums = [gradient / factor for gradient in sums]
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in sums])
        if self.recipe.optimizer.clip_norm:
            sums, _ = tf.clip_by_global_norm(sums, self.recipe.optimizer.clip_norm)
        return sums, finite, replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(wish))

    def _part_gradients(self, images: Any, labels: Any, factor: Any) -> list[Any]:
        teacher_logits = None if self.teacher is None else self.teacher(images)
        with tf.GradientTape() as tape:
            outputs = self.network(images, training=True)
            losses = self.loss(tf.cast(labels, main_logits(outputs).dtype), outputs, teacher_logits)
            share = tf.reduce_sum(losses) / self.recipe.batch_size * factor
        loss, accuracy = self.train_metrics
        loss.update_state(losses)
        accuracy.update_state(hits(labels, main_logits(outputs), 1))
        return tape.gradient(share, [variable.value for variable in self.network.trainable_variables])

    def _apply(self, gradients: Sequence[Any]) -> None:
        rate = self.optimizer.learning_rate
        for variable, gradient in zip(self.network.trainable_variables, gradients, strict=True):
            self.strategy.extended.update(variable.value, self._update, args=(gradient, rate), group=False)

    def _update(self, variable: Any, gradient: Any, rate: Any) -> None:
        with tf.control_dependencies([gradient]):  # else decayed momenta, of all weights, wait in memory for gradients
            self.optimizer.update_step(gradient, variable, rate)

    def _move(self, average: Any, variable: Any) -> None:
        average.assign_sub((1 - self.recipe.ema) * (average - variable))

    @tf.function
    def synchronise(self) -> None:
        """Gives all replicas the mean of their statistics, each of which has seen its own part of the batches.

        They are averages of what was seen: so is the mean, and training goes on with it as it would have without.
        """
        self.strategy.run(self._synchronise)

    def _synchronise(self) -> None:
        replica = tf.distribute.get_replica_context()
        own = [tf.identity(variable.value) for variable in self._statistics]
        means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, own)
        for variable, mean in zip(self._statistics, means, strict=True):
            variable.assign(mean)

    @tf.function
    def test(self, images: Any, labels: Any, weights: Any) -> None:
        """Takes a batch, distributed over the replicas, into the test metrics; images of weight 0 do not count."""
        self.strategy.run(self._test, args=(images, labels, weights))

    def _test(self, images: Any, labels: Any, weights: Any) -> None:
        logits = main_logits(self.tested(images, training=False))
        losses = tf.nn.softmax_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits)
        for metric, values in zip(
            self.test_metrics, (losses, hits(labels, logits, 1), hits(labels, logits, 5)), strict=True
        ):
            metric.update_state(values, sample_weight=weights)


def main_logits(outputs: Any) -> Any:
    """Without the auxiliary ones."""
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def hits(labels: Any, logits: Any, count: int) -> Any:
    """For each example 1 if its most probable label is among the `count` highest logits, else 0."""
    return tf.cast(
        tf.math.in_top_k(tf.argmax(labels, axis=-1), tf.cast(logits, tf.float32), min(count, logits.shape[-1])),
        tf.float32,
    )
