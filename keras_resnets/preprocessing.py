"""Images in, class names out: what stands before and after a network, as its weights want it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.layers.base import register_layer
from keras_resnets.registry import NORMALISATION, WeightsEntry, find
from keras_resnets.resize import KERNELS, centre_offset, resize_and_crop, resize_pillow, short_side
from keras_resnets.weights import published
from keras_resnets.weights.labels import class_names

if TYPE_CHECKING:
    from PIL import Image


def expected_input(model_or_name: Network | str, weights: str | None = None, test_size: bool = False) -> WeightsEntry:
    """What a network wants its images to be: the entry of its weights.

    Args:
        model_or_name: a network of this package or a name as in `list_models`.
        weights: tag of the weights; by default those that the model was made with, else the network's first. A network
            without published weights gets an entry of tag "none": ImageNet's mean and standard deviation, the network's
            own input size, the usual crop of 0.875.
        test_size: the larger setting in which the weights were evaluated as well, see `at_test_size`.

    Returns:
        The entry. For a network that was built for square images of one other size it has that size: with the crop of the
        test setting if that is its size, else with the crop as it is and without published accuracy.

    Raises:
        ValueError: there is no such network, it has no such weights, or these have no test setting or not for the size
            that the network was built for.
    """
    name = model_or_name if isinstance(model_or_name, str) else getattr(model_or_name, "variant", None)
    if name is None:
        raise ValueError(f"model_or_name must be a network made by keras_resnets or a name, not {model_or_name!r}")
    variant = find(name)
    tag = weights or getattr(model_or_name, "weights_tag", None) or next(iter(variant.weights), None)
    if tag is not None:
        entry = published(variant, tag)
    else:
        mean, std = NORMALISATION["imagenet"]
        entry = WeightsEntry(
            "none", "", variant.classes, variant.input_size, 0.875, "bicubic", mean, std, None, None, ""
        )
    height, width = (None, None) if isinstance(model_or_name, str) else model_or_name.input_shape[1:3]
    if test_size or (height == width == entry.test_input_size is not None):
        entry = at_test_size(entry)
    if height is None or height != width or height == entry.input_size:
        return entry
    if test_size:
        raise ValueError(f"test_size: the network was built for images of {height} x {width} pixels, the test setting of "
                         f"weights {tag!r} is {entry.input_size}: build it with input_shape=({entry.input_size}, "
                         f"{entry.input_size}, 3)")  # fmt: skip
    return dataclasses.replace(entry, input_size=height, top1=None, top5=None)


def at_test_size(entry: WeightsEntry) -> WeightsEntry:
    """The entry with the size and crop of its larger test setting, and the accuracy published for that.

    Raises:
        ValueError: it has none.
    """
    if entry.test_input_size is None or entry.test_crop is None:
        raise ValueError(f"test_size: weights {entry.tag!r} have no second setting for evaluation")
    return dataclasses.replace(
        entry, input_size=entry.test_input_size, crop=entry.test_crop, top1=entry.test_top1, top5=entry.test_top5
    )


@register_layer
class Preprocess(keras.layers.Rescaling):
    """`(image / 255 - mean) / std` per channel: from pixels to what a network expects. Works inside `tf.data` as well.

    With `input_size` it does the whole transform with which published weights are evaluated: the short side becomes
    `input_size / crop` pixels (rounded down) with anti-aliasing, the central square is cut out, then normalised. Like
    Pillow it rounds pixels to whole values after each of the two passes; a gradient does not pass through that.

    Input `(…, height, width, channels)`, integers or floats from 0 to 255; output of the same shape, or with `input_size`
    `(…, input_size, input_size, channels)`; float32 unless another `dtype` is given, whatever the global policy. With the
    TensorFlow backend or inside `tf.data` height and width may be unknown until the layer runs.

    Args:
        mean, std: per channel, of pixels scaled to 0..1.
        input_size: side of the square output in pixels; None leaves the size as it is.
        crop: fraction of the resized image's short side that is kept.
        interpolation: "bilinear" or "bicubic".

    Raises:
        ValueError: an argument is not allowed; or, when called, the input has other channels or no pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], input_size: int | None = None, crop: float = 0.875,
                 interpolation: str = "bicubic", dtype: Any = "float32", **kwargs: Any) -> None:  # fmt: skip
        self.mean, self.std = tuple(mean), tuple(std)
        if interpolation not in KERNELS:
            raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', not {interpolation!r}")
        if input_size is not None:
            short_side(input_size, crop)  # raises if they are not allowed
        self.input_size, self.crop, self.interpolation = input_size, crop, interpolation
        scale = [1 / (255 * s) for s in self.std]
        offset = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        super().__init__(scale, offset, dtype=dtype, **kwargs)

    @classmethod
    def of(cls, model_or_name: Network | str, weights: str | None = None, resize: bool = False, test_size: bool = False,
           **kwargs: Any) -> "Preprocess":  # fmt: skip
        """The layer for a network and its weights; arguments as in `preprocess_input`."""
        entry = _transform(model_or_name, weights, resize, test_size)
        if not resize:
            return cls(entry.mean, entry.std, **kwargs)
        return cls(entry.mean, entry.std, entry.input_size, entry.crop, entry.interpolation, **kwargs)

    def call(self, inputs: Any) -> Any:
        _require_channels(inputs.shape, len(self.mean))
        return super().call(inputs if self.input_size is None else self._resized(inputs))

    def _resized(self, images: Any) -> Any:
        if getattr(images.shape, "rank", 3) is None:  # TensorFlow's, as `tf.io.decode_image` gives them
            raise ValueError(
                "images must have known axes: decode with expand_animations=False, or set_shape((None, None, 3))"
            )
        if len(images.shape) not in (3, 4) or 0 in images.shape[-3:-1]:
            raise ValueError("images must be (batch, height, width, channels) or (height, width, channels), of one pixel at "
                             f"least, not {tuple(images.shape)}")  # fmt: skip
        assert self.input_size is not None
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        return resize_and_crop(images, self.input_size, self.crop, self.interpolation, dtype, self.backend)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        size = input_shape[-3:-1] if self.input_size is None else (self.input_size, self.input_size)
        return (*input_shape[:-3], *size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["scale"], config["offset"]
        names = ("mean", "std", "input_size", "crop", "interpolation")
        return {**config, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Preprocess":
        return cls(**config)


def preprocess_input(images: Any, model_or_name: Network | str, weights: str | None = None, resize: bool = False,
                     test_size: bool = False) -> Any:  # fmt: skip
    """`images` as a network expects them: scaled to 0..1, less the mean, by the standard deviation, in float32.

    Args:
        images: `(batch, height, width, 3)` or `(height, width, 3)`, RGB, integers or floats from 0 to 255: a NumPy array or
            a tensor.
        model_or_name, weights: whose input; as in `expected_input`. For networks without published weights mean and
            standard deviation are ImageNet's.
        resize: first bring the images to the network's size as in the evaluation of its weights, see `Preprocess`. For files
            see `load_image`.
        test_size: resize to the larger setting in which the weights were evaluated as well, see `at_test_size`.

    Returns:
        An array for an array, a tensor for a tensor: of the same shape, or resized `(…, input_size, input_size, 3)`.

    Raises:
        ValueError: `images` has another shape or is not numeric; there is no such network or it has no such weights or no
            such setting; the network is to be given resized images and was built for some that are not square.
    """
    entry = _transform(model_or_name, weights, resize, test_size)
    if not hasattr(images, "shape"):  # nested lists, Pillow's images
        images = np.asarray(images)
    if len(images.shape) not in (3, 4):
        raise ValueError(f"images must be (batch, height, width, 3) or (height, width, 3), not {tuple(images.shape)}")
    _require_channels(images.shape, len(entry.mean))
    if isinstance(images, np.ndarray) and images.dtype.kind not in "uif":
        raise ValueError(f"images must hold integers or floats, not {images.dtype}")
    if resize:
        outputs = Preprocess(entry.mean, entry.std, entry.input_size, entry.crop, entry.interpolation)(images)
        return keras.ops.convert_to_numpy(outputs) if isinstance(images, np.ndarray) else outputs
    if not isinstance(images, np.ndarray):
        return Preprocess(entry.mean, entry.std)(images)
    mean, std = (np.array(values, "float32") * np.float32(255) for values in (entry.mean, entry.std))
    return (images.astype("float32") - mean) / std


def _transform(model_or_name: Network | str, weights: str | None, resize: bool, test_size: bool) -> WeightsEntry:
    """The entry to preprocess by; ValueError if it cannot be resized as asked for."""
    if test_size and not resize:
        raise ValueError("test_size=True is a size to resize to: pass resize=True with it")
    entry = expected_input(model_or_name, weights, test_size)
    if resize and not isinstance(model_or_name, str):
        height, width = model_or_name.input_shape[1:3]
        if height != width:
            raise ValueError(
                f"resize=True gives squares, and the network was built for images of {height} x {width} pixels"
            )
    return entry


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
    size = entry.input_size
    image = resize_pillow(read_image(path), short_side(size, entry.crop), entry.interpolation)
    left, top = (centre_offset(side, size) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def read_image(path: str | os.PathLike) -> "Image.Image":
    """A file as Pillow's RGB image, upright; raises as `load_image` does."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("decoding image files needs Pillow: pip install 'keras-resnets[images]'") from error
    if not os.path.isfile(path):
        raise ValueError(f"image {os.fspath(path)!r} is not a file")
    try:
        with Image.open(path) as file:
            return to_rgb(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, by kind of damage
        raise ValueError(f"image {os.fspath(path)!r} cannot be decoded: {error}") from error


def to_rgb(image: "Image.Image") -> "Image.Image":
    """Pillow's `image` upright, in RGB, without transparency; of 16 bits per pixel the upper 8."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # Pillow's own conversion makes everything above 255 white
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
    return upright.convert("RGB")


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
