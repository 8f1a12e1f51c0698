"""Batches of examples for training and testing, which follow from the recipe and the step alone.

The order of an epoch follows from the seed and the epoch's number, what happens to an image from the seed and its position in
the run. So a run that starts in the middle, and any number of processes and replicas, see the same global batches.

An image that cannot be decoded is noted (`Data.problems`), and another takes its place, with its own label: the next in the
order of the epoch that can be decoded. Where none of several can, the image is black and belongs to no class.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from training.augment import erase
from training.data import Data
from training.examples import decoded, decoded_part, testing_image, training_image
from training.images import reason
from training.mixing import mix
from training.parts import Part, Taken
from training.recipe import Recipe

Preprocessing = Callable[[tf.Tensor], tf.Tensor]


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
    mean = _mean(preprocess)

    def epoch_of_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch = tf.cast(epoch, tf.int32)
        first = tf.where(epoch == first_step // steps, first_step % steps, 0)
        handles = data.train.drawn(tf.stack([recipe.seed, epoch]), taken, first)

        def positions(step: tf.Tensor, handles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            shown = tf.gather(handles, slots % different - taken.low)
            return shown, (epoch * steps + first + tf.cast(step, tf.int32)) * recipe.batch_size + slots

        return handles.enumerate().map(positions).unbatch()

    def example(handles: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([recipe.seed, position])
        part, label, _ = _first_decodable(
            data, data.train, handles, lambda content: decoded_part(content, recipe.data, recipe.augment, seed)
        )
        image = preprocess(training_image(part, recipe.data, recipe.augment, mean, seed))
        return erase(image, recipe.augment, seed), tf.one_hot(label, len(data.class_names))

    def mixed(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        step = tf.cast(number // share.local, tf.int32)
        return mix(*batch, recipe.augment, tf.stack([recipe.seed, step]), step // steps)

    epochs = tf.data.Dataset.range(first_step // steps, recipe.epochs).flat_map(epoch_of_examples)
    examples = epochs.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = examples.batch(size, drop_remainder=True)
    if recipe.augment.mixup or recipe.augment.cutmix:
        batches = batches.enumerate(start=first_step * share.local).map(mixed)
    return batches.prefetch(tf.data.AUTOTUNE)


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

    def example(handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image, label, found = _first_decodable(data, data.test, handle[tf.newaxis], decoded)
        image = preprocess(testing_image(image, recipe.data))
        return image, tf.one_hot(label, len(data.class_names)), tf.cast(found, tf.float32)

    examples = data.test.in_order(start, stop).map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    nothing = tf.data.Dataset.from_tensors(tuple(tf.zeros(spec.shape) for spec in examples.element_spec)).repeat()
    return examples.concatenate(nothing).take(mine).batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _taken(start: int, count: int, different: int, steps: int) -> Taken:
    """The images that `count` slots of a batch from `start` on show: slot j shows image j modulo `different`."""
    low = start % different
    if low + count > different:
        return Taken(different, 0, different, steps)
    return Taken(different, low, low + count, steps)


def _mean(preprocess: Preprocessing) -> tf.Tensor:
    """The pixel that a linear `preprocess` takes to zero."""
    black, white = (tf.reshape(preprocess(tf.fill((1, 1, 3), value)), (3,)) for value in (0.0, 255.0))
    return 255 * black / (black - white)


def _first_decodable(data: Data, part: Part, handles: tf.Tensor,
                     decode: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:  # fmt: skip
    """The first of some images that can be decoded, its label, and whether there is one: else black, and no class.

    Nothing but `decode` may fail: an error anywhere else is one of this program and ends it.
    """

    def attempt(number: tf.Tensor, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        content, label = part.load(handle)
        return decode(content), label, number

    if part.always_decodable:
        image, label, _ = attempt(tf.constant(0), handles[0])
        return image, label, tf.constant(True)

    def note(failed: tf.Tensor) -> int:
        for handle in failed:
            data.note_problem(part.name(handle), _reason(part, handle))
        return 0

    count = tf.size(handles, tf.int64)
    attempts = tf.data.Dataset.from_tensor_slices(handles).enumerate().map(attempt).ignore_errors()
    none = tf.data.Dataset.from_tensors((tf.zeros((1, 1, 3), tf.uint8), -1, count))
    image, label, failures = attempts.concatenate(none).take(1).get_single_element()
    tf.cond(failures > 0, lambda: tf.py_function(note, [handles[:failures]], tf.int32), lambda: 0)
    return image, label, failures < count


def _reason(part: Part, handle: tf.Tensor) -> str:
    """Why an image cannot be decoded."""
    try:
        content, _ = part.load(handle)
    except tf.errors.OpError as error:
        return error.message
    return reason(content.numpy()) or "it could not be read, and can be now"
