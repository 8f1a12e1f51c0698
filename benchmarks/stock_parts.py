"""What the networks in `benchmarks.stock` are made of: stock Keras layers, with the reference's padding."""

from typing import Any

import keras
from keras import layers


def conv(x: Any, filters: int, kernel_size: int, strides: int = 1, groups: int = 1, dilation: int = 1) -> Any:
    """Convolution without bias, padded by half its field on every side."""
    padding = "same"
    if strides > 1 and kernel_size > 1:  # where "same" would pad the other side
        x, padding = layers.ZeroPadding2D(kernel_size // 2)(x), "valid"
    layer = layers.Conv2D(filters, kernel_size, strides, padding, dilation_rate=dilation, groups=groups, use_bias=False)
    return layer(x)


def norm(x: Any, epsilon: float = 1e-5) -> Any:
    """Batch normalisation, as PyTorch's by default."""
    return layers.BatchNormalization(momentum=0.9, epsilon=epsilon)(x)


def conv_norm(x: Any, filters: int, kernel_size: int, strides: int = 1, groups: int = 1, dilation: int = 1) -> Any:
    """Convolution, then batch normalisation."""
    return norm(conv(x, filters, kernel_size, strides, groups, dilation))


def padded_pool(pool: type[keras.layers.Layer], x: Any, strides: int) -> Any:
    """A 3x3 pool with a pixel of zeros on every side; they count in averages."""
    return pool(3, strides)(layers.ZeroPadding2D(1)(x))


def classified(image: Any, x: Any) -> keras.Model:
    """The model from `image` to logits of 1000 classes, by the global average of `x`."""
    return keras.Model(image, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))
