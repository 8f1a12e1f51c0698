"""Random changes of training images, on batches, in plain TensorFlow operations."""

import math

import tensorflow as tf

from training.recipe import AugmentRecipe


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
