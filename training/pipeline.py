"""Batches of examples for training and testing, which follow from the recipe and the step alone.

The order of an epoch follows from the seed and the epoch's number, what happens to an image from the seed and its position in
the run. So a run that starts in the middle, and any number of processes and replicas, see the same global batches.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from training.augment import random_affine
from training.data import Data
from training.recipe import Recipe

# Added to the seed, so that order, augmentation and mixing draw from streams of their own.
ORDER = 0x3C6EF372


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of every batch a process loads.

    Attributes:
        replicas: over all processes.
        worker: number of this process, of `workers`.
    """

    replicas: int = 1
    worker: int = 0
    workers: int = 1

    @property
    def local(self) -> int:
        """Replicas of this process."""
        return self.replicas // self.workers


def replica_batch(recipe: Recipe, share: Share) -> int:
    """Images per replica and step.

    Raises:
        ValueError: the replicas cannot share the batch equally, or the processes the replicas.
    """
    if share.replicas % share.workers or not 0 <= share.worker < share.workers:
        raise ValueError(f"{share.workers} processes cannot have equal shares of {share.replicas} replicas")
    if recipe.batch_size % share.replicas:
        raise ValueError(
            f"batch_size {recipe.batch_size} must be a multiple of the number of replicas, {share.replicas}"
        )
    return recipe.batch_size // share.replicas


def steps_per_epoch(data: Data, recipe: Recipe) -> int:
    """Optimizer steps in an epoch.

    Raises:
        ValueError: there are fewer images than a batch has.
    """
    steps = data.train_count // recipe.batch_size
    if not steps:
        raise ValueError(f"batch_size {recipe.batch_size} is more than the {data.train_count} training images")
    return steps


def training_batches(data: Data, recipe: Recipe, preprocess: Callable[[tf.Tensor], tf.Tensor], share: Share = Share(),
                     first_step: int = 0) -> tf.data.Dataset:  # fmt: skip
    """Batches of every step from `first_step` to the end of the run, one per replica of this process after the other.

    Args:
        data: images and labels.
        recipe: of the run.
        preprocess: applied to float32 images with pixels 0..255, after the augmentation.
        share: the part of every batch that this process loads.
        first_step: number of the first optimizer step.

    Returns:
        `(images, labels)`: float32 `(batch_size / replicas, size, size, 3)` and `(batch_size / replicas, classes)`, the labels
        one-hot or mixed.

    Raises:
        ValueError: there are fewer images than a batch has, or replicas cannot share it equally.
    """
    size, steps = replica_batch(recipe, share), steps_per_epoch(data, recipe)
    images, labels = tf.constant(data.train.images), tf.one_hot(data.train.labels, len(data.class_names))
    mine = share.local * size
    first = share.worker * mine

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(data.train_count), tf.stack([recipe.seed ^ ORDER, tf.cast(epoch, tf.int32)])
        )
        order = tf.reshape(order[: steps * recipe.batch_size], (steps, recipe.batch_size))[:, first : first + mine]
        positions = tf.range(steps * recipe.batch_size) + tf.cast(epoch, tf.int32) * steps * recipe.batch_size
        positions = tf.reshape(positions, (steps, recipe.batch_size))[:, first : first + mine]
        skipped = tf.where(epoch == first_step // steps, first_step % steps, 0)
        chosen = tf.data.Dataset.from_tensor_slices((order[skipped:], positions[skipped:]))
        return chosen.unbatch()

    def example(chosen: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = random_affine(images[chosen][tf.newaxis], recipe.augment, tf.stack([recipe.seed, position]))[0]
        return preprocess(image), labels[chosen]

    orders = tf.data.Dataset.range(first_step // steps, recipe.epochs).flat_map(epoch_batches)
    examples = orders.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def test_batches(data: Data, recipe: Recipe, preprocess: Callable[[tf.Tensor], tf.Tensor],
                 share: Share = Share()) -> tf.data.Dataset:  # fmt: skip
    """The held-out images once, in batches of equal size, as many for every replica.

    Returns:
        `(images, one-hot labels, weights)`; weights `(batch,)` are 1, and 0 for what fills the last batches.
    """
    size = replica_batch(recipe, share)
    images, labels = tf.constant(data.test.images), tf.one_hot(data.test.labels, len(data.class_names))
    rounds = -(-data.test_count // recipe.batch_size)
    mine = share.local * size
    places = tf.range(rounds * recipe.batch_size)
    places = tf.reshape(places, (rounds, recipe.batch_size))[:, share.worker * mine : (share.worker + 1) * mine]

    def example(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        there = place < data.test_count
        chosen = tf.where(there, place, 0)
        return preprocess(tf.cast(images[chosen], tf.float32)), labels[chosen], tf.cast(there, tf.float32)

    examples = tf.data.Dataset.from_tensor_slices(tf.reshape(places, (-1,))).map(
        example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return examples.batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
