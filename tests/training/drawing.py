"""Many random results at once, for tests of their distribution."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def draws(function: Callable[[tf.Tensor], Any], count: int, run: int = 0, parallel: int = 1) -> Any:
    """What `function` gives for the seeds (`run`, 0), (`run`, 1) …: its results, one after the other, as arrays."""

    def one(number: tf.Tensor) -> Any:
        return function(tf.stack([run, tf.cast(number, tf.int32)]))

    batches = tf.data.Dataset.range(count).map(one, num_parallel_calls=parallel, deterministic=True).batch(count)
    return next(batches.as_numpy_iterator())


def assert_share(found: np.ndarray, share: float) -> None:
    """That `found`, of independent draws, is true as often as has to be expected: within 4.5 standard deviations."""
    deviation = np.sqrt(share * (1 - share) / found.size)
    assert abs(found.mean() - share) <= 4.5 * deviation, (found.mean(), share, deviation)


def assert_uncorrelated(one: np.ndarray, other: np.ndarray) -> None:
    assert abs(np.corrcoef(one, other)[0, 1]) <= 4.5 / np.sqrt(len(one))
