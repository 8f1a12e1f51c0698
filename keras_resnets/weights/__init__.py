"""Weights: where they come from and how they are laid out."""

from keras_resnets.weights.pytorch import load_pytorch_weights, pytorch_parameters

__all__ = ["load_pytorch_weights", "pytorch_parameters", "load_weights", "resolve"]


def resolve(variant, weights, classes):
    if weights is not None:
        raise ValueError(f"weights {weights!r}")
    return None


def load_weights(network, source): ...
