"""Decoding of image files inside `tf.data`: the usual JPEG by TensorFlow and no more of it than is wanted, others by Pillow.

What cannot be decoded raises an error there, see `training.pipeline` for what becomes of it.
"""

import io
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from keras_resnets.preprocessing import to_rgb

# Where marks of cameras are looked for: cameras write them at the beginning.
HEAD = 4096
ORIENTATION = 0x0112

Image.init()  # Pillow would load its decoders when it first needs them, which fails in several threads

Window = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _file(content: bytes | np.ndarray) -> io.BytesIO:
    """`tf.numpy_function` gives bytes within a graph, and else an array of one."""
    return io.BytesIO(content if isinstance(content, bytes) else content.item())


def _pillow(content: bytes | np.ndarray) -> np.ndarray:
    with Image.open(_file(content)) as image:
        return np.asarray(to_rgb(image))


def reason(content: bytes) -> str | None:
    """Why an image file of this content cannot be decoded, or None if it can."""
    if not content:
        return "the file is empty"
    try:
        _pillow(content)
        decode(tf.constant(content))
    except UnidentifiedImageError:
        return "it is no image"
    except tf.errors.OpError as error:
        return error.message.splitlines()[0]
    except Exception as error:  # Pillow's, of many kinds
        return str(error)
    return None


def _turned(content: bytes | np.ndarray) -> np.bool_:
    with Image.open(_file(content)) as image:
        return np.bool_(image.getexif().get(ORIENTATION, 1) != 1)


def _is_plain_jpeg(content: tf.Tensor) -> tf.Tensor:
    """Whether TensorFlow decodes `content` as Pillow does: a JPEG, upright, not of four inks."""

    def upright() -> tf.Tensor:
        marked = tf.strings.regex_full_match(tf.strings.substr(content, 0, HEAD), r"(?s)\C*Exif\x00\C*")
        return tf.cond(
            marked, lambda: tf.logical_not(tf.numpy_function(_turned, [content], tf.bool)), lambda: tf.constant(True)
        )

    def known() -> tf.Tensor:
        return tf.cond(tf.io.extract_jpeg_shape(content)[2] < 4, upright, lambda: tf.constant(False))

    return tf.cond(tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff", known, lambda: tf.constant(False))


def _by_pillow(content: tf.Tensor) -> tf.Tensor:
    image = tf.numpy_function(_pillow, [content], tf.uint8)
    image.set_shape((None, None, 3))
    return image


def decode(content: tf.Tensor) -> tf.Tensor:
    """The whole image in a file's `content`: `(height, width, 3)`, uint8, RGB, upright, the first one of several.

    Raises (when it runs):
        tf.errors.OpError: `content` is no image, or a damaged one.
    """
    return tf.cond(
        _is_plain_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),  # Pillow's, to the bit
        lambda: _by_pillow(content),
    )


def decode_window(content: tf.Tensor, window: Window) -> tf.Tensor:
    """A part of the image in a file's `content`. Of a JPEG nothing else is decoded, with a faster cosine transform.

    Args:
        content: scalar string.
        window: gives, for an image's height and width, top, left, height and width of the part.

    Returns:
        `(height, width, 3)` of the window, uint8.
    """

    def fused() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(content)
        return tf.image.decode_and_crop_jpeg(content, window(shape[0], shape[1]), channels=3)

    def whole() -> tf.Tensor:
        return cut(_by_pillow(content), window)

    return tf.cond(_is_plain_jpeg(content), fused, whole)


def cut(image: tf.Tensor, window: Window) -> tf.Tensor:
    """The part of `image` that `window` names for its height and width."""
    top, left, height, width = tf.unstack(window(*tf.unstack(tf.shape(image)[:2])))
    return image[top : top + height, left : left + width]
