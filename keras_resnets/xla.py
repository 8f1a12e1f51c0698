"""Where XLA compiles: on JAX, and on TensorFlow what is asked for."""

import functools
from collections.abc import Callable
from typing import Any

import keras

_BACKEND = keras.backend.backend()
if _BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util
elif _BACKEND == "jax":
    import jax


def compiles_here() -> bool:
    """Whether XLA compiles what is being traced."""
    if _BACKEND != "tensorflow":
        return _BACKEND == "jax"
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return graph is not None and control_flow_util.GraphOrParentsInXlaContext(graph)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, compiled by XLA where that is known to be faster: elementwise operations share one pass.

    That is on JAX, and on TensorFlow without an accelerator if the tensors' sizes are known but for the batch; each new shape
    is compiled when it first occurs, in some tenths of a second. Elsewhere `function` runs as it is, as it does where XLA
    compiles everything around it.
    """
    if _BACKEND == "jax":
        return jax.jit(function)
    if _BACKEND != "tensorflow":
        return function

    @functools.cache
    def by_xla(*kinds: tuple[tuple[int, ...], Any]) -> Callable[..., Any]:
        """One trace for any batch."""
        signature = [tf.TensorSpec((None, *shape), dtype) for shape, dtype in kinds]
        return tf.function(function, signature, jit_compile=True, autograph=False)

    def call(*tensors: Any) -> Any:
        known = all(None not in tensor.shape[1:] for tensor in tensors)
        if not known or compiles_here() or not _compiles_on_cpu():
            return function(*tensors)
        return by_xla(*((tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors))(*tensors)

    return call


def has_accelerator() -> bool:
    """Whether TensorFlow sees a GPU or a TPU."""
    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


@functools.cache
def _compiles_on_cpu() -> bool:
    """Whether there is a CPU alone and TensorFlow was built with XLA for it: tried once."""
    if has_accelerator():
        return False
    with tf.init_scope():
        try:
            tf.function(tf.negative, jit_compile=True)(tf.ones(()))
        except tf.errors.OpError:
            return False
    return True
