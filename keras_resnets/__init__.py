"""Residual networks for Keras: every network a table row, every row proved against its public reference."""

from keras_resnets import layers
from keras_resnets.models import BUILDERS as _BUILDERS
from keras_resnets.registry import ModelInfo, WeightsEntry, create_model, list_models, model_info
from keras_resnets.weights import load_pytorch_weights, pytorch_parameters

__version__ = "0.1.0"

globals().update(_BUILDERS)
__all__ = [
    "ModelInfo",
    "WeightsEntry",
    "create_model",
    "layers",
    "list_models",
    "load_pytorch_weights",
    "model_info",
    "pytorch_parameters",
    *sorted(_BUILDERS),
]
