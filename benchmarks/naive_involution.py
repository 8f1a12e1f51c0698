"""Involution as it is usually written in TensorFlow: patches, times kernels, summed, and gradients left to the framework."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

GROUP_CHANNELS, REDUCTION = 16, 4


def extracted(x: Any, kernel_size: int) -> Any:
    """The patch around every pixel, `(batch, height, width, taps, channels)`, by TensorFlow's own operation."""
    window = [1, kernel_size, kernel_size, 1]
    patches = tf.image.extract_patches(x, window, strides=[1] * 4, rates=[1] * 4, padding="SAME")
    return tf.reshape(patches, (-1, *x.shape[1:3], kernel_size**2, x.shape[-1]))


def stacked(x: Any, kernel_size: int) -> Any:
    """The same by stacking shifted slices."""
    height, width = x.shape[1:3]
    pad = kernel_size // 2
    x = tf.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = [(row, column) for row in range(kernel_size) for column in range(kernel_size)]
    return tf.stack([x[:, row : row + height, column : column + width] for row, column in taps], axis=3)


class NaiveInvolution(layers.Layer):
    """`(batch, height, width, channels)`, each pixel's patch weighted by a kernel made from the pixel, one per 16 channels.

    Args:
        kernel_size: odd.
        patches: `extracted` or `stacked`.
    """

    def __init__(self, kernel_size: int, patches: Callable[[Any, int], Any]) -> None:
        super().__init__()
        self.kernel_size, self.patches = kernel_size, patches

    def build(self, input_shape: tuple[Any, ...]) -> None:
        channels = input_shape[-1]
        self.groups = channels // GROUP_CHANNELS
        self.kernels = keras.Sequential([
            layers.Conv2D(channels // REDUCTION, 1, use_bias=False),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.ReLU(),
            layers.Conv2D(self.kernel_size**2 * self.groups, 1),
        ])  # fmt: skip
        self.kernels.build(input_shape)

    def call(self, x: Any, training: bool = False) -> Any:
        shape = (-1, *x.shape[1:3], self.kernel_size**2, self.groups)
        kernels = tf.reshape(self.kernels(x, training=training), (*shape, 1))
        patches = tf.reshape(self.patches(x, self.kernel_size), (*shape, GROUP_CHANNELS))
        return tf.reshape(tf.reduce_sum(patches * kernels, axis=3), tf.shape(x))
