"""What training starts from, and what of it is trained."""

import os
import zipfile
from collections.abc import Sequence

import keras

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.equivalence.variables import stateful
from keras_resnets.layers import BatchNorm
from keras_resnets.layers.base import Composite
from keras_resnets.registry import find
from keras_resnets.weights import load_weights, resolve
from keras_resnets.weights.fit import assign
from training.recipe import Recipe

_HEADS = ("predictions", "aux_predictions")


def start_from(network: Network, recipe: Recipe) -> None:
    """Loads `recipe.model.weights` into `network` and freezes what `recipe.model.freeze` says.

    A classifier for another number of classes starts new, a line on stderr says so. Afterwards `network.trainable_variables`
    are those to be trained. A training step calls `network(images, training=True)`: batch normalisation that is frozen stays in
    inference mode by itself.

    Raises:
        ValueError: there are no such weights or they are another network's, or there is no such part to freeze.
        OSError, ImportError: the weights are not to be had.
    """
    weights, freeze = recipe.model.weights, recipe.model.freeze
    if weights.endswith(".keras"):
        saved = open_saved(weights, network.variant)
        assign(network, {v.path: v.numpy() for v in stateful(saved)}, f"weights {weights!r}")
    elif weights:
        found = resolve(find(network.variant), weights)
        assert found is not None
        load_weights(network, found)
    network.weights_tag = recipe.model.preprocessing or None
    if freeze == "head":
        train_head_alone(network)
    else:
        kr.freeze(network, freeze)
    if not network.trainable_variables:
        raise ValueError(f"model.freeze {freeze!r} leaves nothing to train")


def open_saved(path: str | os.PathLike, name: str | None) -> Network:
    """The network called `name` in a `.keras` file.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds another network.
    """
    what = f"weights {os.fspath(path)!r}"
    if not os.path.isfile(path):
        raise ValueError(f"{what} is not a file")
    try:
        saved = keras.models.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{what} is not a whole saved network: {error}") from error
    variant = getattr(saved, "variant", None)
    if variant != name:
        raise ValueError(f"{what} is of {variant or saved.name!r}, not of {name!r}")
    return saved


def train_head_alone(network: Network) -> None:
    """Freezes everything but the classifier, as FixRes does to fit a network to a larger image (Touvron et al., 2019,
    arXiv 1906.06423).

    The last batch normalisation before the classifier runs in training mode: its statistics are taken anew, its scale and
    offset stay as they are, as in the authors' code.

    Raises:
        ValueError: `network` has no classifier.
    """
    heads = [layer for layer in network.layers if layer.name in _HEADS]
    if not heads:
        raise ValueError(f"freeze 'head' is for networks with a classifier, {network.name!r} has none")
    network.trainable = True  # a network that is frozen as a whole would train no layer
    for layer in network.layers:
        layer.trainable = layer in heads
    norm = last_norm([layer for layer in network.layers if not layer.name.startswith("aux_")])
    if norm is not None:
        norm.trainable = True
        norm.gamma.trainable = norm.beta.trainable = False


def last_norm(layers: Sequence[keras.layers.Layer]) -> BatchNorm | None:
    """The batch normalisation that stands last in a chain of layers, within the first branch of the blocks."""
    for layer in reversed(layers):
        if isinstance(layer, BatchNorm):
            return layer
        if isinstance(layer, Composite) and (found := last_norm(layer.branches()[0])) is not None:
            return found
    return None
