"""Who runs the files of `benchmarks.inference`: a function per runtime, for the worker of a contender.

Each returns a call for each size of batch, and raises RuntimeError if the runtime does not give the expected logits. The images are
an array when the clock starts, and the logits one when it stops.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.inference_files import BATCHES

Measures = dict[str, Callable[[], Any]]
Predict = Callable[[np.ndarray], np.ndarray]


def name_of(batch: int) -> str:
    """The measure's name."""
    return "one image" if batch == 1 else f"{batch} images"


def measures(predict: Callable[[int], Predict], answers: str, tolerance: float | None, batches: Sequence[int] = BATCHES,
             channels_first: bool = False) -> Measures:  # fmt: skip
    """A call for each size of batch, checked.

    Args:
        predict: from the size of a batch to a function of images.
        answers: file of images and their logits.
        tolerance: largest difference relative to the largest logit; None where other logits are in order.
        batches: how many images.
        channels_first: the runtime takes `(batch, channels, height, width)`.
    """
    known = np.load(answers)
    calls: Measures = {}
    for batch in batches:
        images, logits = known["images"][:batch], known["logits"][:batch]
        if channels_first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        function = predict(batch)
        difference = np.abs(function(images) - logits).max() / np.abs(logits).max()
        if tolerance is not None and not difference <= tolerance:
            raise RuntimeError(f"batch {batch}: logits differ by {difference:.1e}, allowed are {tolerance:.0e}")
        calls[name_of(batch)] = functools.partial(function, images)
    return calls


def keras_predict(network: str, answers: str, fused: bool) -> Measures:
    """Keras' `predict`."""
    import keras_resnets as kr
    from benchmarks.inference_files import network_of_ours

    model = network_of_ours(network)
    model = kr.fuse(model) if fused else model
    return measures(lambda batch: lambda images: model.predict(images, verbose=0), answers, 1e-4)


def saved_model(path: str, answers: str, tolerance: float | None = 1e-4) -> Measures:
    """TensorFlow's loader; the signature "predict", or what stands in its place."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    function = loaded.signatures.get("predict") or loaded.signatures["serving_default"]
    (name,) = function.structured_input_signature[1]

    def predict(images: np.ndarray) -> np.ndarray:
        (output,) = function(**{name: tf.constant(images)}).values()
        return output.numpy()

    return measures(lambda batch: predict, answers, tolerance)


def tflite(
    path: str, answers: str, threads: int, tolerance: float | None = 1e-3, batches: Sequence[int] = BATCHES
) -> Measures:
    """LiteRT with its default delegate, XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    def predict(batch: int) -> Predict:
        interpreter = Interpreter(path, num_threads=threads)
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(source["index"], [batch, *source["shape"][1:]])
        interpreter.allocate_tensors()

        def run(images: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(source["index"], images.astype(source["dtype"], copy=False))
            interpreter.invoke()
            return interpreter.get_tensor(target["index"])

        return run

    return measures(predict, answers, tolerance, batches)


def onnxruntime(path: str, answers: str, threads: int, channels_first: bool = False, tolerance: float | None = 1e-4,
                batches: Sequence[int] = BATCHES) -> Measures:  # fmt: skip
    """ONNX Runtime with its CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return measures(
        lambda batch: lambda images: session.run(None, {source.name: images})[0],
        answers,
        tolerance,
        batches,
        channels_first,
    )


def openvino(
    path: str, answers: str, threads: int, channels_first: bool = False, precision: str | None = "f32"
) -> Measures:
    """OpenVINO's CPU plugin, compiled for each size of batch, for one call at a time; its own choice of a precision is bfloat16
    where the processor has it."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision

    def predict(batch: int) -> Predict:
        model = core.read_model(path)
        model.reshape([batch, *list(model.input().partial_shape)[1:]])
        compiled = core.compile_model(model, "CPU", settings)
        return lambda images: compiled(images)[0]

    return measures(predict, answers, 1e-4 if precision == "f32" else None, BATCHES, channels_first)


def timm(network: str, answers: str, threads: int, channels_last: bool, compiled: bool = False) -> Measures:
    """timm's network in PyTorch, eager or by `torch.compile`."""
    import torch

    from benchmarks.inference_files import timm_network

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = timm_network(network).to(memory_format=layout)
    if compiled:
        model = torch.compile(model)

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images).contiguous(memory_format=layout)).numpy()

    return measures(lambda batch: predict, answers, 1e-4, BATCHES, channels_first=True)
