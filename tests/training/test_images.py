"""Decoding in `tf.data`'s graphs against Pillow."""

import numpy as np
import photos
import pytest
import tensorflow as tf
from PIL import Image

from training import images

decode = tf.function(images.decode, input_signature=[tf.TensorSpec((), tf.string)])


@pytest.mark.parametrize("name", photos.DECODABLE)
def test_decoded_as_by_pillow(name: str) -> None:
    content = photos.DECODABLE[name]
    np.testing.assert_array_equal(decode(tf.constant(content)), photos.by_pillow(content))


def test_four_inks_look_like_the_photo() -> None:
    """Whatever Pillow does: colours near those that went in, not their negative."""
    shown = decode(tf.constant(photos.DECODABLE["inks.jpg"])).numpy().astype(int)
    assert np.abs(shown - np.asarray(photos.PHOTO)).mean() < 5


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_camera_marks_are_heeded(orientation: int) -> None:
    content = photos.encoded(photos.PHOTO, "jpeg", exif=photos.turned_mark(orientation))
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    expected = Image.fromarray(photos.by_pillow(content)).transpose(turned[orientation])
    np.testing.assert_array_equal(decode(tf.constant(content)), expected)


def test_of_16_bits_the_upper_8() -> None:
    values = np.arange(0, 2**16, 257, dtype=np.uint16).reshape(16, 16)
    shown = decode(tf.constant(photos.encoded(Image.fromarray(values), "png"))).numpy()
    np.testing.assert_array_equal(shown, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=-1))


@pytest.mark.parametrize("name", photos.DAMAGED)
def test_damage_is_an_error_with_a_reason(name: str) -> None:
    content, expected = photos.DAMAGED[name]
    with pytest.raises(tf.errors.OpError):
        decode(tf.constant(content))
    assert expected in str(images.reason(content))


@pytest.mark.parametrize("name", photos.DECODABLE)
def test_nothing_wrong_with_the_others(name: str) -> None:
    assert images.reason(photos.DECODABLE[name]) is None


@pytest.mark.parametrize("name", ["plain.jpg", "grey.jpg", "inks.jpg", "progressive.jpg", "plain.png", "animated.gif"])
def test_windows_are_parts_of_the_image(name: str) -> None:
    """Of a JPEG up to the rounding of the faster transform; at borders of blocks, chroma may be interpolated differently."""
    content, seen = photos.DECODABLE[name], []

    def window(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        seen.append((height, width))
        return tf.stack([height // 6, 17, 35, width // 2])

    part = tf.function(lambda content: images.decode_window(content, window))(tf.constant(content)).numpy().astype(int)
    assert part.shape == (35, 40, 3) and seen
    difference = np.abs(part - photos.by_pillow(content)[10:45, 17:57])
    assert difference.mean() < (1.5 if name.endswith("jpg") else 1e-9)


def test_marks_of_cameras_count_for_windows() -> None:
    content = photos.encoded(photos.PHOTO, "jpeg", exif=photos.turned_mark(6))
    part = images.decode_window(tf.constant(content), lambda height, width: tf.stack([0, 0, height, width]))
    assert part.shape == (80, 60, 3)
