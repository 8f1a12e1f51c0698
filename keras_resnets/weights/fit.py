"""Arrays into the variables of a network that need not be quite the one they were made with."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.registry import find
from keras_resnets.weights.pytorch import REGULARISER_STATES, misfit, pytorch_name

HEAD = ("predictions/kernel", "predictions/bias")


@dataclasses.dataclass(frozen=True)
class Fit:
    """What of a network is loaded.

    Attributes:
        loaded: variables by path.
        total: how many variables the network has.
        notes: what is to be said about the others, and about those that are adapted.
    """

    loaded: Mapping[str, keras.Variable]
    total: int
    notes: list[str]


def assign(network: Network, arrays: Mapping[str, Any], what: str) -> None:
    """Loads `arrays`, by variable path in Keras' layouts; one line on stderr tells what of the network they do not cover.

    Raises:
        ValueError: they belong to another network; the message begins with `what`. `network` is unchanged then.
    """
    found = fit(network, arrays, what)
    for path, variable in found.loaded.items():
        array = np.asarray(arrays[path])
        variable.assign(array if array.shape == tuple(variable.shape) else adapted_kernel(array, variable.shape[2]))
    if found.notes:
        tell(what, len(found.loaded), found.total, found.notes)


def tell(what: str, loaded: int, total: int, notes: list[str]) -> None:
    """The line about weights that are not all of a network's."""
    print(f"keras_resnets: {what}: {loaded}/{total} tensors loaded, {', '.join(notes)}", file=sys.stderr)


def fit(network: Network, arrays: Mapping[str, Any], what: str) -> Fit:
    """Compares names and shapes: a classifier of another number of classes is left out, as is one that `network` lacks; a first
    convolution of RGB images fits any number of channels.

    Raises:
        ValueError: arrays are missing or left over, or have other shapes, beyond that; the message begins with `what`.
    """
    variables = {v.path: v for v in network.variables if not v.path.endswith(REGULARISER_STATES)}
    own = {path: tuple(variable.shape) for path, variable in variables.items()}
    given = {path: tuple(array.shape) for path, array in arrays.items() if path in own or path not in HEAD}
    notes = _leave_new_heads(own, given)
    channels = network.input_shape[-1]
    rules = find(network.variant).pytorch_names

    def known_as(path: str) -> str:
        """A variable's path, and what PyTorch's checkpoints call it."""
        return f"{path} ({(pytorch_name(path, rules) or '').removesuffix('|1x1')})"

    problems = [f"{known_as(path)}: missing" for path in own if path not in given]
    problems += [f"{path}: unexpected" for path in given if path not in own]
    for path, shape in own.items():
        if given.get(path, shape) == shape:
            continue
        if channels != 3 and shape[2:3] == (channels,) and given[path] == (*shape[:2], 3, *shape[3:]):
            notes.append(f"input channels 3→{channels} adapted")
        else:
            problems.append(f"{known_as(path)}: shape {given[path]}, expected {shape} in Keras' layout")
    if problems:
        raise ValueError(f"{what}: {misfit(network, len(variables), problems)}")
    return Fit({path: variables[path] for path in own}, len(variables), notes)


Shapes = dict[str, tuple[int, ...]]


def _leave_new_heads(own: Shapes, given: Shapes) -> list[str]:
    """Takes classifiers that differ in the number of classes alone out of both, and says so of each."""
    notes = []
    for path in [path for path in own if path.endswith("predictions/kernel")]:
        if given.get(path, own[path]) != own[path] and given[path][:-1] == own[path][:-1]:
            head = path.removesuffix("/kernel")
            notes.append(f"{'head' if path in HEAD else head} {given[path][-1]}→{own[path][-1]} new")
            for shapes in (own, given):
                for variable in (path, f"{head}/bias"):
                    shapes.pop(variable, None)
    return notes


def adapted_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution's kernel for RGB images made one for images of `channels` channels.

    For one channel it is summed over red, green and blue: a grey image then gives what it gave as an RGB image. For others
    its channels are repeated in turn and scaled by 3/`channels`, so that the response keeps its size (timm's rule).

    Args:
        kernel: `(height, width, 3, filters)`.

    Returns:
        `(height, width, channels, filters)`.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * kernel.dtype.type(3 / channels)
