"""Weights: which ones a network has, where they come from and how they are laid out."""

import collections
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resnets.assembly import Network, nearest
from keras_resnets.registry import Variant, WeightsEntry, find
from keras_resnets.weights.pytorch import load_pytorch_weights, pytorch_name, pytorch_parameters, read_safetensors

__all__ = ["load_pytorch_weights", "load_weights", "published", "pytorch_parameters", "resolve"]

_DATA = Path(__file__).parents[1] / "data"
_FILE_TYPES = (".safetensors", ".weights.h5")


def published(variant: Variant, tag: str) -> WeightsEntry:
    """The weights of `variant` called `tag`; "imagenet" is the first entry with 1000 classes.

    Raises:
        ValueError: there are none of that name; the message says which there are.
    """
    entries = dict(variant.weights)
    for entry in variant.weights.values():
        if entry.classes == 1000:
            entries.setdefault("imagenet", entry)
    if tag in entries:
        return entries[tag]
    a_file = f"the path of a {' or '.join(_FILE_TYPES)} file"
    if not entries:
        raise ValueError(f"{variant.name!r} has no published weights: weights must be None or {a_file}, not {tag!r}")
    raise ValueError(f"unknown weights {tag!r} of {variant.name!r}: {nearest(tag, entries)} (or None, or {a_file})")


def resolve(variant: Variant, weights: str | os.PathLike | None, classes: int | None) -> WeightsEntry | Path | None:
    """What a builder's argument `weights` means, before anything is built or downloaded.

    Args:
        variant: the network's row.
        weights: None, a tag of `variant.weights`, "imagenet", or the path of a `.safetensors` file (PyTorch's names) or
            of a `.weights.h5` file (Keras').
        classes: outputs of the classifier that the weights are for; None without one.

    Raises:
        ValueError: there are no such weights, or they have another number of classes.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights must be None, a tag or a path, not {weights!r}")
    if isinstance(weights, os.PathLike) or weights.endswith(_FILE_TYPES):
        path = Path(weights)
        if not path.name.endswith(_FILE_TYPES):
            raise ValueError(f"weights {str(path)!r} must be a {' or '.join(_FILE_TYPES)} file")
        if not path.is_file():
            raise ValueError(f"weights {str(path)!r} is not a file")
        return path
    entry = published(variant, weights)
    if classes is not None:
        _require_classes(f"weights {weights!r} of {variant.name!r}", entry.classes, classes)
    return entry


def load_weights(network: Network, source: WeightsEntry | Path) -> None:
    """Loads what `resolve` found into `network`, everything but the classifier if it has none.

    Raises:
        ValueError: the file is damaged or belongs to another network.
        ImportError, OSError: a download failed, see `hub.fetch`.
    """
    path = _locate(source) if isinstance(source, WeightsEntry) else source
    (_load_keras_file if path.name.endswith(".weights.h5") else _load_safetensors)(network, path)
    network.weights_tag = source.tag if isinstance(source, WeightsEntry) else None


def _locate(entry: WeightsEntry) -> Path:
    place, _, name = entry.source.partition(":")
    if place == "package":
        return _DATA / name
    from keras_resnets.weights.hub import fetch

    return fetch(entry)


def _load_safetensors(network: Network, path: Path) -> None:
    state = read_safetensors(path)
    rules = find(network.variant).pytorch_names
    kernel, bias = ((pytorch_name(f"predictions/{v}", rules) or "").removesuffix("|1x1") for v in ("kernel", "bias"))
    if not _has_classifier(network):
        state = {name: array for name, array in state.items() if name not in (kernel, bias)}
    elif bias in state:
        _require_classes(f"weights {str(path)!r}", math.prod(state[bias].shape), _classes(network))
    if not isinstance(network.output, dict):  # torchvision publishes the classifier that only training needs, too
        state = {name: array for name, array in state.items() if not name.startswith("AuxLogits.")}
    try:
        load_pytorch_weights(network, state)
    except ValueError as error:
        raise ValueError(f"weights {str(path)!r}: {error}") from error


def _load_keras_file(network: Network, path: Path) -> None:
    """Keras alone would take a file that holds more layers than the network, the weights of a deeper one."""
    arrays = _keras_file_shapes(path)
    if not _has_classifier(network):
        arrays = {name: shape for name, shape in arrays.items() if not name.startswith("layers/dense/")}
    elif "layers/dense/vars/1" in arrays:
        _require_classes(f"weights {str(path)!r}", arrays["layers/dense/vars/1"][0], _classes(network))
    own = collections.Counter(tuple(v.shape) for v in network.variables if "seed_generator" not in v.path)
    if collections.Counter(arrays.values()) != own:
        raise ValueError(f"weights {str(path)!r} do not fit {network.variant!r}: the file has {len(arrays)} arrays, the network "
                         f"{own.total()}, or their shapes differ")  # fmt: skip
    network.load_weights(path)


def _keras_file_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
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


def _has_classifier(network: Network) -> bool:
    return any(layer.name == "predictions" for layer in network.layers)


def _classes(network: Network) -> int:
    output = network.output
    return (output["logits"] if isinstance(output, dict) else output).shape[-1]


def _require_classes(what: str, given: int, wanted: int) -> None:
    if given != wanted:
        raise ValueError(f"{what} have {given} classes, not {wanted}: pass classes={given}, or include_top=False and add a "
                         "classifier of your own, or weights=None to train from scratch")  # fmt: skip
