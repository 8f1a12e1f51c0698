"""Random numbers that are a function of a seed and of what they are for."""

import zlib

import tensorflow as tf


def seed_for(purpose: str, seed: tf.Tensor) -> tf.Tensor:
    """A seed of its own for `purpose`: draws for different purposes are independent, whatever else is drawn or not.

    Args:
        purpose: a name.
        seed: two integers.

    Returns:
        Two integers.
    """
    mark = zlib.crc32(purpose.encode()) & 0x7FFFFFFF
    seed = tf.convert_to_tensor(seed)
    return seed + tf.constant([mark, mark ^ 0x5BD1E995], seed.dtype)  # all that a counter-based generator needs
