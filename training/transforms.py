"""One image, from what a source holds to what a network is shown, but for the preprocessing."""

from collections.abc import Callable

import tensorflow as tf

from keras_resnets.preprocessing import Preprocess
from training import crop_windows, images
from training.augment import augment_image
from training.crop_windows import random_area, random_scale, shifted_centre
from training.draws import seed_for
from training.policies import apply_policy
from training.recipe import AugmentRecipe, DataRecipe

Preprocessing = Callable[[tf.Tensor], tf.Tensor]


class Normalise:
    """What `preprocess` does, which must be a linear function of each channel, to one image.

    In rows of pixels, which TensorFlow multiplies and adds ten times faster than channels.

    Attributes:
        mean: the pixel `(3,)` that becomes zero.
    """

    def __init__(self, preprocess: Preprocessing) -> None:
        black, white = (tf.reshape(preprocess(tf.fill((1, 1, 3), value)), (3,)) for value in (0.0, 255.0))
        self.scale, self.offset = (white - black) / 255, black
        self.mean = -self.offset / self.scale

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        width = image.shape[1]
        rows = tf.reshape(image, (-1, 3 * width)) * tf.tile(self.scale, [width]) + tf.tile(self.offset, [width])
        return tf.reshape(rows, image.shape)


def test_size(data: DataRecipe) -> int:
    """Side of the square test images in pixels."""
    return data.test_size or data.image_size


def decoded(content: tf.Tensor) -> tf.Tensor:
    """The image that is the content of a file, or uint8 pixels already."""
    return images.decode(content) if content.dtype == tf.string else content


def decoded_part(content: tf.Tensor, data: DataRecipe, augment: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """What of an image has to be decoded for `training_image`: uint8 `(height, width, 3)`.

    Args:
        content: of an image file, or uint8 pixels `(height, width, 3)`.
        data, augment, seed: as for `training_image`.
    """
    window = _window(data, augment, seed)
    if window is None or _policy_first(augment):
        return decoded(content)
    return images.decode_window(content, window) if content.dtype == tf.string else images.cut(content, window)


def training_image(part: tf.Tensor, data: DataRecipe, augment: AugmentRecipe, mean: tf.Tensor,
                   seed: tf.Tensor) -> tf.Tensor:  # fmt: skip
    """An image cropped and augmented.

    Args:
        part: of the image, as `decoded_part` gives it.
        data: says how large it becomes.
        augment: the random changes.
        mean: pixel values `(3,)` that the preprocessing takes to zero.
        seed: two integers, of the example.

    Returns:
        float32 `(image_size, image_size, 3)`, 0..255.
    """
    size, window = data.image_size, _window(data, augment, seed)
    if _policy_first(augment):
        part = apply_policy(part, augment, seed)
        if window is not None:
            part = images.cut(part, window)
    part = _centre(part, size, data) if augment.crop == "centre" else _resized(part, size, data.interpolation)
    if augment.crop == "pad":
        fill = mean if augment.pad_value == "mean" else tf.zeros(3)
        part = crop_windows.pad_and_crop(part, augment.pad, fill, seed_for("crop", seed))
    return augment_image(part, augment, seed)


def testing_image(image: tf.Tensor, data: DataRecipe) -> tf.Tensor:
    """An image resized and its centre cut out, as `Preprocess` does it: float32 `(test_size, test_size, 3)`, 0..255."""
    return _centre(image, test_size(data), data)


def _policy_first(augment: AugmentRecipe) -> bool:
    return augment.policy_first and augment.policy != "none"


def _window(data: DataRecipe, augment: AugmentRecipe, seed: tf.Tensor) -> images.Window | None:
    """The window of crops that are one."""
    seed, size = seed_for("crop", seed), data.image_size
    windows: dict[str, images.Window] = {
        "random_area": lambda height, width: random_area(height, width, augment.area, augment.aspect, seed),
        "random_scale": lambda height, width: random_scale(height, width, size, augment.short_side, seed),
        "shifted_centre": lambda height, width: shifted_centre(height, width, size, data.test_crop, seed),
    }
    return windows.get(augment.crop)


def _resized(image: tf.Tensor, size: int, interpolation: str) -> tf.Tensor:
    if image.shape[:2] == (size, size):
        return image
    resized = tf.image.resize(tf.cast(image, tf.float32), (size, size), interpolation)  # twice as fast as of integers
    return tf.clip_by_value(resized, 0.0, 255.0) if interpolation == "bicubic" else resized


def _centre(image: tf.Tensor, size: int, data: DataRecipe) -> tf.Tensor:
    """As large as the evaluation makes it; the layer's normalisation is set to do nothing."""
    if image.shape[:2] == (size, size) and data.test_crop == 1:
        return tf.cast(image, tf.float32)
    return Preprocess((0.0,) * 3, (1 / 255,) * 3, size, data.test_crop, data.interpolation)(image)
