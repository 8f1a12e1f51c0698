"""Photographs that every export is compared on: what a network computes from noise says little about real images."""

import importlib.resources

import keras
import numpy as np

from keras_resnets.preprocessing import expected_input
from keras_resnets.registry import find

# Scaled down from: "palace" by danielbuechele and "flower" by vultilion, both on Flickr, both under CC BY 2.0
# (https://creativecommons.org/licenses/by/2.0/); "portrait" of Grace Hopper, U.S. Navy, in the public domain.
FILES = ("photo_palace.jpg", "photo_flower.jpg", "photo_portrait.jpg")


def encoded() -> list[bytes]:
    """The photographs as JPEG files."""
    return [(importlib.resources.files("keras_resnets") / "data" / name).read_bytes() for name in FILES]


def real_images(model: keras.Model, count: int = 2 * len(FILES)) -> np.ndarray:
    """The photographs, their mirror images, and then random parts of them, as `model` takes its inputs.

    Networks of this package get them normalised as their weights want it, others from -1 to 1; integer inputs are pixels.

    Returns:
        `(count, height, width, channels)`; none, `(0, …)`, if the model does not take `(batch, height, width, channels)`.

    Raises:
        ValueError: the model leaves height or width open, and is not a network of this package.
    """
    shape, dtype = tuple(model.inputs[0].shape[1:]), np.dtype(model.inputs[0].dtype)
    if len(shape) != 3 or shape[-1] is None:
        return np.empty((0, *(size or 1 for size in shape)), dtype)
    pixels = _pixels(input_size(model), count)
    if dtype.kind in "iu":
        return _with_channels(np.rint(pixels), shape[-1]).clip(0, 255).astype(dtype)
    entry = expected_input(model) if getattr(model, "variant", None) else None
    mean, std = (entry.mean, entry.std) if entry else (0.5, 0.5)
    return _with_channels((pixels / 255 - mean) / std, shape[-1]).astype(dtype)


def _pixels(size: tuple[int, int], count: int) -> np.ndarray:
    import tensorflow as tf

    photographs = [tf.cast(tf.io.decode_jpeg(file, channels=3), "float32") for file in encoded()]
    generator = np.random.default_rng(0)
    images = []
    for i in range(count):
        part = photographs[i % len(FILES)]
        if i >= 2 * len(FILES):
            height, width = (round(generator.uniform(0.3, 1) * side) for side in part.shape[:2])
            part = tf.image.stateless_random_crop(part, (height, width, 3), (0, i))
        scaled = keras.ops.image.resize(part, size, "bilinear", antialias=True, crop_to_aspect_ratio=True)
        images.append(keras.ops.convert_to_numpy(scaled)[:, :: -1 if i // len(FILES) % 2 else 1])
    return np.stack(images)


def input_size(model: keras.Model) -> tuple[int, int]:
    """Height and width of the model's input, where it leaves them open those that its network is made for.

    Raises:
        ValueError: it leaves them open and is not a network of this package.
    """
    shape = tuple(model.inputs[0].shape[1:])
    if None in shape[:2] and getattr(model, "variant", None) is None:
        raise ValueError(f"images must be given for a model of unknown height and width, {shape}")
    height, width = (size or find(model.variant).input_size for size in shape[:2])
    return height, width


def _with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    return images if channels == 3 else np.repeat(images.mean(axis=-1, keepdims=True), channels, axis=-1)
