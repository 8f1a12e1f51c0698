"""Reusable layers. Each is registered as `keras_resnets>Name` and round-trips through `.keras`."""

from keras_resnets.layers.attention import EfficientChannelAttention, SelectiveKernel, SqueezeExcitation
from keras_resnets.layers.base import Composite
from keras_resnets.layers.conv import Conv2D, ConvNorm
from keras_resnets.layers.dynamic import DualComplementaryDynamicConvolution
from keras_resnets.layers.inception import InceptionModule
from keras_resnets.layers.involution import Involution
from keras_resnets.layers.norm import BatchNorm, NormAct, ScaleShift
from keras_resnets.layers.pooling import AvgPool2D, BlurPool2D, MaxPool2D
from keras_resnets.layers.regularization import DropBlock, Dropout, StochasticDepth
from keras_resnets.layers.split_attention import SplitAttention

__all__ = [
    "AvgPool2D",
    "BatchNorm",
    "BlurPool2D",
    "Composite",
    "Conv2D",
    "ConvNorm",
    "DropBlock",
    "Dropout",
    "DualComplementaryDynamicConvolution",
    "EfficientChannelAttention",
    "InceptionModule",
    "Involution",
    "MaxPool2D",
    "NormAct",
    "ScaleShift",
    "SelectiveKernel",
    "SplitAttention",
    "SqueezeExcitation",
    "StochasticDepth",
]
