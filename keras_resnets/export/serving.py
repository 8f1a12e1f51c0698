"""What TF Serving calls: from encoded images to named classes, and to feature maps. Functions to trace into a SavedModel."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import Network, nearest
from keras_resnets.export.base import outputs_as_arrays
from keras_resnets.features import feature_extractor
from keras_resnets.preprocessing import Preprocess
from keras_resnets.weights.labels import class_names

_LEVELS = ("C1", "C2", "C3", "C4", "C5")
_NO_CLASS = -1  # where an image has no classes, because it is unusable


@dataclasses.dataclass(frozen=True)
class Classifier:
    """How encoded images become classes.

    Attributes:
        transform: from pixels of any size to the model's input.
        labels: a name for each class.
        top_k: how many classes are answered.
        max_pixels: no larger image is decoded.
        output: name of the model's output that holds logits or probabilities.
        softmax: it holds logits.
    """

    transform: Preprocess
    labels: Sequence[str]
    top_k: int
    max_pixels: int
    output: str
    softmax: bool

    def probabilities(self, outputs: dict[str, Any]) -> Any:
        """`(batch, classes)` from the model's outputs."""
        return keras.ops.softmax(outputs[self.output]) if self.softmax else outputs[self.output]

    def function(self, predict: Callable[[Any], dict[str, Any]], names: Any) -> Callable[[Any], dict[str, Any]]:
        """The signature for encoded images: of `predict`, the model's outputs, and the table of `label_table`."""
        import tensorflow as tf

        from keras_resnets.export.serving_images import OK, images_of

        side = self.transform.input_size
        assert side is not None

        def prepared(image_bytes: Any) -> tuple[Any, Any]:
            return images_of(image_bytes, self.transform, (side, side, 3), self.max_pixels)

        prepare = traced(prepared, encoded_images())

        def classify(image_bytes: Any) -> dict[str, Any]:
            inputs, status = prepare(image_bytes)
            values, classes = tf.math.top_k(self.probabilities(predict(inputs)), self.top_k)
            usable = (status == OK)[:, tf.newaxis]
            classes = tf.where(usable, classes, _NO_CLASS)
            return {
                "classes": classes,
                "labels": names.lookup(tf.cast(classes, tf.int64)),
                "probabilities": tf.where(usable, values, 0.0),
                "status": status,
            }

        return classify


def encoded_images() -> list[Any]:
    """The classifying signature's one argument."""
    import tensorflow as tf

    return [tf.TensorSpec((None,), tf.string, name="image_bytes")]


def traced(function: Callable[[Any], Any], arguments: list[Any]) -> Callable[[Any], Any]:
    """`function` as a graph that is built once, however often the signatures that call it are."""
    import tensorflow as tf

    return tf.function(function, input_signature=arguments, autograph=False).get_concrete_function()


def label_table(file: Path) -> Any:
    """A table from classes to the lines of `file`, which a SavedModel then carries; "" for other numbers."""
    import tensorflow as tf

    lines, index = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    return tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(str(file), tf.int64, index, tf.string, lines), "")


def any_batch(function: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """`function` for batches that may be empty: TensorFlow's fused convolutions fail for those, so that one blank row is
    computed and cut off again."""
    import tensorflow as tf

    def padded(batch: Any) -> dict[str, Any]:
        shape = tf.shape(batch)
        missing = tf.cast(tf.equal(shape[:1], 0), tf.int32)
        rows = tf.concat([batch, tf.zeros(tf.concat([missing, shape[1:]], 0), batch.dtype)], 0)
        rows = tf.ensure_shape(rows, batch.shape)
        return {name: output[: shape[0]] for name, output in function(rows).items()}

    return padded


def features(model: keras.Model) -> keras.Model | None:
    """The model of all levels that `model` has; None if it has none."""
    levels = [layer.name for layer in model.layers if layer.name in _LEVELS]
    return feature_extractor(model, levels) if levels else None


def classifier_of(model: keras.Model, preprocessing: Preprocess | None, labels: str | Sequence[str] | None, top_k: int,
                  max_pixels: int) -> Classifier | None:  # fmt: skip
    """How `model` classifies encoded images; None if it is no classifier of squares in RGB, or it is not known what
    preprocessing it wants.

    Raises:
        ValueError: an option does not fit `model`.
    """
    transform = preprocessing or _preprocessing_of(model)
    outputs = {} if transform is None else _sample_outputs(model, transform)
    name = "logits" if "logits" in outputs else next(iter(outputs)) if len(outputs) == 1 else None
    if name is None or not _are_classes(model, outputs[name]):
        for option, value in (("labels", labels), ("preprocessing", preprocessing)):
            if value is not None:
                missing = "preprocessing= as well" if transform is None else "an output (batch, classes)"
                raise ValueError(f"{option} needs {missing}: it is for a signature that classifies encoded images")
        return None
    assert transform is not None
    names = labels_of(model, outputs[name].shape[1], labels)
    logits = name == "logits" or _gives_logits(model, outputs[name])
    return Classifier(transform, names, min(top_k, len(names)), max_pixels, name, logits)


def _sample_outputs(model: keras.Model, transform: Preprocess) -> dict[str, np.ndarray]:
    """What `model` gives for noise of the size that it is to be fed; ValueError if it does not take that."""
    _require_fit(model, transform)
    side = transform.input_size
    assert side is not None
    noise = np.random.default_rng(0).normal(size=(2, side, side, 3))
    return outputs_as_arrays(model, noise.astype(model.inputs[0].dtype))


def _are_classes(model: keras.Model, outputs: np.ndarray) -> bool:
    headless = (
        isinstance(model, Network) and not isinstance(model.output, dict) and model.layers[-1].name != "predictions"
    )
    return not headless and outputs.ndim == 2 and outputs.shape[1] > 1


def _preprocessing_of(model: keras.Model) -> Preprocess | None:
    height, width, channels = (None, *model.inputs[0].shape)[-3:]
    square = isinstance(model, Network) and model.variant is not None and height == width and channels == 3
    return Preprocess.of(model, resize=True) if square else None


def _require_fit(model: keras.Model, transform: Preprocess) -> None:
    if not isinstance(transform, Preprocess) or transform.input_size is None or len(transform.mean) != 3:
        raise ValueError("preprocessing must be a keras_resnets.preprocessing.Preprocess of three channels with an input_size, "
                         f"not {transform!r}")  # fmt: skip
    shape, side = tuple(model.inputs[0].shape), transform.input_size
    fits = len(shape) == 4 and all(own in (None, given) for own, given in zip(shape[1:], (side, side, 3), strict=True))
    if not fits or not keras.backend.is_float_dtype(model.inputs[0].dtype):
        raise ValueError(f"preprocessing gives (batch, {side}, {side}, 3) floats, the model takes {shape} of "
                         f"{model.inputs[0].dtype}")  # fmt: skip


def labels_of(model: keras.Model, classes: int, labels: str | Sequence[str] | None) -> list[str]:
    """A name for each class: those given, else ImageNet's or the digits' if the model has those, else "class N".

    Raises:
        ValueError: `labels` is unknown, of another length, or holds what is not one line of text.
    """
    if labels is None:
        digits = classes == 10 and getattr(model, "weights_tag", None) == "digits"
        labels = "imagenet" if classes == 1000 else "digits" if digits else [f"class {i}" for i in range(classes)]
    if isinstance(labels, str):
        named = class_names(labels)
        if named is None:
            raise ValueError(f"labels must be a name for each class, or a known set, not {labels!r}: "
                             + nearest(labels, ("imagenet", "digits")))  # fmt: skip
        labels = [label for _, label in named]
    names = list(labels)
    if len(names) != classes:
        raise ValueError(f"labels must name each of the model's {classes} classes, not {len(names)}")
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name.splitlines()) != 1:
            raise ValueError(f"labels must be lines of text, not {name!r}")
    return names


def _gives_logits(model: keras.Model, outputs: np.ndarray) -> bool:
    """Whether `outputs` of a classifier are logits: by the activation of its last layer, else by the numbers."""
    activation = getattr(model.layers[-1], "activation", None)
    if activation is not None:
        return activation not in (keras.activations.softmax, keras.activations.sigmoid)
    return not (outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1, atol=1e-3))
