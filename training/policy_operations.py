"""The operations of AutoAugment and RandAugment, as Pillow carries them out, in plain TensorFlow operations.

All take an image `(height, width, 3)`, uint8, and most a scalar; all return an image of the same shape and type. Every
rounding is Pillow's, so that the results are the same pixels, but for the last float digit of an interpolated position.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

FILL = 128  # grey, of what comes in from outside the image, as in the AutoAugment and RandAugment papers' code
LUMINANCE = (19595.0, 38470.0, 7471.0)  # of red, green and blue; their sum is 2 ** 16


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches every channel to 0..255."""
    low, high = (tf.cast(reduce(image, (0, 1)), tf.float64) for reduce in (tf.reduce_min, tf.reduce_max))
    flat = high <= low
    scale = tf.where(flat, tf.ones_like(low), 255 / tf.where(flat, tf.ones_like(low), high - low))
    offset = tf.where(flat, tf.zeros_like(low), -low * scale)
    table = tf.range(256, dtype=tf.float64) * scale[:, tf.newaxis] + offset[:, tf.newaxis]
    return _look_up(tf.cast(table, tf.int32), _numbered_levels(image))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Makes every channel's histogram as flat as can be."""
    levels = _numbered_levels(image)
    counts = tf.raw_ops.DenseBincount(
        input=tf.reshape(levels, [-1]), size=3 * 256, weights=tf.constant([], tf.int32), binary_output=False
    )
    counts = tf.reshape(counts, (3, 256))
    last = tf.gather(counts, tf.cast(tf.reduce_max(image, (0, 1)), tf.int32), batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1) - last)[:, tf.newaxis] // 255
    table = (step // 2 + tf.cumsum(counts, axis=1, exclusive=True)) // tf.maximum(step, 1)
    return _look_up(tf.where(step == 0, tf.range(256), table), levels)


def _numbered_levels(image: tf.Tensor) -> tf.Tensor:
    """The levels of red, of green from 256 on, and of blue from 512 on: indices into three tables in one."""
    return tf.cast(image, tf.int32) + tf.constant([0, 256, 512])


def _look_up(table: tf.Tensor, numbered_levels: tf.Tensor) -> tf.Tensor:
    table = tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8)
    return tf.gather(tf.reshape(table, [-1]), numbered_levels)


def invert(image: tf.Tensor) -> tf.Tensor:
    """Its negative."""
    return 255 - image


def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps the `bits` highest of the eight bits."""
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts what is not below `threshold`."""
    bright = tf.cast(tf.cast(image, tf.float32) >= threshold, tf.uint8)
    return tf.bitwise.bitwise_xor(image, 255 * bright)


def solarize_add(image: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Adds `amount`, at most 128, to what is below 128."""
    return image + tf.cast(amount, tf.uint8) * tf.cast(image < 128, tf.uint8)


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """From grey (0) over the image (1) to stronger colours."""
    return _blend(_grey(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """From flat grey, the mean (0), over the image (1) to more contrast."""
    luminance = tf.cast(_grey(image), tf.int64)
    mean = tf.reduce_sum(luminance) / tf.size(luminance, tf.int64)
    return _blend(tf.floor(tf.cast(mean, tf.float32) + 0.5), image, factor)


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """From black (0) over the image (1) to brighter ones."""
    return _blend(tf.zeros(()), image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """From a blurred image (0) over the image (1) to sharper ones; the outermost pixels stay."""
    narrow = tf.reduce_min(tf.shape(image)[:2]) < 3  # nothing but outermost pixels
    return tf.cond(narrow, lambda: image, lambda: _sharpness(image, factor))


def _sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    values = tf.cast(image, tf.float32)
    columns = values[:-2] + values[1:-1] + values[2:]
    squares = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    smooth = tf.floor((squares + 4 * values[1:-1, 1:-1]) / 13 + 0.5)
    inner = _blend(smooth, image[1:-1, 1:-1], factor)
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], middle, image[-1:]], axis=0)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Luminance `(height, width, 1)`, whole numbers in float32; no sum is beyond what float32 counts exactly."""
    weighted = tf.tensordot(tf.cast(image, tf.float32), tf.constant(LUMINANCE)[:, tf.newaxis], 1)
    return tf.floor((weighted + 2**15) / 2**16)


def _blend(degenerate: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    blended = degenerate + factor * (tf.cast(image, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns it anticlockwise around its centre."""
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = (tf.cast(side, tf.float32) / 2 for side in tf.unstack(tf.shape(image)[:2]))
    # The angle is that of the picture; the map from the result to the image turns the other way, and y points down.
    return warp(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def shear_x(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Shifts every row to the left by `factor` of its distance from the top."""
    return warp(image, (1.0, factor, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Shifts every column upwards by `factor` of its distance from the left."""
    return warp(image, (1.0, 0.0, 0.0, factor, 1.0, 0.0))


def translate_x(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Shifts it to the left by a share of its width."""
    return warp(image, (1.0, 0.0, share * tf.cast(tf.shape(image)[1], tf.float32), 0.0, 1.0, 0.0))


def translate_y(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Shifts it upwards by a share of its height."""
    return warp(image, (1.0, 0.0, 0.0, 0.0, 1.0, share * tf.cast(tf.shape(image)[0], tf.float32)))


def warp(image: tf.Tensor, matrix: Sequence[tf.Tensor | float]) -> tf.Tensor:
    """Bilinear interpolation at the places that an affine map takes the result's pixels to; `FILL` outside the image.

    Args:
        image: `(height, width, 3)`, uint8.
        matrix: (a, b, c, d, e, f): the point (x, y) shows what is at (ax + by + c, dx + ey + f); (0, 0) is the upper left corner
            of the first pixel, (0.5, 0.5) its centre.
    """
    a, b, c, d, e, f = (tf.cast(value, tf.float32) for value in matrix)
    shape = tf.shape(image)[:2]
    zero = tf.zeros(())
    right, down = c + (a + b - 1) / 2, f + (d + e - 1) / 2  # the same map between numbers of pixels
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        transforms=tf.stack([a, b, right, d, e, down, zero, zero])[tf.newaxis],
        output_shape=shape,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
    x, y = (tf.range(tf.cast(shape[axis], tf.float32)) for axis in (1, 0))
    inside = _between(a * x + b * y[:, tf.newaxis] + right, shape[1]) & _between(
        d * x + e * y[:, tf.newaxis] + down, shape[0]
    )
    # Pillow cuts fractions off; what is a whole number there may be a little less here.
    return tf.where(inside[..., tf.newaxis], tf.cast(warped + 0.001, tf.uint8), tf.constant(FILL, tf.uint8))


def _between(places: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Whether the places are on the area of `count` pixels, each half a pixel to both sides of its number."""
    return (places >= -0.5) & (places < tf.cast(count, tf.float32) - 0.5)
