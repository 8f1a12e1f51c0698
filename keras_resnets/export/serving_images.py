"""From encoded images of any size to a network's input, in TensorFlow operators alone, each image for itself.

TensorFlow has no operator that survives a failing one, but its data sets have: `ignore_errors` drops what could not be
computed. So every batch is a little data set, and what is missing from it afterwards was damaged.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnets.export import serving_headers as headers

OK = "ok"
NO_IMAGE = "not an image: neither JPEG, PNG, WebP, BMP nor GIF"
DAMAGED = "cannot be decoded: damaged, or an unusual kind of its format"
MAX_SIDE = 65_535  # pixels, JPEG's own limit

Transform = Callable[[Any], Any]


def too_large(max_pixels: int) -> str:
    """The status of an image that is not decoded because of its size."""
    return f"too large: more than {max_pixels} pixels, or {MAX_SIDE} in a row"


def images_of(contents: Any, transform: Transform, shape: tuple[int, ...], max_pixels: int) -> tuple[Any, Any]:
    """A batch of encoded images as a network's input.

    Args:
        contents: `(batch,)`, string: JPEG, PNG, WebP, BMP or GIF.
        transform: from `(height, width, 3)`, uint8, to the input, float32.
        shape: of the input of one image.
        max_pixels: no larger image is decoded.

    Returns:
        The inputs `(batch, *shape)`, zero where an image is unusable; and for each "ok" or the reason why it is.
    """

    @tf.autograph.experimental.do_not_convert
    def one(index: Any, content: Any) -> tuple[Any, Any, Any]:
        kind = headers.format_of(content)
        image, status = tf.cond(kind > 0, lambda: _sized(kind, content), lambda: (tf.zeros(shape), NO_IMAGE))
        return index, tf.ensure_shape(image, shape), status

    def _sized(kind: Any, content: Any) -> tuple[Any, Any]:
        data = tf.io.decode_raw(content, tf.uint8)
        height, width = headers.size_of(kind, content, data)
        fits = (height <= MAX_SIDE) & (width <= MAX_SIDE) & (height * width <= max_pixels)
        return tf.cond(fits, lambda: (transform(decode(kind, content, data)), tf.constant(OK)),
                       lambda: (tf.zeros(shape), tf.constant(too_large(max_pixels))))  # fmt: skip

    count = tf.size(contents)
    nothing = (tf.zeros((0,), tf.int32), tf.zeros((0, *shape)), tf.zeros((0,), tf.string))
    found = tf.data.Dataset.from_tensor_slices((tf.range(count), contents))
    found = found.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).ignore_errors()
    found = found.batch(tf.cast(tf.maximum(count, 1), tf.int64)).concatenate(tf.data.Dataset.from_tensors(nothing))
    index, images, status = found.take(1).get_single_element()
    rows = index[:, tf.newaxis]
    inputs = tf.scatter_nd(rows, images, tf.stack([count, *shape]))
    return inputs, tf.tensor_scatter_nd_update(tf.fill([count], DAMAGED), rows, status)


def decode(kind: Any, content: Any, data: Any) -> Any:
    """The first picture in a file: `(height, width, 3)`, uint8, RGB, upright, transparency dropped.

    Args:
        kind: index in `serving_headers.FORMATS`, from 1.
        content, data: the file as a string and as bytes.

    Raises (when it runs):
        tf.errors.OpError: it is damaged, or of a kind that TensorFlow does not decode.
    """

    def jpeg() -> Any:
        return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")  # Pillow's, to the bit

    def webp() -> Any:
        # An animation is always decoded to four channels: into a buffer of three, if it is not marked as transparent.
        return tf.cond(
            headers.is_animated_webp(data),
            lambda: _colours(tf.io.decode_image(headers.with_alpha(content, data), 4, expand_animations=False)),
            lambda: _colours(tf.io.decode_image(content, 0, expand_animations=False)),
        )

    branches = [
        jpeg,
        lambda: tf.io.decode_png(content, 3),
        lambda: _gif(content, data),
        lambda: _bmp(content, data),
        webp,
    ]
    image = tf.switch_case(kind - 1, [_with_shape(branch) for branch in branches])
    turn = headers.orientation(kind, data)
    return tf.cond(turn > 1, lambda: _upright(image, turn), lambda: image)


def _with_shape(branch: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: tf.ensure_shape(branch(), (None, None, 3))


def _colours(image: Any) -> Any:
    image.set_shape((None, None, None))
    return image[..., :3]


def _gif(content: Any, data: Any) -> Any:
    return tf.io.decode_image(headers.first_frame(content, data), 3, expand_animations=False)


def _bmp(content: Any, data: Any) -> Any:
    """Of 8 (with its colours), 24 or 32 bits per pixel, not compressed; bytes behind the pixels do not matter."""
    pixels_at, header, width, bits = (headers.number(data, *place) for place in ((10, 4), (14, 4), (18, 4), (28, 2)))
    height, _ = headers.size_of(tf.constant(headers.FORMATS.index("BMP")), content, data)
    row = (bits // 8 * width + 3) // 4 * 4
    packing = headers.number(data, 30, 4)
    plain = (header >= 40) & ((packing == 0) | ((packing == 3) & (bits == 32)))
    with tf.control_dependencies([tf.debugging.Assert(plain, ["a BMP of an unusual kind"])]):
        exact = headers.part(content, 0, pixels_at + row * height)

    def looked_up() -> Any:
        table = 14 + header + 4 * tf.range(256, dtype=tf.int64)[:, tf.newaxis] + tf.constant([2, 1, 0], tf.int64)
        colours = tf.gather(data, tf.minimum(table, tf.size(data, tf.int64) - 1))
        return tf.gather(colours, tf.cast(tf.io.decode_bmp(exact, 0)[..., 0], tf.int32))

    return tf.cond(bits == 8, _with_shape(looked_up), _with_shape(lambda: tf.io.decode_bmp(exact, 3)))


def _upright(image: Any, turn: Any) -> Any:
    """`image` as it was seen, by Exif's mark: 5 to 8 lie on their side, and then some are mirrored."""
    image = tf.cond(turn >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    flips = tf.constant([[0, 0], [0, 0], [0, 1], [1, 1], [1, 0], [0, 0], [0, 1], [1, 1], [1, 0]])  # rows, columns
    rows, columns = tf.unstack(tf.gather(flips, tf.cast(turn, tf.int32)))
    image = tf.cond(rows > 0, lambda: tf.reverse(image, (0,)), lambda: image)
    return tf.cond(columns > 0, lambda: tf.reverse(image, (1,)), lambda: image)
