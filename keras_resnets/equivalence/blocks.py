"""Blocks of one family as blocks of another."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_resnets.layers.merge_and_run import AveragedIdentityBlock, MergeAndRun
from keras_resnets.models.densenet import DenseLayer
from keras_resnets.models.dpn import DualPathBlock
from keras_resnets.models.resnetv2 import PreActBlock


def carry_dual_path(source: DualPathBlock, residual: PreActBlock, dense: PreActBlock) -> None:
    """Carries the weights of a dual path block to two pre-activated bottlenecks, its paths (arXiv 1707.01629, section 3.2).

    `source(x)` is `[residual(x), old, dense(x)]` then, with `old` the dense channels of `x`: the paths share all but the last
    convolution. A residual unit's shortcut passes on the residual channels of `x`, the dense unit's none.

    Args:
        source: without a projection and with one group.
        residual, dense: `PreActBlock`s of `source.filters` and `source.growth` channels, as wide as `source`.

    Raises:
        ValueError: the source has a projection, or shapes differ.
    """
    if source.projection:
        raise ValueError(f"source {source.name!r} must not have a projection")
    last = np.concatenate([keras.ops.convert_to_numpy(conv.kernel) for conv in source.last], axis=-1)
    kernels = np.split(last, [source.filters], axis=-1)
    shared = [weight for layer in source.branch for weight in layer.get_weights()]
    for path, kernel, channels in ((residual, kernels[0], source.filters), (dense, kernels[1], 0)):
        passed_on = np.zeros_like(path.shortcut[0].kernel)
        passed_on[0, 0, range(channels), range(channels)] = 1
        _assign(path.branch, [*shared, kernel])
        _assign(path.shortcut, [passed_on])


def carry_shared_dense_layer(source: DenseLayer, following: DenseLayer, target: PreActBlock) -> None:
    """Carries a dense layer, and what the following one does with its maps, to a residual unit (arXiv 1707.01629, section 3.1).

    Let the layers of a dense block share their first normalisation and 1x1: for every map the same ones wherever it is read.
    The 1x1's output r is a sum over maps then, to which each layer adds one term: as a residual unit does. Afterwards r in
    `following` is `target(r in source)`. The layer's 3x3 becomes the unit's first, in whose output as many channels are
    used as the layer makes maps; their part of the shared 1x1 becomes the centre of the unit's second 3x3.

    Args:
        source, following: neighbours in a dense block, with bottlenecks.
        target: a basic `PreActBlock` of as many channels as their 1x1 has.

    Raises:
        ValueError: the two layers do not share their first normalisation and 1x1, or have none; or shapes differ.
    """
    (bottleneck, *own), (_, *theirs) = (_first_half(layer) for layer in (source, following))
    before, growth, width = len(own[0]), source.conv.filters, bottleneck.conv.filters
    if not all(np.array_equal(one, other[:before]) for one, other in zip(own, theirs, strict=True)):
        raise ValueError(
            f"layers {source.name!r} and {following.name!r} do not share their first normalisation and 1x1"
        )

    def widened(array: np.ndarray, rest: float) -> np.ndarray:
        """Values for the unused channels."""
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, width - growth)], constant_values=rest)

    *norm, kernel = (array[before:] for array in theirs)
    second = np.zeros((3, 3, width, width), kernel.dtype)
    second[1, 1, :growth] = kernel
    first = keras.ops.convert_to_numpy(source.conv.kernel)
    unused = (1, 0, 0, 1)  # scale, offset, mean, variance
    _assign(target.branch, [
        *bottleneck.norm.get_weights(), widened(first, 0), *map(widened, norm, unused), second,
    ])  # fmt: skip


def _first_half(layer: DenseLayer) -> tuple[Any, ...]:
    """The bottleneck of a dense layer; of its first normalisation and 1x1, the values by input channel."""
    if layer.bottleneck is None:
        raise ValueError(f"layer {layer.name!r} must have a bottleneck")
    return (
        layer.bottleneck,
        *layer.norm1.get_weights(),
        keras.ops.convert_to_numpy(layer.bottleneck.conv.kernel)[0, 0],
    )


def carry_merge_and_run(source: MergeAndRun, target: AveragedIdentityBlock) -> None:
    """Carries the weights of a merge-and-run block to the residual block that it is (arXiv 1611.07718).

    With streams a and b, `target([a, b])`, the channels one after the other, is `source(a, b)`: the streams' convolutions are
    the two groups of one.

    Args:
        source: with its merge, and without joining the streams.
        target: of the same `filters`, `width` and `strides`.

    Raises:
        ValueError: the source does not merge or joins, or shapes differ.
    """
    if source.join or not source.lines:
        raise ValueError(f"source {source.name!r} must merge its streams and give two: merge=True, join=False")
    pairs = [*zip(source.first, source.second, strict=True), *zip(*source.lines, strict=True)]
    arrays = [
        np.concatenate(weights, axis=-1)
        for first, second in pairs
        for weights in zip(first.get_weights(), second.get_weights(), strict=True)
    ]
    _assign([*target.branch, *target.shortcut[:-1]], arrays)


def _assign(layers: Iterable[keras.layers.Layer], arrays: list[np.ndarray]) -> None:
    """Gives the weights of `layers`, in their order, the values of `arrays`; ValueError if shapes differ."""
    weights = [weight for layer in layers for weight in layer.weights]
    given, wanted = [array.shape for array in arrays], [tuple(weight.shape) for weight in weights]
    if given != wanted:
        raise ValueError(f"source and target differ in shape: {given} there, {wanted} here")
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array)
