"""Networks as a Keras user would write them from stock layers: what the package is compared with."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

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


def split_attention(x: Any, width: int, radix: int, cardinality: int) -> Any:
    """A 3x3 convolution into `radix` splits of `width` channels, summed with weights from their pooled sum."""
    x = layers.ReLU()(conv_norm(x, radix * width, 3, groups=radix * cardinality))
    splits = layers.Reshape((*x.shape[1:3], radix, width))(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(ops.sum(splits, axis=3))
    gate = layers.Conv2D(max(radix * width // 4, 32), 1, groups=cardinality)(pooled)
    gate = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(gate))
    gate = layers.Conv2D(radix * width, 1, groups=cardinality)(gate)
    gate = layers.Softmax(axis=2)(layers.Reshape((cardinality, radix, width // cardinality))(gate))
    return ops.sum(splits * layers.Reshape((1, 1, radix, width))(layers.Permute((2, 1, 3))(gate)), axis=3)


def resnest_bottleneck(
    x: Any, filters: int, width: int, strides: int, radix: int, cardinality: int, pool_first: bool
) -> Any:
    """1x1 → split attention → 1x1; both sides are subsampled by average pools."""
    shortcut = x
    if strides > 1:
        shortcut = layers.AveragePooling2D(strides, padding="same")(shortcut)
    if x.shape[-1] != filters:
        shortcut = conv_norm(shortcut, filters, 1)
    x = layers.ReLU()(conv_norm(x, width, 1))
    if strides > 1 and pool_first:
        x = layers.AveragePooling2D(3, strides)(layers.ZeroPadding2D(1)(x))
    x = split_attention(x, width, radix, cardinality)
    if strides > 1 and not pool_first:
        x = layers.AveragePooling2D(3, strides)(layers.ZeroPadding2D(1)(x))
    return layers.ReLU()(conv_norm(x, filters, 1) + shortcut)


def resnest50(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    radix: int = 2,
    cardinality: int = 1,
    base_width: int = 64,
    pool_first: bool = False,
) -> keras.Model:
    """ResNeSt-50, by default 2s1x64d, for 1000 classes, giving logits."""
    image = x = keras.Input(input_shape, name="image")
    for filters, strides in ((32, 2), (32, 1), (64, 1)):
        x = layers.ReLU()(conv_norm(x, filters, 3, strides))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, (depth, base) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        width = base * base_width // 64 * cardinality
        for block in range(depth):
            strides = 2 if stage > 0 and block == 0 else 1
            x = resnest_bottleneck(x, 4 * base, width, strides, radix, cardinality, pool_first)
    return keras.Model(image, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))


# By the names of `keras_resnets.create_model`.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "resnet50": resnet50,
    "resnext50_32x4d": functools.partial(resnet50, cardinality=32, base_width=4),
    "resnest50d": resnest50,
    "resnest50d_4s2x40d": functools.partial(resnest50, radix=4, cardinality=2, base_width=40, pool_first=True),
}
