"""Stochastic depth and DropBlock: what they drop, how much of it, and that the expectation stays."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_resnets import layers


def test_stochastic_depth() -> None:
    x = np.ones((4000, 2, 2, 3), "float32")
    layer = layers.StochasticDepth(0.3, seed=1)
    np.testing.assert_array_equal(layer(x, training=False), x)
    y = keras.ops.convert_to_numpy(layer(x, training=True))
    per_sample = y.reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()  # whole samples
    np.testing.assert_allclose(np.unique(per_sample[:, 0]), [0, 1 / 0.7], rtol=1e-6)
    assert (per_sample[:, 0] == 0).mean() == pytest.approx(0.3, abs=0.03)  # four standard deviations
    assert y.mean() == pytest.approx(1, abs=0.04)
    assert not np.array_equal(keras.ops.convert_to_numpy(layer(x, training=True)), y)  # another draw each time


@pytest.mark.parametrize("shared", [False, True])
def test_drop_block(shared: bool) -> None:
    block, rate = 5, 0.1
    x = np.ones((200, 20, 24, 4), "float32")
    layer = layers.DropBlock(rate, block, shared_channels=shared, seed=1)
    np.testing.assert_array_equal(layer(x, training=False), x)
    y = keras.ops.convert_to_numpy(layer(x, training=True))
    dropped = y == 0
    # Overlapping blocks make it a little less than the rate.
    assert 0.8 * rate < dropped.mean() < 1.02 * rate
    assert y.mean() == pytest.approx(1, abs=1e-3)  # rescaled by the fraction kept
    assert (dropped == dropped[..., :1]).all() == shared
    # Every dropped pixel lies in a block that is dropped whole: opening the mask by a block leaves it as it is.
    opened = np.zeros_like(dropped)
    for i in range(20 - block + 1):
        for j in range(24 - block + 1):
            whole = dropped[:, i : i + block, j : j + block].all((1, 2), keepdims=True)
            opened[:, i : i + block, j : j + block] |= whole
    assert (opened == dropped).all()


def test_drop_block_on_a_map_smaller_than_the_block() -> None:
    y = keras.ops.convert_to_numpy(layers.DropBlock(0.5, 7, seed=1)(np.ones((400, 3, 4, 1), "float32"), training=True))
    assert y.shape == (400, 3, 4, 1)
    assert 0.3 < (y == 0).mean() < 0.7


@pytest.mark.parametrize("make", [layers.StochasticDepth, layers.DropBlock])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_rates(make: Any, rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate must be at least 0 and below 1, not {rate}"):
        make(rate)
