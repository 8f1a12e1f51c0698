"""Images in, class names out: what stands before and after a network, as its weights want it."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.layers.base import register_layer
from keras_resnets.registry import NORMALISATION, WeightsEntry, find
from keras_resnets.weights import published
from keras_resnets.weights.labels import class_names


def expected_input(model_or_name: Network | str, weights: str | None = None) -> WeightsEntry:
    """What a network wants its images to be: the entry of its weights.

    Args:
        model_or_name: a network of this package or a name as in `list_models`.
        weights: tag of the weights; by default those that the model was made with, else the network's first. A network
            without published weights gets an entry of tag "none": ImageNet's mean and standard deviation, the network's
            own input size, the usual crop of 0.875.

    Raises:
        ValueError: there is no such network, or it has no such weights.
    """
    name = model_or_name if isinstance(model_or_name, str) else getattr(model_or_name, "variant", None)
    if name is None:
        raise ValueError(f"model_or_name must be a network made by keras_resnets or a name, not {model_or_name!r}")
    variant = find(name)
    tag = weights or getattr(model_or_name, "weights_tag", None) or next(iter(variant.weights), None)
    if tag is not None:
        return published(variant, tag)
    mean, std = NORMALISATION["imagenet"]
    return WeightsEntry("none", "", variant.classes, variant.input_size, 0.875, "bicubic", mean, std, None, None, "")


@register_layer
class Preprocess(keras.layers.Rescaling):
    """`(image / 255 - mean) / std` per channel: from pixels to what a network expects. Works inside `tf.data` as well.

    Input `(…, height, width, channels)`, integers or floats from 0 to 255; output of the same shape, float32 unless another
    `dtype` is given, whatever the global policy.

    Args:
        mean, std: per channel, of pixels scaled to 0..1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: Any = "float32", **kwargs: Any) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        scale = [1 / (255 * s) for s in self.std]
        offset = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        super().__init__(scale, offset, dtype=dtype, **kwargs)

    @classmethod
    def of(cls, model_or_name: Network | str, weights: str | None = None, **kwargs: Any) -> "Preprocess":
        """The layer for a network and its weights; arguments as in `expected_input`."""
        entry = expected_input(model_or_name, weights)
        return cls(entry.mean, entry.std, **kwargs)

    def call(self, inputs: Any) -> Any:
        _require_channels(inputs.shape, len(self.mean))
        return super().call(inputs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["scale"], config["offset"]
        return {**config, "mean": self.mean, "std": self.std}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Preprocess":
        return cls(**config)


def preprocess_input(images: Any, model_or_name: Network | str, weights: str | None = None) -> Any:
    """`images` as a network expects them: scaled to 0..1, less the mean, by the standard deviation, in float32.

    Args:
        images: `(batch, height, width, 3)` or `(height, width, 3)`, RGB, integers or floats from 0 to 255: a NumPy array or
            a tensor. They are not resized: see `load_image`.
        model_or_name, weights: whose input; as in `expected_input`. For networks without published weights mean and
            standard deviation are ImageNet's.

    Returns:
        An array for an array, a tensor for a tensor, of the same shape.

    Raises:
        ValueError: `images` has another shape or is not numeric; there is no such network or it has no such weights.
    """
    entry = expected_input(model_or_name, weights)
    if not hasattr(images, "shape"):  # nested lists, Pillow's images
        images = np.asarray(images)
    if len(images.shape) not in (3, 4):
        raise ValueError(f"images must be (batch, height, width, 3) or (height, width, 3), not {tuple(images.shape)}")
    _require_channels(images.shape, len(entry.mean))
    if not isinstance(images, np.ndarray):
        return Preprocess(entry.mean, entry.std)(images)
    if images.dtype.kind not in "uif":
        raise ValueError(f"images must hold integers or floats, not {images.dtype}")
    mean, std = (np.array(values, "float32") * np.float32(255) for values in (entry.mean, entry.std))
    return (images.astype("float32") - mean) / std


def _require_channels(shape: Sequence[int | None], channels: int) -> None:
    if shape[-1] not in (None, channels):
        raise ValueError(f"images must have {channels} channels (RGB) on the last axis, not shape {tuple(shape)}")


def load_image(path: str | os.PathLike, entry: WeightsEntry) -> np.ndarray:
    """An image file as the evaluation of published weights shows it to a network: resized, its centre cut out.

    The short side becomes `input_size / crop` pixels (rounded down) with the entry's interpolation, anti-aliased; of that
    the central `input_size` x `input_size` are kept. A camera's rotation mark is heeded, transparency is dropped.

    Args:
        path: of any file that Pillow decodes.
        entry: of the weights, see `expected_input`.

    Returns:
        `(input_size, input_size, 3)`, uint8, RGB: input of `preprocess_input`.

    Raises:
        ValueError: `path` is not a file, or not a whole image.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("decoding image files needs Pillow: pip install 'keras-resnets[images]'") from error
    if not os.path.isfile(path):
        raise ValueError(f"image {os.fspath(path)!r} is not a file")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, by kind of damage
        raise ValueError(f"image {os.fspath(path)!r} cannot be decoded: {error}") from error
    size = entry.input_size
    shortest = int(size / entry.crop)
    width, height = (max(shortest, int(shortest * side / min(image.size))) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling[entry.interpolation.upper()])
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def decode_predictions(
    probabilities: Any, top: int = 5, labels: str | Sequence[str] | None = None
) -> list[list[tuple[str, str, float]]]:
    """The most probable classes of each image by name.

    Args:
        probabilities: `(batch, classes)`, a network's output.
        top: how many classes.
        labels: "imagenet", "digits", or a name for each class. ImageNet's by default if there are 1000 classes.

    Returns:
        For each image `[(synset, label, score), …]`, the highest score first. The synset, WordNet's number of the class,
        is empty for classes that are not ImageNet's.

    Raises:
        ValueError: `probabilities` is not `(batch, classes)` or holds NaN, `top` is not from 1 to the number of classes, or
            `labels` is missing, unknown or of another length.
    """
    scores = keras.ops.convert_to_numpy(probabilities)
    if scores.ndim != 2:
        raise ValueError(f"probabilities must be (batch, classes), not of shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("probabilities must be numbers, not NaN")
    classes = scores.shape[1]
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= classes:
        raise ValueError(f"top must be from 1 to the {classes} classes, not {top!r}")
    names = _names(labels, classes)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(*names[i], float(row[i])) for i in best] for row, best in zip(scores, ranked, strict=True)]


def _names(labels: str | Sequence[str] | None, classes: int) -> Sequence[tuple[str, str]]:
    if labels is None and classes == 1000:
        labels = "imagenet"
    names = class_names(labels) if isinstance(labels, str) else [("", str(name)) for name in labels or ()]
    if names is None:
        raise ValueError(f"labels must be 'imagenet', 'digits' or a sequence of names, not {labels!r}")
    if len(names) != classes:
        given = "no labels" if labels is None else f"{len(names)} labels"
        raise ValueError(f"labels must name each of the {classes} classes, {given} were given")
    return names
