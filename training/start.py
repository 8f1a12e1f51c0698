"""What training starts from, and what of it is trained."""

import os

import keras

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.registry import find
from keras_resnets.weights import load_weights, resolve
from training.recipe import Recipe


def start_from(network: Network, recipe: Recipe) -> None:
    """Loads `recipe.model.weights` into `network` and freezes what `recipe.model.freeze` says.

    Afterwards `network.trainable_variables` are those to be trained; a training step calls `network(images, training=True)`,
    frozen batch normalisation then stays in inference mode.

    Raises:
        ValueError: there are no such weights or they are another network's, or there is no such part to freeze.
        OSError, ImportError: the weights are not to be had.
    """
    weights = recipe.model.weights
    if weights.endswith(".keras"):
        open_keras_file(network, weights)
    elif weights:
        load_weights(network, resolve(find(network.variant), weights))
    network.weights_tag = recipe.model.preprocessing or None
    if recipe.model.freeze == "head":
        freeze_all_but_head(network)
    elif recipe.model.freeze != "none":
        kr.freeze(network, recipe.model.freeze)


def open_keras_file(network: Network, path: str | os.PathLike) -> None:
    """Loads the weights of a saved network into `network`, which must be the same but for the number of classes."""
    saved = keras.models.load_model(path, compile=False)
    network.set_weights(saved.get_weights())
    network.weights_tag = saved.weights_tag


def freeze_all_but_head(network: Network) -> None:
    """Trains the classifier alone."""
    kr.freeze(network, "all")
    network.trainable = True
    for layer in network.layers:
        layer.trainable = layer.name == "predictions"
