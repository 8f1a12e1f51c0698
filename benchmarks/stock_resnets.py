"""ResNet-50 and its relatives from stock Keras layers: they differ in the stem, the shortcut and the residual branch."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from benchmarks.stock_parts import classified, conv, conv_norm, norm, padded_pool

# From a map, the stage's base width (a quarter of the branch's filters), the strides and whether the block is a stage's first.
Branch = Callable[[Any, int, int, bool], Any]


def bottleneck(
    x: Any, base: int, strides: int, _first: bool, cardinality: int = 1, base_width: int = 64, gated: bool = False
) -> Any:
    """1x1 → 3x3 → 1x1, `gated` by squeeze-excitation."""
    width = base * base_width // 64 * cardinality
    x = layers.ReLU()(conv_norm(x, width, 1))
    x = layers.ReLU()(conv_norm(x, width, 3, strides, cardinality))
    x = conv_norm(x, 4 * base, 1)
    return squeeze_excitation(x) if gated else x


def squeeze_excitation(x: Any) -> Any:
    """`x` times a gate per channel."""
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(x.shape[-1] // 16, 1, activation="relu")(gate)
    return x * layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)


def selective_kernel(x: Any, base: int, strides: int, _first: bool) -> Any:
    """1x1 → two 3x3, one dilated, each of half of the channels, mixed by attention → 1x1."""
    x = layers.ReLU()(conv_norm(x, base, 1))
    maps = []
    for dilation, part in enumerate(ops.split(x, 2, axis=-1), start=1):
        if dilation > 1 and strides > 1:  # which Keras does not take together
            part = norm(conv(part, base, 3, dilation=dilation)[:, ::strides, ::strides])
        else:
            part = conv_norm(part, base, 3, strides, dilation=dilation)
        maps.append(layers.ReLU()(part))
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(maps[0] + maps[1])
    reduced = max(base // 16 // 8 * 8, 8)
    gate = layers.ReLU()(conv_norm(pooled, reduced, 1))
    gate = layers.Softmax(axis=1)(layers.Reshape((2, 1, base))(conv(gate, 2 * base, 1)))
    return conv_norm(maps[0] * gate[:, :1] + maps[1] * gate[:, 1:], 4 * base, 1)


def multi_scale(x: Any, base: int, strides: int, first: bool, base_width: int = 26, scale: int = 4) -> Any:
    """1x1 → 3x3 on chunks, each beginning with the one before it except in a stage's first block → 1x1."""
    width = base * base_width // 64
    x = layers.ReLU()(conv_norm(x, width * scale, 1))
    *chunks, last = ops.split(x, scale, axis=-1)
    outputs: list[Any] = []
    for chunk in chunks:
        if outputs and not first:
            chunk = chunk + outputs[-1]
        outputs.append(layers.ReLU()(conv_norm(chunk, width, 3, strides)))
    outputs.append(padded_pool(layers.AveragePooling2D, last, strides) if first else last)
    return conv_norm(layers.Concatenate()(outputs), 4 * base, 1)


def split_attention(x: Any, width: int, radix: int, cardinality: int) -> Any:
    """A 3x3 convolution into `radix` splits of `width` channels, summed with weights from their pooled sum."""
    x = layers.ReLU()(conv_norm(x, radix * width, 3, groups=radix * cardinality))
    splits = layers.Reshape((*x.shape[1:3], radix, width))(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(ops.sum(splits, axis=3))
    gate = layers.Conv2D(max(radix * width // 4, 32), 1, groups=cardinality)(pooled)
    gate = layers.Conv2D(radix * width, 1, groups=cardinality)(layers.ReLU()(norm(gate)))
    gate = layers.Softmax(axis=2)(layers.Reshape((cardinality, radix, width // cardinality))(gate))
    return ops.sum(splits * layers.Reshape((1, 1, radix, width))(layers.Permute((2, 1, 3))(gate)), axis=3)


def split_attention_bottleneck(
    x: Any, base: int, strides: int, _first: bool, radix: int = 2, cardinality: int = 1, base_width: int = 64,
    pool_first: bool = False,
) -> Any:  # fmt: skip
    """1x1 → split attention, with a pool before or after it → 1x1."""
    width = base * base_width // 64 * cardinality
    x = layers.ReLU()(conv_norm(x, width, 1))
    if strides > 1 and pool_first:
        x = padded_pool(layers.AveragePooling2D, x, strides)
    x = split_attention(x, width, radix, cardinality)
    if strides > 1 and not pool_first:
        x = padded_pool(layers.AveragePooling2D, x, strides)
    return conv_norm(x, 4 * base, 1)


def shortcut(x: Any, filters: int, strides: int, pooled: bool) -> Any:
    """A projection where the shape changes, with the stride in an average pool if `pooled`."""
    if strides > 1 and pooled:
        x, strides = layers.AveragePooling2D(strides, padding="same")(x), 1
    return conv_norm(x, filters, 1, strides) if strides > 1 or x.shape[-1] != filters else x


def resnet50(
    input_shape: tuple[int, int, int] = (224, 224, 3), branch: Branch = bottleneck, stem: tuple[int, ...] = (),
    pooled: bool = False, depths: tuple[int, ...] = (3, 4, 6, 3),
) -> keras.Model:  # fmt: skip
    """A stem, a 7x7 convolution or three 3x3, and stages of blocks: a `branch` beside a shortcut."""
    image = x = keras.Input(input_shape, name="image")
    for index, filters in enumerate(stem or (64,)):
        x = layers.ReLU()(conv_norm(x, filters, 3 if stem else 7, 2 if index == 0 else 1))
    x = padded_pool(layers.MaxPooling2D, x, 2)
    for stage, (depth, base) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
        for block in range(depth):
            strides = 2 if stage > 0 and block == 0 else 1
            y = branch(x, base, strides, block == 0)
            x = layers.ReLU()(y + shortcut(x, 4 * base, strides, pooled))
    return classified(image, x)


_resnext = functools.partial(bottleneck, cardinality=32, base_width=4)
_se_resnext = functools.partial(_resnext, gated=True)
_resnest_fast = functools.partial(split_attention_bottleneck, radix=4, cardinality=2, base_width=40, pool_first=True)
_deep = functools.partial(resnet50, stem=(32, 32, 64), pooled=True)

# By the names of `keras_resnets.create_model`.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "resnet50": resnet50,
    "resnet50d": _deep,
    "resnext50_32x4d": functools.partial(resnet50, branch=_resnext),
    "seresnext50_32x4d": functools.partial(resnet50, branch=_se_resnext),
    "skresnet50": functools.partial(resnet50, branch=selective_kernel),
    "resnest50d": functools.partial(_deep, branch=split_attention_bottleneck),
    "resnest50d_4s2x40d": functools.partial(_deep, branch=_resnest_fast),
    "res2net50_26w_4s": functools.partial(resnet50, branch=multi_scale),
}
