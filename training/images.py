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


def _by_kind(content: tf.Tensor, fused: Callable[[tf.Tensor], tf.Tensor],
             other: Callable[[], tf.Tensor]) -> tf.Tensor:  # fmt: skip
    """`fused` of the shape of a JPEG that TensorFlow decodes as Pillow does: upright, not of four inks; or `other`."""

    def jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(content)
        marked = tf.strings.regex_full_match(tf.strings.substr(content, 0, HEAD), r"(?s)\C*Exif\x00\C*")

        def special() -> tf.Tensor:
            turned = tf.numpy_function(_turned, [content], tf.bool)
            return tf.cond(tf.logical_or(turned, shape[2] == 4), other, lambda: fused(shape))

        return tf.cond(tf.logical_or(marked, shape[2] == 4), special, lambda: fused(shape))

    return tf.cond(tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff", jpeg, other)


def _by_pillow(content: tf.Tensor) -> tf.Tensor:
    image = tf.numpy_function(_pillow, [content], tf.uint8)
    image.set_shape((None, None, 3))
    return image


def decode(content: tf.Tensor) -> tf.Tensor:
    """The whole image in a file's `content`: `(height, width, 3)`, uint8, RGB, upright, the first one of several.

    Raises (when it runs):
        tf.errors.OpError: `content` is no image, or a damaged one.
    """

    def fused(_: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")  # Pillow's, to the bit

    return _by_kind(content, fused, lambda: _by_pillow(content))


def decode_window(content: tf.Tensor, window: Window) -> tf.Tensor:
    """A part of the image in a file's `content`. Of a JPEG nothing else is decoded, with a faster cosine transform.

    Args:
        content: scalar string.
        window: gives, for an image's height and width, top, left, height and width of the part.

    Returns:
        `(height, width, 3)` of the window, uint8.
    """

    def fused(shape: tf.Tensor) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(content, window(shape[0], shape[1]), channels=3)

    return _by_kind(content, fused, lambda: cut(_by_pillow(content), window))


def cut(image: tf.Tensor, window: Window) -> tf.Tensor:
    """The part of `image` that `window` names for its height and width."""
    top, left, height, width = tf.unstack(window(*tf.unstack(tf.shape(image)[:2])))
    return image[top : top + height, left : left + width]
