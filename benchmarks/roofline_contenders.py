"""What the processes of `benchmarks.roofline` time: networks, matrix products and copies."""

import functools
import tempfile
from collections.abc import Callable
from typing import Any

BATCH, SIZE = 8, 224
SIDES = (1024, 2048, 3072)  # of square matrices: libraries differ in which they do best
ELEMENTS = 2**26  # copied: 256 MiB, far more than any cache holds
FLOAT = 4  # bytes
TRAIN, INFERENCE, COPY = "train step", "inference", "copy"
OURS, ORT, TF_PEAK, TORCH_PEAK = "keras_resnets", "ours → ONNX Runtime", "TensorFlow", "PyTorch"

Measures = dict[str, Callable[[], Any]]


def product(side: int) -> str:
    """Name of the measure."""
    return f"product of {side}x{side} matrices"


def keras_measures(network: str) -> Measures:
    """A train step, and inference of the fused network as one compiled function with constant weights."""
    import keras
    import tensorflow as tf

    import keras_resnets

    model = keras_resnets.create_model(network, classifier_activation=None, input_shape=(SIZE, SIZE, 3))
    predict = frozen(keras_resnets.fuse(model))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    x, y = images(), tf.range(BATCH)
    return {TRAIN: lambda: model.train_on_batch(x, y), INFERENCE: lambda: predict(x)}


def frozen(model: Any) -> Callable[[Any], Any]:
    """The network as a function with its weights as constants, which oneDNN brings into its own order once."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec((BATCH, SIZE, SIZE, 3), tf.float32)
    )
    return convert_variables_to_constants_v2(traced)


def images() -> Any:
    """A batch of noise."""
    import tensorflow as tf

    return tf.random.stateless_normal((BATCH, SIZE, SIZE, 3), (1, 2))


def onnx_measures(network: str, threads: int) -> Measures:
    """Inference of the exported file in ONNX Runtime."""
    import onnxruntime

    import keras_resnets

    model = keras_resnets.create_model(network, classifier_activation=None, input_shape=(SIZE, SIZE, 3))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{network}.onnx"
        keras_resnets.export(model, path, format="onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images().numpy()}
    return {INFERENCE: lambda: session.run(None, feed)}


def tensorflow_peaks() -> Measures:
    """Matrix products, and an array written from another."""
    import tensorflow as tf

    matrices = {side: tf.random.stateless_normal((side, side), (1, side)) for side in SIDES}
    multiply, source = tf.function(tf.matmul), tf.ones(ELEMENTS)
    negated = tf.function(tf.negative)
    return {
        **{product(side): functools.partial(multiply, m, m) for side, m in matrices.items()},
        COPY: lambda: negated(source),
    }


def torch_peaks() -> Measures:
    """The same in PyTorch, which may have another library for products; the copy is into an array that is there already."""
    import torch

    matrices = {side: torch.randn(side, side) for side in SIDES}
    source, target = torch.ones(ELEMENTS), torch.zeros(ELEMENTS)
    return {
        **{product(side): functools.partial(torch.matmul, m, m) for side, m in matrices.items()},
        COPY: lambda: target.copy_(source),
    }
