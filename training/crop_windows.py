"""Which part of an image a training crop shows: top, left, height and width, in pixels of the image as it was stored.

The window is resized to the network's size afterwards, so of a JPEG nothing outside it needs to be decoded. Every function is one
of a seed of two integers; heights and widths may be numbers or tensors.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from keras_resnets.resize import centre_offset, short_side

TRIES = 10


def random_area(height: tf.Tensor, width: tf.Tensor, area: tuple[float, ...], aspect: tuple[float, ...],
                seed: tf.Tensor) -> tf.Tensor:  # fmt: skip
    """A rectangle of random area and aspect ratio at a random place (Szegedy et al., 2014, arXiv 1409.4842, section 6).

    As in torchvision: the share of the area is uniform in `area`, the logarithm of width over height in that of `aspect`,
    both sides are rounded; what does not fit is drawn again. After ten failures it is the centre, as large as the range of
    `aspect` allows.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float32)
    low, high = math.log(aspect[0]) / 2, math.log(aspect[1]) / 2
    start, length = ((area[0], low, 0, 0), (area[1] - area[0], high - low, 1, 1))
    draw = tf.random.stateless_uniform((4, TRIES), seed) * _column(length) + _column(start)
    share, root, places = tf.split(draw, (1, 1, 2))
    sizes = tf.round(tf.sqrt(tf.reduce_prod(sides) * share) * tf.exp(_column((-1, 1)) * root))
    fits = tf.reduce_all((sizes >= 1) & (sizes <= sides[:, tf.newaxis]), axis=0)
    first = tf.argmax(fits, output_type=tf.int32)
    place, size = tf.split(tf.gather(tf.concat([places, sizes], 0), first, axis=1), 2)
    drawn = tf.concat([tf.floor(place * (sides - size + 1)), size], 0)
    most = tf.clip_by_value(tf.round(tf.reverse(sides, [0]) * tf.constant((1 / aspect[0], aspect[1]))), 1, sides)
    window = tf.where(fits[first], drawn, tf.concat([tf.floor((sides - most) / 2), most], 0))
    return tf.cast(window, tf.int32)


def _column(values: Sequence[float]) -> tf.Tensor:
    return tf.constant([[value] for value in values], tf.float32)


def random_scale(height: tf.Tensor, width: tf.Tensor, size: int, short: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """What a random square of `size` shows once the short side has become `short[0]` to `short[1]` pixels.

    The scale augmentation of VGG and ResNet (arXiv 1409.1556, 1512.03385). The square is a whole number of the image's own
    pixels.
    """
    draw = tf.random.stateless_uniform((3,), seed)
    shorter = tf.minimum(height, width)
    scaled = short[0] + tf.floor(draw[0] * (short[1] - short[0] + 1))
    side = _scaled_back(size, shorter, scaled)
    top, left = _place(height - side, draw[1]), _place(width - side, draw[2])
    return tf.stack([top, left, side, side])


def shifted_centre(height: tf.Tensor, width: tf.Tensor, size: int, crop: float, seed: tf.Tensor) -> tf.Tensor:
    """The square of the test crop, at a random place along the longer side (of a square, along the width).

    From the training of FixRes (Touvron et al., 2019, arXiv 1906.06423).
    """
    shorter = tf.minimum(height, width)
    side = _scaled_back(size, shorter, tf.cast(short_side(size, crop), tf.float32))
    draw = tf.random.stateless_uniform((), seed)
    wide = width >= height
    top = tf.where(wide, centre_offset(height - side, 0), _place(height - side, draw))
    left = tf.where(wide, _place(width - side, draw), centre_offset(width - side, 0))
    return tf.stack([top, left, side, side])


def _scaled_back(size: int, shorter: tf.Tensor, scaled: tf.Tensor) -> tf.Tensor:
    """How many pixels become `size` when `shorter` become `scaled`: no more than there are, one at least."""
    pixels = tf.cast(tf.round(size * tf.cast(shorter, tf.float32) / scaled), tf.int32)
    return tf.clip_by_value(pixels, 1, shorter)


def _place(free: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """One of the places from 0 to `free`, all with equal chances."""
    return tf.cast(tf.floor(draw * tf.cast(free + 1, tf.float32)), tf.int32)


def pad_and_crop(image: tf.Tensor, pad: int, fill: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`image` moved by up to `pad` pixels along both axes, with `fill` where it was not.

    As by a margin of `pad` pixels and a random crop of the former size (He et al., 2015, arXiv 1512.03385, section 4.2).

    Args:
        image: `(height, width, channels)`.
        pad: width of the margin in pixels.
        fill: value of the margin: `(channels,)`.
        seed: two integers.

    Returns:
        float32, of the same shape.
    """
    shape = image.shape
    margin = [[pad, pad], [pad, pad], [0, 0]]
    wide = tf.pad(tf.cast(image, tf.float32) - fill, margin) + fill
    top, left = tf.unstack(tf.random.stateless_uniform((2,), seed, 0, 2 * pad + 1, tf.int32))
    cut = wide[top : top + shape[0], left : left + shape[1]]
    return tf.ensure_shape(cut, shape)
