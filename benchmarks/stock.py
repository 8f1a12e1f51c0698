"""ResNet-50 and ResNeXt-50 as a Keras user would write them from stock layers: what the package is compared with."""

from typing import Any

import keras
from keras import layers

DEPTHS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)


def conv_norm(x: Any, filters: int, kernel_size: int, strides: int = 1, groups: int = 1) -> Any:
    """Convolution with the reference's symmetric padding, then batch normalisation."""
    padding = "same"
    if strides > 1 and kernel_size > 1:  # where "same" would pad the other side
        x, padding = layers.ZeroPadding2D(kernel_size // 2)(x), "valid"
    x = layers.Conv2D(filters, kernel_size, strides, padding, groups=groups, use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def bottleneck(x: Any, filters: int, width: int, strides: int, groups: int) -> Any:
    """1x1 → 3x3 → 1x1, added to a shortcut, which is a projection where the shape changes."""
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = conv_norm(x, filters, 1, strides)
    x = layers.ReLU()(conv_norm(x, width, 1))
    x = layers.ReLU()(conv_norm(x, width, 3, strides, groups))
    return layers.ReLU()(conv_norm(x, filters, 1) + shortcut)


def resnet50(
    input_shape: tuple[int, int, int] = (224, 224, 3), cardinality: int = 1, base_width: int = 64
) -> keras.Model:
    """ResNet-50, or with a cardinality of 32 and a base width of 4 ResNeXt-50 32x4d, for 1000 classes, giving logits."""
    image = keras.Input(input_shape, name="image")
    x = layers.ReLU()(conv_norm(image, 64, 7, 2))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, (depth, base) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        for block in range(depth):
            strides = 2 if stage > 0 and block == 0 else 1
            x = bottleneck(x, 4 * base, base * base_width // 64 * cardinality, strides, cardinality)
    return keras.Model(image, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))
