"""Residual networks for Keras: every network a table row, every row proved against its public reference."""

# isort: off
from keras_resnets import _startup  # noqa: F401  first, see there

# isort: on
from keras_resnets import layers
from keras_resnets.deeplab import deeplab_v3
from keras_resnets.export import ExportReport, export
from keras_resnets.feature_pyramid import feature_pyramid
from keras_resnets.features import feature_extractor
from keras_resnets.fusion import fuse
from keras_resnets.models import BUILDERS as _BUILDERS
from keras_resnets.preprocessing import decode_predictions, preprocess_input
from keras_resnets.registry import ModelInfo, WeightsEntry, create_model, list_models, model_info
from keras_resnets.transfer import freeze, replace_head
from keras_resnets.weights import load_pytorch_weights, pytorch_parameters

__version__ = "0.1.0"

globals().update(_BUILDERS)
__all__ = [
    "ExportReport",
    "ModelInfo",
    "WeightsEntry",
    "create_model",
    "decode_predictions",
    "deeplab_v3",
    "export",
    "feature_extractor",
    "feature_pyramid",
    "freeze",
    "fuse",
    "layers",
    "list_models",
    "load_pytorch_weights",
    "model_info",
    "preprocess_input",
    "pytorch_parameters",
    "replace_head",
    *sorted(_BUILDERS),
]
