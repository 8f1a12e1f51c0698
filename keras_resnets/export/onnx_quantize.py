"""ONNX in 8-bit integers, by the static quantisation of ONNX Runtime."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

# What is computed in 8 bits. Gates and the softmax are a few numbers per image, on which the accuracy hangs: they stay floats.
_QUANTIZED = (
    "Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Relu", "Clip", "Concat", "Split", "Slice", "Pad", "MaxPool", "AveragePool",
    "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Resize",
)  # fmt: skip
_BATCH = 8


class _Batches(CalibrationDataReader):
    """Calibration images a few at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(np.split(images, range(_BATCH, len(images), _BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantized(model: onnx.ModelProto, calibration: np.ndarray, folder: Path) -> onnx.ModelProto:
    """`model` with weights and activations in 8 bits and its interface unchanged, in QuantizeLinear/DequantizeLinear form.

    Weights are symmetric per output channel, activations asymmetric (int8 times uint8, as x86-64 with VNNI and Arm multiply).

    Args:
        model: with the input "image".
        calibration: real inputs; the smallest and largest activations that they cause become the ranges.
        folder: for files in between.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary, _quiet():
        path = Path(temporary, "int8.onnx")
        quantize_static(
            model,
            path,
            _Batches(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to preprocess a model that was, and progress of the calibration."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
