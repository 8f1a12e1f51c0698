"""Dual path networks from stock Keras layers."""

from typing import Any

import keras
from keras import layers

from benchmarks.stock_parts import classified, conv, norm, padded_pool


def norm_relu(x: Any) -> Any:
    return layers.ReLU()(norm(x, epsilon=1e-3))


def dual_path_block(x: Any, filters: int, growth: int, width: int, groups: int, strides: int, first: bool) -> Any:
    """1x1 → grouped 3x3 → 1x1, `filters` channels of it added to the first ones of `x`, the others appended."""
    y = conv(norm_relu(x), width, 1)
    y = conv(norm_relu(y), width, 3, strides, groups)
    y = conv(norm_relu(y), filters + growth, 1)
    if first:
        x = conv(norm_relu(x), filters + 2 * growth, 1, strides)
    return layers.Concatenate()([x[..., :filters] + y[..., :filters], x[..., filters:], y[..., filters:]])


def dpn(
    input_shape: tuple[int, int, int] = (224, 224, 3), *, depths: tuple[int, ...], growth: tuple[int, ...],
    stem: tuple[int, int], width: int, filters: int, cardinality: int = 32,
) -> keras.Model:  # fmt: skip
    """A stem of `(filters, kernel size)` and stages that double `filters` and `width`."""
    image = keras.Input(input_shape, name="image")
    x = padded_pool(layers.MaxPooling2D, norm_relu(conv(image, *stem, strides=2)), 2)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            strides = 2 if stage > 0 and block == 0 else 1
            x = dual_path_block(
                x, filters * 2**stage, growth[stage], width * 2**stage, cardinality, strides, block == 0
            )
    return classified(image, norm_relu(x))
