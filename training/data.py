"""Images and labels: sources, held-out splits, and batches for training that depend on nothing but the seed."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_resnets.assembly import nearest
from training.augment import random_affine
from training.recipe import AugmentRecipe, DataRecipe


@dataclasses.dataclass(frozen=True)
class Split:
    """uint8 images `(count, height, width, 3)`, 0..255, and their classes `(count,)`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """A source cut in two, and the names of its classes."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    title: str = "images in memory"

    @property
    def train_count(self) -> int:
        """How many images there are to train on."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """How many images are held out."""
        return len(self.test)


def digits(recipe: DataRecipe) -> LabelledImages:
    """The 1,797 scanned digits of scikit-learn: 8x8 with values 0..16, enlarged, as RGB with values 0..255.

    The held-out images are drawn per class, so that every digit has the same share in both parts.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    grey = source.images[..., np.newaxis] * (255 / 16)
    large = tf.image.resize(grey, (recipe.image_size, recipe.image_size), "bilinear").numpy()
    images = np.repeat(np.rint(large).astype(np.uint8), 3, axis=-1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, source.target, test_size=recipe.test_fraction, random_state=recipe.split_seed, stratify=source.target
    )
    return LabelledImages(
        Split(train_images, train_labels),
        Split(test_images, test_labels),
        tuple(str(name) for name in source.target_names),
        "handwritten digits",
    )


SOURCES: dict[str, Callable[[DataRecipe], LabelledImages]] = {"digits": digits}


def load_data(recipe: DataRecipe) -> LabelledImages:
    """The images of the source that `recipe` names."""
    return SOURCES[recipe.source](recipe)


Data = LabelledImages


def open_data(recipe: DataRecipe) -> Data:
    """The images of the source that `recipe` names.

    Raises:
        ValueError: there is no such source.
    """
    if recipe.source not in SOURCES:
        raise ValueError(f"data.source {recipe.source!r} is unknown: {nearest(recipe.source, SOURCES)}")
    return load_data(recipe)


def training_batches(split: Split, classes: int, preprocess: Callable[[tf.Tensor], tf.Tensor], augment: AugmentRecipe,
                     batch_size: int, seed: int, epochs: range) -> tf.data.Dataset:  # fmt: skip
    """Batches `(images, one-hot labels)` of all `epochs`, one after the other.

    Order and augmentation follow from the seed and the number of the epoch and step alone, so that a run that starts in
    the middle sees what the whole run would have seen. The last, smaller batch of an epoch is left out.

    Args:
        split: what to draw from.
        classes: length of the one-hot labels.
        preprocess: applied to float32 images with pixels 0..255, after the augmentation.
        augment: the largest amounts.
        batch_size: images per batch.
        seed: of order and augmentation.
        epochs: numbers of the epochs.
    """
    images, labels = tf.constant(split.images), tf.one_hot(split.labels, classes)
    steps = len(split) // batch_size

    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(split)), seed=tf.stack([seed, epoch]))
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)

    def batch(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shown = random_affine(tf.gather(images, chosen), augment, seed=tf.stack([seed, step]))
        return preprocess(shown), tf.gather(labels, chosen)

    orders = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch_order)
    numbered = orders.enumerate(start=epochs.start * steps)
    return numbered.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
