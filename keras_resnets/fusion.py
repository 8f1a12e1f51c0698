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

from keras_resnets.layers import ConvNorm

Config = dict[str, Any]


def fuse(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes the same function at inference, with batch normalisation folded into convolutions.

    Every `ConvNorm`, at any depth, becomes one convolution with a bias; everything else is copied. The copy has the class
    of `model` (and the `variant` and `weights_tag` of a `Network`) and is not compiled. Where nothing is left to fold it is
    an equal copy, so that fusing twice is fusing once. `model` itself is unchanged.

    Args:
        model: functional or sequential, with any input `(batch, height, width, channels)` and under any precision.

    Raises:
        ValueError: `model` has no graph of layers to rebuild (a subclassed or unbuilt model), or two of its variables share
            a path.
    """
    fused = _rebuilt(model, _folded)
    values = dict(_variables(model))
    for layer in model._flatten_layers():
        if isinstance(layer, ConvNorm) and layer.norm is not None:
            kernel, bias = _fold(layer)
            values[layer.conv.kernel.path] = kernel
            values[layer.conv.kernel.path.removesuffix("kernel") + "bias"] = bias
    _assign(fused, values)
    return fused


def as_float32(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes in float32, whatever its precision: what a network trained in mixed precision is
    exported as. Raises ValueError as `fuse` does."""
    copy = _rebuilt(model, _in_float32)
    _assign(copy, _variables(model))
    return copy


def _fold(layer: ConvNorm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of the convolution that equals `layer` before its activation, in float64."""
    norm = layer.norm
    variables = (layer.conv.kernel, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    kernel, gamma, beta, mean, variance = (ops.convert_to_numpy(variable).astype("float64") for variable in variables)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return kernel * scale, beta - mean * scale


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


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Variables by path; random seeds, which inference does not read and whose paths differ in every copy, left out."""
    variables = [v for v in model.variables if not v.path.endswith("seed_generator_state")]
    by_path = {variable.path: variable for variable in variables}
    if len(by_path) < len(variables):
        paths = [variable.path for variable in variables]
        shared = sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(f"model {model.name!r} has several variables with the path {shared[0]!r}: name its layers differently")
    return by_path


def _assign(model: keras.Model, values: dict[str, Any]) -> None:
    for path, variable in _variables(model).items():
        variable.assign(values[path])
