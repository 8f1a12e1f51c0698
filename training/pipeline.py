"""Batches of examples for training and testing, which follow from the recipe and the step alone.

The order of an epoch follows from the seed and the epoch's number, what happens to an image from the seed and its position in
the run. So a run that starts in the middle, and any number of processes and replicas, see the same global batches.

An image that cannot be decoded is noted (`Data.problems`), and another takes its place, with its own label: the next in the
order of the epoch that can be decoded. Where none of several can, the image is black and belongs to no class.
"""

import dataclasses
import os

import tensorflow as tf

from training.augment import erase
from training.data import Data
from training.mixing import mix
from training.parts import Taken
from training.recipe import Recipe
from training.transforms import Normalise, Preprocessing, decoded, decoded_part, testing_image, training_image
from training.unreadable import first_decodable, in_chunks


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


def training_batches(data: Data, recipe: Recipe, preprocess: Preprocessing, share: Share = Share(),
                     first_step: int = 0) -> tf.data.Dataset:  # fmt: skip
    """Batches of every step from `first_step` to the end of the run, one per replica of this process after the other.

    Args:
        data: images and labels.
        recipe: of the run.
        preprocess: a linear function of every channel; applied to float32 images with pixels 0..255, after the augmentation,
            before erasing and mixing.
        share: the part of every batch that this process loads.
        first_step: number of the first optimizer step.

    Returns:
        `(images, labels)`: float32 `(batch_size / replicas, size, size, 3)` and `(batch_size / replicas, classes)`, the labels
        one-hot or mixed.

    Raises:
        ValueError: there are fewer images than a batch has, or replicas cannot share it equally.
    """
    size, steps = replica_batch(recipe, share), steps_per_epoch(data, recipe)
    slots = tf.range(share.worker * share.local * size, (share.worker + 1) * share.local * size)
    different = -(-recipe.batch_size // recipe.data.repeats)
    taken = _taken(int(slots[0]), len(slots), different, steps)
    normalise = Normalise(preprocess)

    def epoch_of_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch = tf.cast(epoch, tf.int32)
        first = tf.where(epoch == first_step // steps, first_step % steps, 0)
        handles = data.train.drawn(tf.stack([recipe.seed, epoch]), taken, first)

        def positions(step: tf.Tensor, handles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            shown = tf.gather(handles, slots % different - taken.low)
            return shown, (epoch * steps + first + tf.cast(step, tf.int32)) * recipe.batch_size + slots

        return handles.enumerate().map(positions).unbatch()

    def finished(part: tf.Tensor, label: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([recipe.seed, position])
        image = normalise(training_image(part, recipe.data, recipe.augment, normalise.mean, seed))
        return erase(image, recipe.augment, seed), tf.one_hot(label, len(data.class_names))

    def decode(content: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        return decoded_part(content, recipe.data, recipe.augment, tf.stack([recipe.seed, position]))

    def plain(handles: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = data.train.load(handles[0])
        return finished(decode(content, position), label, position)

    def careful(handles: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        part, label, _ = first_decodable(data, data.train, handles, lambda content: decode(content, position))
        return finished(part, label, position)

    def mixed(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        step = tf.cast(number // share.local, tf.int32)
        return mix(*batch, recipe.augment, tf.stack([recipe.seed, step]), step // steps)

    epochs = tf.data.Dataset.range(first_step // steps, recipe.epochs).flat_map(epoch_of_examples)
    if data.train.always_decodable:
        examples = epochs.map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(size, drop_remainder=True)
    else:
        batches = in_chunks(epochs, size, plain, careful)
    if recipe.augment.mixup or recipe.augment.cutmix:
        numbered = batches.enumerate(start=first_step * share.local)
        batches = numbered.map(mixed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(threads())


def test_batches(data: Data, recipe: Recipe, preprocess: Preprocessing, share: Share = Share()) -> tf.data.Dataset:
    """The held-out images once, resized, with their centre cut out; in batches of equal size, as many for every replica.

    Returns:
        `(images, one-hot labels, weights)`; weights `(batch,)` are 1, and 0 for what fills the last batches or could not be
        decoded.
    """
    size = replica_batch(recipe, share)
    portion = -(-data.test_count // share.workers)
    mine = -(-portion // (share.local * size)) * share.local * size
    start = min(share.worker * portion, data.test_count)
    stop = min(start + portion, data.test_count)
    normalise = Normalise(preprocess)

    def finished(image: tf.Tensor, label: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = normalise(testing_image(image, recipe.data))
        return image, tf.one_hot(label, len(data.class_names)), tf.cast(found, tf.float32)

    def plain(handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        content, label = data.test.load(handle)
        return finished(decoded(content), label, tf.constant(True))

    def careful(handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return finished(*first_decodable(data, data.test, handle[tf.newaxis], decoded))

    make = plain if data.test.always_decodable else careful
    examples = data.test.in_order(start, stop).map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    nothing = tf.data.Dataset.from_tensors(tuple(tf.zeros(spec.shape) for spec in examples.element_spec)).repeat()
    batches = examples.concatenate(nothing).take(mine).batch(size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(threads())


def threads() -> tf.data.Options:
    """A thread for every core, and none within an operation: images are many enough to keep all busy."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.threading.max_intra_op_parallelism = 1
    return options


def _taken(start: int, count: int, different: int, steps: int) -> Taken:
    """The images that `count` slots of a batch from `start` on show: slot j shows image j modulo `different`."""
    low = start % different
    if low + count > different:
        return Taken(different, 0, different, steps)
    return Taken(different, low, low + count, steps)
