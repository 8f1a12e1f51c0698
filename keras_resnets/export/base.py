"""What every export format shares: its options, its conversion, and the one way to call the model in it."""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_resnets import ops
from keras_resnets.export.report import ExportReport

Arrays = dict[str, np.ndarray]


class ExportError(ValueError):
    """An export that was refused: nothing of it is left on disk."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What one function of an artifact has to compute.

    Attributes:
        signature: name of the function; "predict" in formats that have one.
        inputs: by name, the first axis counting images. Encoded images are an array of `bytes` objects.
        expected: outputs of the Keras model by name. Floats are compared by their relative difference, others (whole numbers,
            strings) must be equal. Outputs that are not named here are not compared.
        batch: images per call. That other batches work as well is part of the proof: the last one is smaller.
    """

    signature: str
    inputs: Arrays
    expected: Arrays
    batch: int = 4


@dataclasses.dataclass(kw_only=True)
class Exporter(abc.ABC):
    """The options of an export, and how it is carried out.

    Attributes:
        images: real inputs as the model takes them, `(images, height, width, channels)`, to compare beside random ones; by
            default six photographs, see `photos`.
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

    def target(self, path: Path) -> Path:
        """Where the artifact itself goes when `path` was asked for; folders between the two are made."""
        return path

    def prepare(self, model: keras.Model) -> keras.Model:
        """The model to export, usually `model` itself, after checking the options against it; ValueError if they do not fit."""
        if self.images is not None:
            self.images = as_inputs(model, "images", self.images)
        shapes = [output.shape for output in keras.tree.flatten(model.outputs)]
        if self.min_agreement and (len(shapes) != 1 or len(shapes[0]) != 2):
            raise ValueError(f"min_agreement needs a classifier's output (batch, classes), not {shapes}: "
                             "give tolerance=, and min_agreement=0")  # fmt: skip
        return model

    @abc.abstractmethod
    def convert(self, model: keras.Model, path: Path) -> None:
        """Writes `model`, whose batch normalisation is folded, to `path`."""

    def probes(self, model: keras.Model, inputs: np.ndarray, reference: Arrays) -> list[Probe]:
        """What the artifact is compared on; the report's own figures are those of the first.

        Args:
            model: in float32, not folded.
            inputs: real images, then random ones, as the model takes them.
            reference: its outputs for them.
        """
        return [Probe("predict", {"image": inputs}, reference)]

    def finish(self, report: ExportReport, artifact: Path, target: Path) -> None:  # noqa: B027  # most have nothing left
        """Last work on a proven artifact before it is moved to `target`; must not change what was proved."""

    def published(self, target: Path) -> None:  # noqa: B027  # most have nothing left
        """What is left to do when the artifact is at `target`: files beside it that are not part of it."""


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

    def predict(image: Any) -> dict[str, Any]:
        with ops.exporting():
            return named_outputs(model, image)

    return predict


def named_outputs(model: keras.Model, images: Any) -> dict[str, Any]:
    """What `model` computes at inference, by name: its dict's keys, else the names of its output layers."""
    outputs = model(images, training=False)
    if isinstance(outputs, dict) and not any(isinstance(output, (dict, list, tuple)) for output in outputs.values()):
        return outputs
    tensors = keras.tree.flatten(outputs)
    return dict(zip(_different(getattr(model, "output_names", []), len(tensors)), tensors, strict=True))


def _different(names: Sequence[str], count: int) -> list[str]:
    """`count` names, each once: `names` if they are that, else numbered ones."""
    fits = len(set(names)) == count == len(names)
    return list(names) if fits else [f"output_{i}" if count > 1 else "output" for i in range(count)]


def outputs_as_arrays(model: keras.Model, inputs: np.ndarray, batch: int = 32) -> Arrays:
    """`named_outputs` for many images, a batch at a time."""
    batches = [named_outputs(model, inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    return {
        name: np.concatenate([keras.ops.convert_to_numpy(outputs[name]) for outputs in batches]) for name in batches[0]
    }
