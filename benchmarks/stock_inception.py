"""Inception-v3 from stock Keras layers.

`keras.applications.InceptionV3` differs from the network that torchvision and timm have: its normalisations have no scale, its
average pools do not count the zeros of the padding.
"""

from typing import Any

import keras
from keras import layers

from benchmarks.stock_parts import classified, norm, padded_pool


def unit(x: Any, filters: int, kernel_size: int | tuple[int, int] = 1, strides: int = 1, padding: str = "same") -> Any:
    """Convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False)(x)
    return layers.ReLU()(norm(x, epsilon=1e-3))


def pooled(x: Any, filters: int) -> Any:
    return unit(padded_pool(layers.AveragePooling2D, x, 1), filters)


def module_a(x: Any, filters: int) -> Any:
    """5x5, and two 3x3 in place of another one."""
    branches = [unit(x, 64), unit(unit(x, 48), 64, 5), unit(unit(unit(x, 64), 96, 3), 96, 3), pooled(x, filters)]
    return layers.Concatenate()(branches)


def reduction_b(x: Any) -> Any:
    y = unit(x, 384, 3, 2, "valid")
    z = unit(unit(unit(x, 64), 96, 3), 96, 3, 2, "valid")
    return layers.Concatenate()([y, z, layers.MaxPooling2D(3, 2)(x)])


def module_c(x: Any, width: int) -> Any:
    """7x7 convolutions as 1x7 and 7x1."""
    row, column = (1, 7), (7, 1)
    one = unit(x, 192)
    two = unit(unit(unit(x, width), width, row), 192, column)
    four = unit(unit(unit(unit(unit(x, width), width, column), width, row), width, column), 192, row)
    return layers.Concatenate()([one, two, four, pooled(x, 192)])


def reduction_d(x: Any) -> Any:
    y = unit(unit(x, 192), 320, 3, 2, "valid")
    z = unit(unit(unit(unit(x, 192), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, "valid")
    return layers.Concatenate()([y, z, layers.MaxPooling2D(3, 2)(x)])


def module_e(x: Any) -> Any:
    """3x3 convolutions fanned out into 1x3 and 3x1."""
    one = unit(x, 320)
    y = unit(x, 384)
    y = [unit(y, 384, (1, 3)), unit(y, 384, (3, 1))]
    z = unit(unit(x, 448), 384, 3)
    z = [unit(z, 384, (1, 3)), unit(z, 384, (3, 1))]
    return layers.Concatenate()([one, *y, *z, pooled(x, 192)])


def inception_v3(input_shape: tuple[int, int, int] = (299, 299, 3)) -> keras.Model:
    """Inception-v3 for 1000 classes without the auxiliary classifier, giving logits."""
    image = keras.Input(input_shape, name="image")
    x = unit(unit(unit(image, 32, 3, 2, "valid"), 32, 3, 1, "valid"), 64, 3)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.MaxPooling2D(3, 2)(unit(unit(x, 80), 192, 3, 1, "valid"))
    for filters in (32, 64, 64):
        x = module_a(x, filters)
    x = reduction_b(x)
    for width in (128, 160, 160, 192):
        x = module_c(x, width)
    return classified(image, module_e(module_e(reduction_d(x))))
