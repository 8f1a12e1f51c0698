"""Mixup and cutmix: every example becomes a mixture of two, and so does its label."""

from collections.abc import Callable

import tensorflow as tf

from training.boxes import paste
from training.draws import seed_for
from training.recipe import AugmentRecipe

Batch = tuple[tf.Tensor, tf.Tensor]


@tf.autograph.experimental.do_not_convert
def mix(images: tf.Tensor, labels: tf.Tensor, recipe: AugmentRecipe, seed: tf.Tensor, epoch: tf.Tensor) -> Batch:
    """Mixes each example with its neighbour in the batch: the first with the second, the third with the fourth.

    In a batch of random order this is as good as mixing with the reversed batch, as the papers' code does, and unlike that it
    is the same however many replicas share the batch. All examples have the same share and the same box.

    Args:
        images: `(batch, height, width, channels)`, an even number.
        labels: `(batch, classes)`, probabilities.
        recipe: says which mixture, and until when.
        seed: two integers, of the step.
        epoch: number of the epoch, from 0.

    Returns:
        Images and labels of the same shapes and types.

    Raises:
        ValueError: the batch is odd.
    """
    ways: list[Callable[[], Batch]] = []
    if recipe.mixup:
        ways.append(lambda: mixup(images, labels, beta(recipe.mixup, seed)))
    if recipe.cutmix:
        ways.append(lambda: cutmix(images, labels, beta(recipe.cutmix, seed), seed))
    if not ways:
        return images, labels
    if images.shape[0] is not None and images.shape[0] % 2:
        raise ValueError(f"batch_size per replica must be even for mixup and cutmix, not {images.shape[0]}")
    chosen = tf.random.stateless_uniform((), seed_for("mixture", seed), 0, len(ways), tf.int32)
    if not recipe.mixup_off_epoch:
        return tf.switch_case(chosen, ways)
    return tf.cond(
        tf.less(epoch, recipe.mixup_off_epoch), lambda: tf.switch_case(chosen, ways), lambda: (images, labels)
    )


def beta(alpha: float, seed: tf.Tensor, shape: tuple[int, ...] = ()) -> tf.Tensor:
    """Draws of Beta(alpha, alpha), float32.

    As the logistic function of the difference of two logarithms of Gamma(alpha) variables, which are themselves never
    formed: for small alpha both are often less than any number above 0.
    """
    gammas = tf.random.stateless_gamma((2, *shape), seed_for("gamma", seed), alpha + 1, dtype=tf.float64)
    below_one = 1 - tf.random.stateless_uniform((2, *shape), seed_for("power", seed), dtype=tf.float64)
    logarithms = tf.math.log(gammas) + tf.math.log(below_one) / alpha
    return tf.cast(tf.sigmoid(logarithms[0] - logarithms[1]), tf.float32)


def neighbours(examples: tf.Tensor) -> tf.Tensor:
    """The same examples, with the first and second, the third and fourth … exchanged."""
    shape = tf.shape(examples)
    pairs = tf.reshape(examples, tf.concat([[shape[0] // 2, 2], shape[1:]], axis=0))
    return tf.ensure_shape(tf.reshape(tf.reverse(pairs, [1]), shape), examples.shape)


def blend(examples: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """`share` of each example and the rest of its neighbour."""
    share = tf.cast(share, examples.dtype)
    return share * examples + (1 - share) * neighbours(examples)


def mixup(images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> Batch:
    """Blends images and labels (Zhang et al., 2017, arXiv 1710.09412)."""
    return blend(images, share), blend(labels, share)


def cutmix(images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor, seed: tf.Tensor) -> Batch:
    """Replaces a rectangle by that of the neighbour; labels are blended by its area (Yun et al., 2019, arXiv 1905.04899).

    The rectangle has the image's shape, a share of 1 - `share` of its area, and its centre anywhere: what sticks out is lost.
    """
    sides = tf.shape(images)[1:3]
    half = tf.cast(tf.cast(sides, tf.float32) * tf.sqrt(1 - share), tf.int32) // 2
    place = tf.random.stateless_uniform((2,), seed_for("box", seed))
    centre = tf.cast(place * tf.cast(sides, tf.float32), tf.int32)
    low, high = tf.maximum(centre - half, 0), tf.minimum(centre + half, sides)
    patch = neighbours(images[:, low[0] : high[0], low[1] : high[1]])
    kept = 1 - tf.reduce_prod(high - low) / tf.reduce_prod(sides)
    return paste(images, patch, low), blend(labels, kept)
