"""Networks made of the layers of a trained one, with blocks or paths taken out. Weights are shared, nothing is copied."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_resnets.assembly import Network
from keras_resnets.layers import BatchNorm
from keras_resnets.layers.base import chain
from keras_resnets.layers.residual import ResidualBlock

Choice = Literal["short", "long"]
# What each fusion of a network takes, first to last.
Path = tuple[Choice, ...]


class Side(keras.layers.Layer):
    """One side of a block of another network, and perhaps the ReLU that ends the block."""

    def __init__(self, block: ResidualBlock, choice: Choice, relu: bool) -> None:
        super().__init__()
        self.layers: Sequence[keras.layers.Layer] = block.shortcut if choice == "short" else block.branch
        self.relu = relu
        self.built = True

    def call(self, x: Any) -> Any:
        x = chain(self.layers, x)
        return ops.relu(x) if self.relu else x


def blocks(network: Network) -> list[keras.layers.Layer]:
    """The blocks of `network` in their order."""
    return [layer for layer in network.layers if "_block" in layer.name]


def block_layers(block: keras.layers.Layer) -> int:
    """Layers of a block, one after the other."""
    return len(block.branch) if isinstance(block, ResidualBlock) else 1


def layers(network: Network) -> int:
    """Layers of `network` with stem and classifier, one after the other."""
    return 2 + sum(block_layers(block) for block in blocks(network))


def position(network: Network, name: str) -> float:
    """Where the middle of a block is among the layers of `network`; the stem is layer 1."""
    before = 1
    for block in blocks(network):
        if block.name == name:
            break
        before += block_layers(block)
    return before + (block_layers(network.get_layer(name)) + 1) / 2


def paths(network: Network) -> list[Path]:
    """Every way through the residual blocks of `network`, two at each: from all short to all long.

    Raises:
        ValueError: not every block of the network is a residual one.
    """
    if not all(_has_shortcut(block) for block in blocks(network)):
        raise ValueError(f"network {network.name!r} must have residual blocks only: others have one path, not two")
    return list(itertools.product(("short", "long"), repeat=len(blocks(network))))


def path_layers(network: Network, path: Path) -> int:
    """Layers on a path through `network`, with stem and classifier; identities are none."""
    chosen = zip(blocks(network), path, strict=True)
    return 2 + sum(len(Side(block, choice, relu=True).layers) for block, choice in chosen)


def without_block(network: Network, name: str) -> keras.Model:
    """`network` without one block: a residual one is replaced by its shortcut, another one left out.

    Raises:
        ValueError: the network has no such block, or it changes the shape and has no shortcut.
    """
    block = next((block for block in blocks(network) if block.name == name), None)
    if block is None:
        raise ValueError(f"name must be that of a block of {network.name!r}, not {name!r}")
    if _has_shortcut(block):
        return _rewired(network, {name: Side(block, "short", relu=True)})
    if block.input.shape != block.output.shape:
        raise ValueError(
            f"name: block {name!r} of {network.name!r} changes the shape and has no shortcut to be replaced by"
        )
    return _rewired(network, {name: lambda x: x})


def removable_blocks(network: Network) -> list[str]:
    """Names of the blocks that `without_block` can take out."""
    return [block.name for block in blocks(network) if block.input.shape == block.output.shape or _has_shortcut(block)]


def base_network(network: Network, path: Path) -> keras.Model:
    """The network along one path: of every fusion of two branches only the one that `path` says.

    Raises:
        ValueError: `path` does not have a choice for every fusion.
    """
    _require_path(network, path)
    chosen = zip(blocks(network), path, strict=True)
    return _rewired(network, {block.name: Side(block, choice, relu=True) for block, choice in chosen})


def without_path(network: Network, path: Path) -> keras.Model:
    """`network` without one of its paths, while all others stay.

    At every fusion the branch that the path takes reads what has come there by other paths, the other branch reads everything.

    Raises:
        ValueError: `path` does not have a choice for every fusion.
    """
    _require_path(network, path)
    choices = dict(zip((block.name for block in blocks(network)), path, strict=True))
    everything, others = network.input, None
    for layer in network.layers[1:]:
        if layer.name in choices:
            choice = choices[layer.name]
            kept = Side(layer, "short" if choice == "long" else "long", relu=False)(everything)
            if others is not None:
                kept = kept + Side(layer, choice, relu=False)(others)
            everything, others = layer(everything), ops.relu(kept)
        else:
            everything, others = layer(everything), None if others is None else layer(others)
    return keras.Model(network.input, others)


@contextlib.contextmanager
def own_statistics(model: keras.Model, images: np.ndarray) -> Iterator[None]:
    """While active, the normalisations of `model` have the statistics that `images` have in it."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, BatchNorm)]
    kept = [(norm, norm.momentum, norm.get_weights()) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        model(images, training=True)
        yield
    finally:
        for norm, momentum, weights in kept:
            norm.momentum = momentum
            norm.set_weights(weights)


def _has_shortcut(block: keras.layers.Layer) -> bool:
    return isinstance(block, ResidualBlock) and block.shortcut_arguments[0] != "none"


def _require_path(network: Network, path: Path) -> None:
    fusions = len(paths(network)[0])
    if len(path) != fusions or not set(path) <= {"short", "long"}:
        raise ValueError(
            f"path must be {fusions} times 'short' or 'long', one for each fusion of {network.name!r}, not {path!r}"
        )


def _rewired(network: Network, replacements: Mapping[str, Callable[[Any], Any]]) -> keras.Model:
    """`network`, whose layers are a chain, with some of them replaced."""
    x = network.input
    for layer in network.layers[1:]:
        x = replacements.get(layer.name, layer)(x)
    return keras.Model(network.input, x)
