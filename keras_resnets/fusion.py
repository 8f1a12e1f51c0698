"""Folding what is linear at inference: the same function with fewer operators.

* A `ConvNorm` computes `gamma · (kernel * x - mean) / sqrt(variance + epsilon) + beta`. That is a convolution with the kernel
  `kernel · scale` and the bias `beta - mean · scale`, where `scale = gamma / sqrt(variance + epsilon)`.
* A normalisation without a convolution right before it (in pre-activation networks and DenseNets) is `x · scale + offset`.
* Two branches of two convolutions on one input, whose outputs are summed (`InceptionLikeBlock`), are one such branch of twice
  the width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnets.layers import BatchNorm, Composite, Conv2D, ConvNorm
from keras_resnets.layers.merge_and_run import InceptionLikeBlock

Config = dict[str, Any]


def fuse(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes the same function at inference, with batch normalisation folded into convolutions.

    Every `ConvNorm`, at any depth, becomes one convolution with a bias, every normalisation in another layer of this package a
    scale and an offset, parallel branches one branch; everything else is copied. The copy has the class
    of `model` (and the `variant` and `weights_tag` of a `Network`) and is not compiled. Where nothing is left to fold it is
    an equal copy, so that fusing twice is fusing once. `model` itself is unchanged.

    Args:
        model: functional or sequential, with any input `(batch, height, width, channels)` and under any precision.

    Raises:
        ValueError: `model` has no graph of layers to rebuild: it is subclassed, or not built.
    """
    copy = _rebuilt(model, _folded)
    replaced: dict[int, list[np.ndarray]] = {}  # by id of a variable: what takes its place
    for layer in model._flatten_layers():
        for variables, values in _replacements(layer):
            if id(variables[0]) not in replaced:  # or a layer around this one has replaced it
                replaced |= {id(variable): [] for variable in variables}
                replaced[id(variables[0])] = values
    copy.set_weights([value for weight in model.weights for value in replaced.get(id(weight), [weight])])
    return copy


def as_float32(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes in float32, whatever its precision: what a network trained in mixed precision is
    exported as. Raises ValueError as `fuse` does."""
    copy = _rebuilt(model, _in_float32)
    copy.set_weights(model.weights)
    return copy


Replacement = tuple[list[Any], list[np.ndarray]]  # variables, and the values that replace the first of them


def _replacements(layer: keras.layers.Layer) -> Iterator[Replacement]:
    """What the variables of `layer`'s own parts become."""
    if isinstance(layer, InceptionLikeBlock) and layer.second:
        convs = [*layer.first, *layer.second]
        (first, a), (last, b), (other_first, c), (other_last, d) = (_fold(unit.conv, unit.norm) for unit in convs)
        merged = [
            np.concatenate([first, other_first], -1),
            np.concatenate([a, c]),
            np.concatenate([last, other_last], -2),
            b + d,
        ]
        yield [variable for unit in convs for variable in unit.weights], merged
    elif isinstance(layer, ConvNorm) and layer.norm is not None:
        yield layer.weights, list(_fold(layer.conv, layer.norm))
    elif isinstance(layer, Composite):
        for part in layer._flatten_layers(include_self=False, recursive=False):
            if isinstance(part, BatchNorm):
                yield part.weights, list(_scale_and_offset(part))


def _fold(conv: Conv2D, norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, in float64, of the convolution that equals `conv` followed by `norm`."""
    scale, offset = _scale_and_offset(norm)
    if conv.use_bias:
        offset = offset + _float64(conv.bias) * scale
    return _float64(conv.kernel) * scale, offset


def _scale_and_offset(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = map(_float64, (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _float64(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype("float64")


def _rebuilt(model: keras.Model, edit: Callable[[Config], Config]) -> keras.Model:
    """A freshly initialised `model` from its configuration, `edit` applied to every dictionary in it, innermost first."""
    if not (isinstance(model, keras.Model) and model.built and "layers" in model.get_config()):
        raise ValueError(f"model must be a built functional or sequential keras.Model, not {type(model).__name__}")

    def edited(value: Any) -> Any:
        if isinstance(value, dict):
            return edit({key: edited(item) for key, item in value.items()})
        return type(value)(edited(item) for item in value) if isinstance(value, (list, tuple)) else value

    return type(model).from_config(edited(model.get_config()))


def _folded(config: Config) -> Config:
    norm = config.get("norm")
    return {**config, "norm": {**norm, "folded": True}} if isinstance(norm, dict) else config


def _in_float32(config: Config) -> Config:
    policy = config.get("class_name") == "DTypePolicy"
    return {**config, "config": {"name": "float32"}} if policy else config
