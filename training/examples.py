"""One image, from what a source holds to what a network is shown, but for the preprocessing."""

import tensorflow as tf

from keras_resnets.preprocessing import Preprocess
from training import crop_windows, images
from training.augment import augment_image
from training.draws import seed_for
from training.policies import apply_policy
from training.recipe import AugmentRecipe, DataRecipe


def test_size(data: DataRecipe) -> int:
    """Side of the square test images in pixels."""
    return data.test_size or data.image_size


def training_image(content: tf.Tensor, data: DataRecipe, augment: AugmentRecipe, mean: tf.Tensor,
                   seed: tf.Tensor) -> tf.Tensor:  # fmt: skip
    """An image cropped and augmented.

    Args:
        content: of an image file, or uint8 pixels `(height, width, 3)`.
        data: says how large it becomes.
        augment: the random changes.
        mean: pixel values `(3,)` that the preprocessing takes to zero.
        seed: two integers, of the example.

    Returns:
        float32 `(image_size, image_size, 3)`, 0..255.
    """
    if augment.policy_first and augment.policy != "none":
        content = apply_policy(_whole(content), augment, seed)
    cropped = _crop(content, data, augment, mean, seed_for("crop", seed))
    return augment_image(cropped, augment, seed)


def testing_image(content: tf.Tensor, data: DataRecipe) -> tf.Tensor:
    """An image resized and its centre cut out, as `Preprocess` does it: float32 `(test_size, test_size, 3)`, 0..255."""
    return _centre(content, test_size(data), data)


def _whole(content: tf.Tensor) -> tf.Tensor:
    return images.decode(content) if content.dtype == tf.string else content


def _crop(content: tf.Tensor, data: DataRecipe, augment: AugmentRecipe, mean: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    size = data.image_size
    if augment.crop == "centre":
        return _centre(content, size, data)
    if augment.crop == "resize":
        return _resized(_whole(content), size, data.interpolation)
    if augment.crop == "pad":
        fill = mean if augment.pad_value == "mean" else tf.zeros(3)
        return crop_windows.pad_and_crop(_resized(_whole(content), size, data.interpolation), augment.pad, fill, seed)

    def window(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        if augment.crop == "random_area":
            return crop_windows.random_area(height, width, augment.area, augment.aspect, seed)
        if augment.crop == "random_scale":
            return crop_windows.random_scale(height, width, size, augment.short_side, seed)
        return crop_windows.shifted_centre(height, width, size, data.test_crop, seed)

    return _resized(_window(content, window), size, data.interpolation)


def _window(content: tf.Tensor, window: images.Window) -> tf.Tensor:
    if content.dtype == tf.string:
        return images.decode_window(content, window)
    return images.cut(content, window)


def _resized(image: tf.Tensor, size: int, interpolation: str) -> tf.Tensor:
    if image.shape[:2] == (size, size):
        return image
    resized = tf.image.resize(image, (size, size), interpolation)
    return tf.clip_by_value(resized, 0.0, 255.0) if interpolation == "bicubic" else resized


def _centre(content: tf.Tensor, size: int, data: DataRecipe) -> tf.Tensor:
    """As large as the evaluation makes it; the layer's normalisation is set to do nothing."""
    image = _whole(content)
    if image.shape[:2] == (size, size) and data.test_crop == 1:
        return tf.cast(image, tf.float32)
    return Preprocess((0.0,) * 3, (1 / 255,) * 3, size, data.test_crop, data.interpolation)(image)
