"""What an artifact says about itself beside the computation: names of its classes, and how images become its input."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_resnets.assembly import nearest
from keras_resnets.preprocessing import Preprocess, expected_input
from keras_resnets.registry import find
from keras_resnets.weights.labels import class_names


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an image to the network's input: resize, cut out the centre, `(pixel / 255 - mean) / std`.

    Attributes:
        mean, std: per channel, of pixels scaled to 0..1.
        crop: fraction of the resized image's short side that is kept.
        interpolation: "bilinear" or "bicubic".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known about a model.

    Attributes:
        network, weights_tag, licence: of a network of this package and its weights; the network is the model's name for others.
        input_shape: `(height, width, channels)`.
        labels: names of the classes in the order of the output, or None.
        preprocessing: or None where it is not known.
    """

    network: str
    weights_tag: str | None
    licence: str | None
    input_shape: tuple[int | None, ...]
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None


def describe(model: keras.Model, labels: Any = None, preprocessing: Any = None) -> Description:
    """The description of `model`; arguments as in `resolve_labels` and `resolve_preprocessing`."""
    tag = getattr(model, "weights_tag", None)
    variant = getattr(model, "variant", None)
    licence = find(variant).weights[tag].licence if variant and tag and tag in find(variant).weights else None
    return Description(
        network=variant or model.name,
        weights_tag=tag,
        licence=licence or None,
        input_shape=tuple(model.inputs[0].shape[1:]),
        labels=resolve_labels(labels, model),
        preprocessing=resolve_preprocessing(preprocessing, model),
    )


def resolve_labels(labels: str | Sequence[str] | None, model: keras.Model) -> tuple[str, ...] | None:
    """Names of the classes of `model`.

    Args:
        labels: "imagenet", "digits", or a name for each class. None stands for the classes of a network's own weights, where
            it has as many outputs.
        model: with an output `(batch, classes)`, if there are to be names.

    Returns:
        The names in the order of the output; None if none were given and none are known.

    Raises:
        ValueError: there is no such set, or it does not name each class on one line.
    """
    shape = tuple(model.outputs[0].shape) if len(model.outputs) == 1 else ()
    classes = shape[1] if len(shape) == 2 else None
    if labels is None:
        return _own_labels(model, classes)
    names = _named(labels)
    if classes is None:
        raise ValueError(f"labels need a classifier's output (batch, classes), not {[o.shape for o in model.outputs]}")
    if len(names) != classes:
        raise ValueError(f"labels must name each of the model's {classes} classes, not {len(names)}")
    for name in names:
        if not isinstance(name, str) or name.splitlines() != [name]:
            raise ValueError(f"labels must be lines of text, not {name!r}")
    return names


def _own_labels(model: keras.Model, classes: int | None) -> tuple[str, ...] | None:
    if getattr(model, "variant", None) is None:
        return None
    known = "digits" if getattr(model, "weights_tag", None) == "digits" else "imagenet"
    names = tuple(label for _, label in class_names(known) or ())
    return names if len(names) == classes else None


def _named(labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, str):
        return tuple(labels)
    known = class_names(labels)
    if known is None:
        raise ValueError(f"labels must be a name for each class, or a known set, not {labels!r}: "
                         + nearest(labels, ("imagenet", "digits")))  # fmt: skip
    return tuple(label for _, label in known)


def resolve_preprocessing(preprocessing: Preprocess | None, model: keras.Model) -> Preprocessing | None:
    """How images become the input of `model`.

    Args:
        preprocessing: None stands for that of a network's own weights, where it takes three channels.
        model: with an input `(batch, height, width, channels)`.

    Returns:
        It; None if none was given and none is known.

    Raises:
        ValueError: it is no `Preprocess` layer, or one for other images than `model` takes.
    """
    size, channels = tuple(model.inputs[0].shape[1:-1]), model.inputs[0].shape[-1]
    if preprocessing is None:
        if getattr(model, "variant", None) is None or channels != 3:
            return None
        entry = expected_input(model)
        return Preprocessing(entry.mean, entry.std, entry.crop, entry.interpolation)
    if not isinstance(preprocessing, Preprocess):
        raise ValueError(f"preprocessing must be a keras_resnets.preprocessing.Preprocess, not {preprocessing!r}")
    side = preprocessing.input_size
    if len(preprocessing.mean) != channels or (side is not None and size != (side, side)):
        raise ValueError(
            f"preprocessing gives {(side, side, len(preprocessing.mean))}, the model takes {(*size, channels)}"
        )
    return Preprocessing(preprocessing.mean, preprocessing.std, preprocessing.crop, preprocessing.interpolation)
