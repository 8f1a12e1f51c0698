"""Random changes of an image's colours, on float32 pixels 0..255."""

from collections.abc import Callable

import tensorflow as tf

from training.draws import seed_for
from training.recipe import AugmentRecipe

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow's

# Of the colours of ImageNet's training images, on the scale 0..1: standard deviation along each principal component, and
# the components as columns, rows red, green and blue (Krizhevsky et al., 2012; the figures of fb.resnet.torch).
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def jitter(image: tf.Tensor, recipe: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue by random amounts, in random order, each result within 0..255.

    The factors of the first three are uniform in [1 - amount, 1 + amount], the hue is turned by a part of the circle uniform in
    [-amount, amount]: torchvision's `ColorJitter`.

    Args:
        image: `(height, width, 3)`, float32, pixels 0..255.
        recipe: the largest amounts.
        seed: two integers.
    """
    amounts: list[tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], float]] = [
        (brightness, recipe.brightness), (contrast, recipe.contrast), (saturation, recipe.saturation), (hue, recipe.hue),
    ]  # fmt: skip
    changes = [(change, amount) for change, amount in amounts if amount]
    if not changes:
        return image
    draws = tf.random.stateless_uniform((len(changes),), seed_for("amounts", seed), -1.0, 1.0)
    order = tf.argsort(tf.random.stateless_uniform((len(changes),), seed_for("order", seed)))
    for place in range(len(changes)):
        branches = [
            lambda image=image, change=change, amount=amount, number=number: change(image, amount * draws[number])
            for number, (change, amount) in enumerate(changes)
        ]
        image = tf.switch_case(order[place], branches)
    return image


def brightness(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Multiplies by 1 + `amount`."""
    return _clip(image * (1 + amount))


def contrast(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Multiplies the difference from the image's mean luminance by 1 + `amount`."""
    grey = tf.tensordot(tf.reduce_mean(image, (0, 1)), tf.constant(LUMINANCE), 1)
    return _clip(image * (1 + amount) - grey * amount)


def saturation(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Multiplies the difference from each pixel's luminance by 1 + `amount`."""
    to_grey = tf.repeat(tf.constant(LUMINANCE)[:, tf.newaxis], 3, axis=1)
    return _clip(tf.tensordot(image, (1 + amount) * tf.eye(3) - amount * to_grey, 1))


def hue(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Turns the hue by `amount` of the circle; the largest and the smallest of the three values stay."""
    return tf.image.adjust_hue(image, amount)


def _clip(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 255.0)


def lighting(image: tf.Tensor, deviation: float, seed: tf.Tensor) -> tf.Tensor:
    """Adds one colour to the whole image: noise along the principal components of ImageNet's colours.

    Args:
        image: `(height, width, 3)`, float32, pixels 0..255.
        deviation: of the normal variables that the components' standard deviations are multiplied by; usually 0.1.
        seed: two integers.
    """
    draws = tf.random.stateless_normal((3,), seed, stddev=deviation)
    return image + 255 * tf.linalg.matvec(tf.constant(EIGENVECTORS), draws * tf.constant(EIGENVALUES))
