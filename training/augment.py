"""Random changes of training images, in plain TensorFlow operations.

Each is a function of the image and of a seed, which names the image's place in the run; draws for one change are independent of
those for another.
"""

import math

import tensorflow as tf

from training.boxes import paste
from training.colour import jitter, lighting
from training.draws import seed_for
from training.policies import apply_policy
from training.recipe import AugmentRecipe

ERASED_AREA = (0.02, 1 / 3)  # share of the image
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASING_TRIALS = 10


@tf.autograph.experimental.do_not_convert
def augment_image(image: tf.Tensor, recipe: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """All changes that the recipe asks for between the crop and the preprocessing.

    Args:
        image: `(height, width, 3)`, pixels 0..255, uint8 or float32.
        recipe: the changes: policy (unless `policy_first`), flip, affine map, colour, lighting, in this order.
        seed: two integers, of the example.

    Returns:
        float32 image of the same shape.
    """
    if not recipe.policy_first:
        image = apply_policy(image, recipe, seed)
    image = tf.cast(image, tf.float32)
    if recipe.flip:
        image = random_flip(image, seed_for("flip", seed))
    if recipe.shift or recipe.rotation or recipe.zoom or recipe.shear:
        image = random_affine(image[tf.newaxis], recipe, seed_for("affine", seed))[0]
    image = jitter(image, recipe, seed_for("jitter", seed))
    if recipe.lighting:
        image = lighting(image, recipe.lighting, seed_for("lighting", seed))
    return image


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Left and right exchanged, or not, with equal chances."""
    mirrored = tf.random.stateless_uniform((), seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def random_affine(images: tf.Tensor, amounts: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """Shifts, rotates, zooms and shears every image by its own random amounts, in one bilinear resampling.

    What comes in from outside the image is black.

    Args:
        images: `(batch, height, width, channels)`, pixels 0..255 of any type.
        amounts: the largest amounts.
        seed: two integers; the same seed gives the same result.

    Returns:
        float32 images of the same shape.
    """
    images = tf.cast(images, tf.float32)
    batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draw = tf.random.stateless_uniform((6, batch), seed, -1.0, 1.0)
    turn, lean = amounts.rotation * math.pi / 180 * draw[0], tf.tan(amounts.shear * math.pi / 180 * draw[1])
    wide, high = 1 + amounts.zoom * draw[2], 1 + amounts.zoom * draw[3]
    # The matrix takes a pixel of the result to the place in the image that it shows, both relative to the centre.
    a, b = tf.cos(turn) / wide, (lean * tf.cos(turn) - tf.sin(turn)) / high
    c, d = tf.sin(turn) / wide, (lean * tf.sin(turn) + tf.cos(turn)) / high
    x, y = (width - 1) / 2, (height - 1) / 2
    right, down = x - a * x - b * y + amounts.shift * draw[4], y - c * x - d * y + amounts.shift * draw[5]
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, right, c, d, down, zero, zero], axis=-1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


@tf.autograph.experimental.do_not_convert
def erase(image: tf.Tensor, recipe: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """Sets a random rectangle to 0, with the recipe's probability (Zhong et al., 2017, arXiv 1708.04896).

    A share of 0.02 to 1/3 of the image, height over width from 0.3 to 3.3 (uniform in its logarithm): the first of ten
    trials that is smaller than the image, or nothing.

    Args:
        image: `(height, width, channels)`, preprocessed: 0 is the mean.
        recipe: `erasing` is the probability.
        seed: two integers, of the example.

    Returns:
        An image of the same shape and type.
    """
    if not recipe.erasing:
        return image
    wanted = tf.random.stateless_uniform((), seed_for("erase", seed)) < recipe.erasing
    return tf.cond(wanted, lambda: _with_hole(image, seed_for("hole", seed)), lambda: image)


def _with_hole(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    draws = tf.random.stateless_uniform((2 * ERASING_TRIALS + 2,), seed)
    area, aspect, place = tf.split(draws, [ERASING_TRIALS, ERASING_TRIALS, 2])
    sides = tf.shape(image)[:2]
    low, high = ERASED_AREA
    area = (low + (high - low) * area) * tf.cast(tf.reduce_prod(sides), tf.float32)
    low, high = (math.log(end) for end in ERASED_ASPECT)
    aspect = tf.exp(low + (high - low) * aspect)
    trials = tf.cast(tf.round(tf.sqrt([area * aspect, area / aspect])), tf.int32)
    fits = tf.reduce_all(trials < sides[:, tf.newaxis], axis=0)
    size = trials[:, tf.argmax(fits)] * tf.cast(tf.reduce_any(fits), tf.int32)
    start = tf.cast(place * tf.cast(sides - size + 1, tf.float32), tf.int32)
    hole = tf.zeros(tf.concat([size, tf.shape(image)[2:]], axis=0), image.dtype)
    return paste(image, hole, start)
