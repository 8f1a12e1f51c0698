"""The teacher of a recipe with distillation."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.features import without_auxiliary
from keras_resnets.preprocessing import expected_input
from keras_resnets.registry import WeightsEntry, find
from keras_resnets.weights import checkpoint_classes, resolve
from training.recipe import Recipe
from training.start import open_saved


class Teacher(keras.Model):
    """A trained network as a fixed function from the student's images to logits: nothing of it is trained, and it always runs in
    inference mode.

    Args:
        network: gives logits.
        scale, offset: per channel, what the student's preprocessed images are multiplied with and then raised by, which
            makes of them images as the teacher's preprocessing would have.
    """

    def __init__(self, network: Network, scale: Sequence[float], offset: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.scale, self.offset = np.array(scale, "float32"), np.array(offset, "float32")
        self.trainable = False

    def call(self, images: Any) -> Any:
        return self.network(images * self.scale + self.offset, training=False)


def load_teacher(recipe: Recipe, class_count: int, input_shape: tuple[int, int, int]) -> Teacher | None:
    """The teacher of `recipe`; None without one.

    The two networks may expect different preprocessing. Both are per channel `(pixel - mean) / std`, so one follows from the
    other, and from a mixture of images follows the mixture.

    Args:
        recipe: names the teacher and its weights, and the student's preprocessing.
        class_count: of the student.
        input_shape: of the training images, (height, width, channels).

    Raises:
        ValueError: there is no such network or there are no such weights, or they are for another number of classes.
        OSError, ImportError: the weights are not to be had.
    """
    name, weights = recipe.distillation.teacher, recipe.distillation.weights
    if not name:
        return None
    if weights.endswith(".keras"):
        network = _saved(name, weights, input_shape)
    else:
        _require_classes(_published_classes(name, weights), class_count, name, weights)
        network = kr.create_model(
            name, weights, classes=class_count, input_shape=input_shape, classifier_activation=None
        )
    _require_classes(network.output_shape[-1], class_count, name, weights)
    ours = expected_input(recipe.model.name, recipe.model.preprocessing or None)
    theirs = expected_input(name, network.weights_tag)
    scale, offset = np.divide(ours.std, theirs.std), np.subtract(ours.mean, theirs.mean) / np.array(theirs.std)
    return Teacher(network, scale.tolist(), offset.tolist(), name="teacher")


def _saved(name: str, path: str, input_shape: tuple[int, int, int]) -> Network:
    """The network of a `.keras` file, giving logits."""
    network = without_auxiliary(open_saved(path, name))
    if any(own not in (None, wanted) for own, wanted in zip(network.input_shape[1:], input_shape, strict=True)):
        raise ValueError(f"teacher {path!r} was saved for images of shape {network.input_shape[1:]}, the training images are "
                         f"{input_shape}")  # fmt: skip
    network.get_layer("predictions").activation = keras.activations.linear
    return network


def _published_classes(name: str, weights: str) -> int | None:
    """The number of classes that published weights or those of a checkpoint are for."""
    found = resolve(find(name), weights)
    if isinstance(found, WeightsEntry):
        return found.classes
    return checkpoint_classes(name, weights)


def _require_classes(given: int | None, wanted: int, name: str, weights: str) -> None:
    if given != wanted:
        raise ValueError(f"teacher {name!r} with weights {weights!r} knows {given or 'no'} classes, the images are of {wanted}: "
                         "a teacher must have been trained for the same ones")  # fmt: skip
