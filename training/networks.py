"""The networks of a run: the one that is trained, and the one that is saved."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.features import without_auxiliary
from keras_resnets.preprocessing import Preprocess
from training.data import Data
from training.recipe import Recipe
from training.run_folder import replacing


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Layers made in the body compute as the policy called `name` says."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def preprocessing(recipe: Recipe) -> Preprocess:
    """From pixels 0..255 to what the recipe's weights entry expects."""
    return Preprocess.of(recipe.model.name, recipe.model.preprocessing or None)


def test_size(recipe: Recipe) -> int:
    """Side of the test images in pixels."""
    return recipe.data.test_size or recipe.data.image_size


def build_network(recipe: Recipe, data: Data, activation: str | None = None) -> Network:
    """The network of `recipe`, freshly initialised, for the classes and image sizes of `data`.

    Args:
        recipe: of the run.
        data: the images.
        activation: of the classifier; None gives logits.

    Raises:
        ValueError: the recipe weighs auxiliary logits that the network does not have, or does not weigh those it has.
    """
    size = recipe.data.image_size if test_size(recipe) == recipe.data.image_size else None
    with dtype_policy(recipe.precision):
        network = kr.create_model(recipe.model.name, classes=len(data.class_names), input_shape=(size, size, 3),
                                  classifier_activation=activation, **recipe.model.options)  # fmt: skip
    if len(network.outputs) > 1 and not recipe.aux_weight:
        raise ValueError("aux_weight must be above 0 (usually 0.4) for a network with auxiliary logits")
    if len(network.outputs) == 1 and recipe.aux_weight:
        raise ValueError(f"aux_weight must be 0, not {recipe.aux_weight}, for {network.name!r} without auxiliary logits "
                         "(model.options.aux_logits)")  # fmt: skip
    network.weights_tag = recipe.model.preprocessing or None
    return network


class Deployable:
    """The network as it is saved: with probabilities, in float32, without auxiliary logits, for the size of the test images.

    Args:
        recipe: of the run.
        data: the images.
    """

    def __init__(self, recipe: Recipe, data: Data) -> None:
        tested = dataclasses.replace(recipe.data, image_size=test_size(recipe), test_size=0)
        plain = dataclasses.replace(recipe, data=tested, precision="float32")
        self.network = without_auxiliary(build_network(plain, data, activation="softmax"))

    def save(self, path: Path, values: Mapping[str, np.ndarray]) -> None:
        """Writes a `.keras` file.

        Args:
            path: of the file, which is there whole or not at all.
            values: of all weights by the variables' paths; those of auxiliary logits are left out.
        """
        for variable in self.network.weights:
            variable.assign(values[variable.path])
        with replacing(path) as temporary:
            self.network.save(temporary)
