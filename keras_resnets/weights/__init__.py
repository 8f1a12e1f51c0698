"""Weights: which ones a network has, where they come from and how they are laid out."""

import collections
import functools
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.assembly import Network, nearest
from keras_resnets.costs import without_values
from keras_resnets.registry import Variant, WeightsEntry, create_model, find
from keras_resnets.weights import cache
from keras_resnets.weights.fit import HEAD, assign, fit, tell
from keras_resnets.weights.origins import canonical_names
from keras_resnets.weights.pytorch import (
    keras_arrays,
    load_pytorch_weights,
    pytorch_parameters,
    read_state,
    reference_state,
)

__all__ = [
    "checkpoint_classes",
    "download_weights",
    "is_here",
    "load_pytorch_weights",
    "load_weights",
    "published",
    "pytorch_parameters",
    "resolve",
]

_DATA = Path(__file__).parents[1] / "data"
_PYTORCH_TYPES = (".safetensors", ".pth", ".pt")
_FILE_TYPES = (*_PYTORCH_TYPES, ".weights.h5")


def published(variant: Variant, tag: str) -> WeightsEntry:
    """The weights of `variant` called `tag`; "imagenet" is the first entry with 1000 classes.

    Raises:
        ValueError: there are none of that name; the message says which there are.
    """
    entries = variant.weights
    if tag in entries:
        return entries[tag]
    a_file = f"the path of a {', '.join(_FILE_TYPES[:-1])} or {_FILE_TYPES[-1]} file"
    if not entries:
        raise ValueError(f"{variant.name!r} has no published weights: weights must be None or {a_file}, not {tag!r}")
    tags = [*(["imagenet"] if "imagenet" in entries else []), *entries]
    raise ValueError(f"unknown weights {tag!r} of {variant.name!r}: {nearest(tag, tags)} (or None, or {a_file})")


def resolve(variant: Variant, weights: str | os.PathLike | None) -> WeightsEntry | Path | None:
    """What a builder's argument `weights` means, before anything is built or downloaded.

    Args:
        variant: the network's row.
        weights: None, a tag of `variant.weights`, "imagenet", or the path of a `.safetensors`, `.pth` or `.pt` file (PyTorch's
            names) or of a `.weights.h5` file (Keras').

    Raises:
        ValueError: there are no such weights.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights must be None, a tag or a path, not {weights!r}")
    if isinstance(weights, os.PathLike) or weights.endswith(_FILE_TYPES):
        path = Path(weights)
        if not path.name.endswith(_FILE_TYPES):
            raise ValueError(f"weights {str(path)!r} must be a {', '.join(_FILE_TYPES[:-1])} or {_FILE_TYPES[-1]} file")
        if not path.is_file():
            raise ValueError(f"weights {str(path)!r} is not a file")
        return path
    return published(variant, weights)


def load_weights(network: Network, source: WeightsEntry | Path) -> None:
    """Loads what `resolve` found into `network`, everything but the classifier if it has none.

    A classifier for another number of classes stays new, the first convolution is adapted to another number of image
    channels (`fit.adapted_kernel`); one line on stderr says so.

    Raises:
        ValueError: the file is damaged or belongs to another network. `network` is unchanged then.
        ImportError, OSError: a download failed, see `hub.fetch`.
    """
    if isinstance(source, WeightsEntry):
        _tell_licence(source)
        what = f"weights {source.tag!r} of {network.variant!r}"
        assign(network, _published_arrays(network, source), what)
        network.weights_tag = source.tag
    elif source.name.endswith(".weights.h5"):
        _load_keras_file(network, source)
    else:
        assign(network, _checkpoint_arrays(network, source), f"weights {str(source)!r}")


@functools.cache
def _tell_licence(entry: WeightsEntry) -> None:
    if entry.licence.startswith("cc-by-nc"):
        print(f"keras_resnets: weights {entry.tag!r} ({entry.source}) are licensed {entry.licence}: not for commercial use",
              file=sys.stderr)  # fmt: skip


def _published_arrays(network: Network, entry: WeightsEntry) -> Mapping[str, Any]:
    """The arrays of published weights by the paths of our variables."""
    place, _, name = entry.source.partition(":")
    if place == "package":
        return _checkpoint_arrays(network, _DATA / name)
    return _keras_arrays_of(converted(network, entry))


def download_weights(name: str, entry: WeightsEntry) -> Path:
    """The file of published weights of the network called `name`, brought to this machine if it is not there yet.

    Raises:
        ValueError, ImportError, OSError: as in `converted`.
    """
    place, _, file = entry.source.partition(":")
    if place == "package":
        return _DATA / file
    with without_values():
        network = create_model(name)
    return converted(network, entry)


def is_here(name: str, entry: WeightsEntry) -> bool:
    """Whether published weights are on this machine, ready for the network called `name`."""
    return entry.source.startswith("package:") or _converted_path(name, entry).is_file()


def checkpoint_classes(name: str, path: str | os.PathLike) -> int | None:
    """Outputs of the classifier in a PyTorch checkpoint of the network called `name`; None if there is no classifier.

    Raises:
        ValueError: there is no such network, or the file is not a whole `.safetensors`, `.pth` or `.pt` file.
    """
    rules = find(name).pytorch_names
    if not os.fspath(path).endswith(_PYTORCH_TYPES):
        raise ValueError(f"checkpoint {os.fspath(path)!r} must be a {', '.join(_PYTORCH_TYPES)} file")
    bias = keras_arrays(canonical_names(read_state(path), name), HEAD, rules).get("predictions/bias")
    return None if bias is None else bias.shape[0]


def _converted_path(name: str | None, entry: WeightsEntry, auxiliary: bool = False) -> Path:
    return cache.home() / "converted" / f"{name}.{entry.tag}{'.aux' if auxiliary else ''}.h5"


def converted(network: Network, entry: WeightsEntry) -> Path:
    """The file of published weights in the cache: an HDF5 dataset for each variable, under its path, in Keras' layout.

    It is made from the publisher's checkpoint when it is first asked for, see `hub.fetch` for where that comes from.

    Raises:
        ValueError: the checkpoint is damaged or belongs to another network.
        ImportError, OSError: it is not to be had, or nothing can be written here.
    """
    import h5py

    from keras_resnets.weights.hub import fetch

    path = _converted_path(network.variant, entry, auxiliary=isinstance(network.output, dict))
    with cache.locked(path, f"the conversion of weights {entry.tag!r} of {network.variant!r}"):
        if path.is_file() and _made_from(path) == entry.source:
            return path
        checkpoint = fetch(entry)
        arrays = _checkpoint_arrays(network, checkpoint)
        fit(network, arrays, f"weights {str(checkpoint)!r}")  # refused before anything is kept
        with cache.replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["source"] = entry.source
            for name, array in arrays.items():
                file[name] = array
    return path


def _made_from(path: Path) -> str | None:
    """The source of a converted file; None if it is damaged."""
    import h5py

    try:
        with h5py.File(path) as file:
            return file.attrs.get("source")
    except OSError:
        return None


def _keras_arrays_of(path: Path) -> dict[str, Any]:
    import h5py

    arrays: dict[str, Any] = {}
    h5py.File(path).visititems(lambda name, node: arrays.update({name: node} if isinstance(node, h5py.Dataset) else {}))
    return arrays


def _checkpoint_arrays(network: Network, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a publisher's file by the paths of our variables, as views; names that are no variable's stay."""
    if path.name.endswith(".h5"):
        from keras_resnets.weights.keras_applications import read_keras_applications

        return read_keras_applications(path, str(network.variant))
    paths = dict.fromkeys([variable.path for variable in network.variables] + list(HEAD))
    try:
        return keras_arrays(reference_state(read_state(path), network), paths, find(network.variant).pytorch_names)
    except ValueError as error:
        raise ValueError(f"weights {str(path)!r}: {error}") from error


def _load_keras_file(network: Network, path: Path) -> None:
    """Keras alone would take a file that holds more layers than the network, the weights of a deeper one."""
    given = _keras_file_shapes(path)
    own = [tuple(v.shape) for v in network.variables if "seed_generator" not in v.path]
    head, wanted = given.get("layers/dense/vars/1"), _classes(network)
    if head is not None and head != (wanted,):
        given = {name: shape for name, shape in given.items() if not name.startswith("layers/dense/")}
        if wanted is not None:
            own = own[: -len(HEAD)]
    if collections.Counter(given.values()) != collections.Counter(own):
        raise ValueError(f"weights {str(path)!r} do not fit {network.variant!r}: the file has {len(given)} arrays, the network "
                         f"{len(own)}, or their shapes differ")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' about the classifier, said below
        network.load_weights(path, skip_mismatch=head is not None)
    if head is not None and wanted not in (None, head[0]):
        tell(f"weights {str(path)!r}", len(own), len(own) + len(HEAD), [f"head {head[0]}→{wanted} new"])


def _keras_file_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and name.startswith("layers/") and "seed_generator" not in name:
            shapes[name] = node.shape

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except OSError as error:
        raise ValueError(f"weights {str(path)!r} is not a whole Keras weights file: {error}") from error
    return shapes


def _classes(network: Network) -> int | None:
    """Outputs of the classifier; None without one."""
    if not any(layer.name == "predictions" for layer in network.layers):
        return None
    output = network.output
    return (output["logits"] if isinstance(output, dict) else output).shape[-1]
