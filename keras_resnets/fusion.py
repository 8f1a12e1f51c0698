"""Folding batch normalisation into the convolution before it: the same function with fewer operators, for inference.

A `ConvNorm` at inference computes `gamma · (kernel * x - mean) / sqrt(variance + epsilon) + beta`. That is a convolution
with the kernel `kernel · scale` and the bias `beta - mean · scale`, where `scale = gamma / sqrt(variance + epsilon)`. A
normalisation without a convolution right before it (`NormAct`, in pre-activation networks) stays.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnets.layers import BatchNorm, Conv2D, ConvNorm

Config = dict[str, Any]


def fuse(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes the same function at inference, with batch normalisation folded into convolutions.

    Every `ConvNorm`, at any depth, becomes one convolution with a bias; everything else is copied. The copy has the class
    of `model` (and the `variant` and `weights_tag` of a `Network`) and is not compiled. Where nothing is left to fold it is
    an equal copy, so that fusing twice is fusing once. `model` itself is unchanged.

    Args:
        model: functional or sequential, with any input `(batch, height, width, channels)` and under any precision.

    Raises:
        ValueError: `model` has no graph of layers to rebuild: it is subclassed, or not built.
    """
    copy = _rebuilt(model, _folded)
    units = {
        id(layer.conv.kernel): (layer.conv, layer.norm)
        for layer in model._flatten_layers()
        if isinstance(layer, ConvNorm) and layer.norm is not None
    }
    folded = {id(weight) for unit in units.values() for layer in unit for weight in layer.weights}
    weights: list[Any] = []
    for weight in model.weights:
        if id(weight) in units:
            weights += _fold(*units[id(weight)])
        elif id(weight) not in folded:
            weights.append(weight)
    copy.set_weights(weights)
    return copy


def as_float32(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes in float32, whatever its precision: what a network trained in mixed precision is
    exported as. Raises ValueError as `fuse` does."""
    copy = _rebuilt(model, _in_float32)
    copy.set_weights(model.weights)
    return copy


def _fold(conv: Conv2D, norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, in float64, of the convolution that equals `conv` followed by `norm`."""
    variables = (conv.kernel, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    values, gamma, beta, mean, variance = (ops.convert_to_numpy(variable).astype("float64") for variable in variables)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    if conv.use_bias:
        mean = mean - ops.convert_to_numpy(conv.bias).astype("float64")
    return values * scale, beta - mean * scale


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
