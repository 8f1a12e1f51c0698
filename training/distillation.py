"""The teacher of a recipe with distillation."""

import os
from typing import Any

import keras
import numpy as np

import keras_resnets as kr
from keras_resnets.preprocessing import expected_input
from training.recipe import Recipe
from training.start import open_keras_file


class Teacher(keras.Model):
    """A trained network as a fixed function: from images preprocessed for the student to logits.

    Always in inference mode, and nothing of it is trainable.

    Args:
        network: gives logits.
        scale, offset: per channel, from the student's preprocessing to the teacher's.
    """

    def __init__(self, network: keras.Model, scale: np.ndarray, offset: np.ndarray, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.network = network
        self.adapt = keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32")

    def call(self, images: Any) -> Any:
        return self.network(self.adapt(images), training=False)


def load_teacher(recipe: Recipe, class_count: int, input_shape: tuple[int, int, int]) -> Teacher | None:
    """The teacher of `recipe`; None without one.

    Args:
        recipe: names the teacher and its weights, and the student's preprocessing.
        class_count: of the student.
        input_shape: of the training images, (height, width, channels).

    Raises:
        ValueError: there is no such network or there are no such weights, or they are of another number of classes.
        OSError, ImportError: the weights are not to be had.
    """
    name, weights = recipe.distillation.teacher, recipe.distillation.weights
    if not name:
        return None
    network = kr.create_model(name, classes=class_count, input_shape=input_shape, classifier_activation=None)
    tag = None
    if weights.endswith(".keras"):
        open_keras_file(network, weights)
        tag = network.weights_tag
    else:
        network = kr.create_model(name, weights=weights, classes=class_count, input_shape=input_shape,
                                  classifier_activation=None)  # fmt: skip
        tag = network.weights_tag
    ours, theirs = expected_input(recipe.model.name, recipe.model.preprocessing or None), expected_input(name, tag)
    scale = np.divide(ours.std, theirs.std)
    offset = np.divide(np.subtract(ours.mean, theirs.mean), theirs.std)
    teacher = Teacher(network, scale, offset, name=f"teacher_{os.path.basename(name)}")
    teacher.trainable = False
    return teacher
