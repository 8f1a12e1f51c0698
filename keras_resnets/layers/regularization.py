"""Regularisers that drop at random: stochastic depth, DropBlock, dropout.

All replicas of a TensorFlow distribution strategy hold the same seeds, with which Keras' own layers draw the same mask on each of
them. These draw different ones.
"""

from typing import Any

import keras
from keras import ops

from keras_resnets.layers.base import Shape, register_layer
from keras_resnets.ops import replica, replicas_in_sync


class _PerReplica(keras.random.SeedGenerator):
    """The seeds of `generator`, changed on every replica of a distribution strategy but the first."""

    def __init__(self, generator: keras.random.SeedGenerator) -> None:
        self.generator = generator

    def next(self, ordered: bool = True) -> Any:
        seed = self.generator.next(ordered)
        return seed + ops.cast(ops.stack([replica() * 100_003, 0]), seed.dtype)


def _of_this_replica(generator: keras.random.SeedGenerator) -> keras.random.SeedGenerator:
    return generator if replicas_in_sync() == 1 else _PerReplica(generator)


class _Dropping(keras.layers.Layer):
    """A layer that is the identity at inference and draws random masks in training."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, not {rate}")
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed) if rate else None
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)


@register_layer
class StochasticDepth(_Dropping):
    """Drops a residual branch whole, per sample, in training; the identity at inference.

    Kept samples are divided by the survival probability, so that inference needs no scaling (timm's form; Huang et al.,
    2016, arXiv 1603.09382, drop per batch and scale at test time: the same in expectation). Replicas of a distribution strategy
    drop what one device would drop of the whole batch.

    Args:
        rate: probability that a sample loses the branch, at least 0 and below 1.
        seed: for reproducible masks.
    """

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not training or not self.rate:
            return x
        batch, replicas, ones = ops.shape(x)[0], replicas_in_sync(), (1,) * (len(x.shape) - 1)
        draws = keras.random.uniform((replicas * batch, *ones), seed=self.seed_generator)
        if replicas > 1:
            draws = ops.reshape(draws, (replicas, batch, *ones))[replica()]
        kept = ops.floor(draws + (1 - self.rate))
        return x * ops.cast(kept / (1 - self.rate), x.dtype)


@register_layer
class DropBlock(_Dropping):
    """Drops square regions of a feature map in training (Ghiasi et al., 2018, arXiv 1810.12890).

    Input and output `(batch, height, width, channels)`. The mask is independent per sample and channel, blocks lie whole
    inside the map, and the output is rescaled by the fraction kept: the authors' TPU code. Others share masks, see below.

    Args:
        rate: probability that a pixel is dropped, at least 0 and below 1. The variable `progress`, 1 unless a training
            schedule sets it, multiplies it.
        block_size: side of the dropped square in pixels; a map smaller than that is covered by one block.
        gamma_scale: multiplies the density of block centres.
        shared_channels: one mask for all channels of a sample, as in timm.
        shared_batch: one mask for all samples of a batch, as in ResNeSt.
        rescale_channels: rescale every channel of a mask by the fraction kept of it, instead of all by that of the whole.
        seed: for reproducible masks.
    """

    def __init__(self, rate: float, block_size: int = 7, gamma_scale: float = 1.0, shared_channels: bool = False,
                 shared_batch: bool = False, rescale_channels: bool = False, seed: int | None = None,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(rate, seed, **kwargs)
        self.block_size, self.gamma_scale, self.shared_channels = block_size, gamma_scale, shared_channels
        self.shared_batch, self.rescale_channels = shared_batch, rescale_channels
        self.progress = self.add_weight((), "ones", trainable=False, name="drop_block_progress") if rate else None

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not training or not self.rate:
            return x
        batch, height, width, channels = ops.shape(x)
        block = min(self.block_size, x.shape[1] or self.block_size, x.shape[2] or self.block_size)
        rows, columns = height - block + 1, width - block + 1
        area = ops.cast(height * width, "float32") / ops.cast(rows * columns, "float32")
        density = ops.cast(self.progress, "float32") * self.rate * self.gamma_scale * area / block**2
        shape = (1 if self.shared_batch else batch, rows, columns, 1 if self.shared_channels else channels)
        seeds = ops.cast(keras.random.uniform(shape, seed=_of_this_replica(self.seed_generator)) < density, "float32")
        margin = (block - 1, block - 1)
        dropped = ops.max_pool(ops.pad(seeds, ((0, 0), margin, margin, (0, 0))), block, 1, "valid", "channels_last")
        kept = 1 - dropped
        fraction = ops.mean(kept, axis=(0, 1, 2) if self.rescale_channels else None, keepdims=True)
        return x * ops.cast(kept / ops.maximum(fraction, 1e-6), x.dtype)


@register_layer
class Dropout(keras.layers.Dropout):
    """Keras' dropout, of which the replicas of a distribution strategy draw masks of their own. Shape unchanged."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or not self.rate:
            return inputs
        return keras.random.dropout(inputs, self.rate, self.noise_shape, seed=_of_this_replica(self.seed_generator))
