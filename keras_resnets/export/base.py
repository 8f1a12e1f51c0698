"""What every export format shares: its options, its conversion, and the one way to call the model in it."""

import abc
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_resnets import ops


class ExportError(ValueError):
    """An export that was refused: nothing of it is left on disk."""


@dataclasses.dataclass(kw_only=True)
class Exporter(abc.ABC):
    """The options of an export, and how it is carried out.

    Attributes:
        images: real inputs as the model takes them, `(images, height, width, channels)`; compared beside random ones.
        tolerance: largest accepted difference from the Keras model, relative to its largest output.
        min_agreement: smallest accepted fraction of images with the Keras model's top-1 class; 0 asks for none.
        overwrite: replace an existing artifact.
        random_images: how many random inputs are compared as well.
        floating: the artifact computes in floating point, so that its small outputs mean something.
    """

    suffix: ClassVar[str]  # of the artifact's path; "" for a directory
    packages: ClassVar[tuple[str, ...]]  # what conversion and proof import

    images: np.ndarray | None = None
    tolerance: float | None = 1e-4
    min_agreement: float = 0.0
    overwrite: bool = False
    random_images: int = dataclasses.field(default=6, init=False)
    floating: bool = dataclasses.field(default=True, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise ValueError(f"min_agreement must be from 0 to 1, not {self.min_agreement!r}")
        if self.tolerance is None and not self.min_agreement:
            raise ValueError("tolerance must be a number where no min_agreement is asked for")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, not {self.tolerance!r}")

    def prepare(self, model: keras.Model) -> None:
        """Checks the options against `model`; ValueError if they do not fit it."""
        if self.images is not None:
            self.images = as_inputs(model, "images", self.images)
        if self.min_agreement and len(model.outputs[0].shape) != 2:
            raise ValueError(f"min_agreement needs a classifier's output (batch, classes), not {model.outputs[0].shape}: "
                             "give tolerance=, and min_agreement=0")  # fmt: skip

    @abc.abstractmethod
    def convert(self, model: keras.Model, path: Path) -> None:
        """Writes `model`, whose batch normalisation is folded, to `path`."""


def as_inputs(model: keras.Model, argument: str, images: Any) -> np.ndarray:
    """`images` as an array of the model's input type; ValueError naming `argument` if the model does not take them."""
    array = np.asarray(images)
    shape = tuple(model.inputs[0].shape)
    fits = array.ndim == len(shape) and all(
        size in (None, given) for size, given in zip(shape, array.shape, strict=True)
    )
    if not fits or not len(array):
        raise ValueError(f"{argument} must be one or more of the model's inputs {shape}, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument} must be finite")
    return array.astype(model.inputs[0].dtype)


def signature(model: keras.Model, batch_size: int | None = None) -> list[Any]:
    """The exported function's one argument, named "image" whatever the model calls it."""
    import tensorflow as tf

    return [tf.TensorSpec((batch_size, *model.inputs[0].shape[1:]), model.inputs[0].dtype, name="image")]


def inference(model: keras.Model) -> Any:
    """`model` as a function from images to `{output's name: tensor}`, with grouped convolutions as native operators."""
    name = getattr(model, "output_names", ["output"])[0]

    def predict(image: Any) -> dict[str, Any]:
        with ops.exporting():
            return {name: only_output(model, image)}

    return predict


def only_output(model: keras.Model, images: Any) -> Any:
    """The one tensor that `model` computes from `images` at inference, also where the model puts it into a dict."""
    (output,) = keras.tree.flatten(model(images, training=False))
    return output
