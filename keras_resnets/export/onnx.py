"""ONNX through tf2onnx, for ONNX Runtime and whatever else reads it."""

import dataclasses
from pathlib import Path

import keras

from keras_resnets.export.base import Exporter, inference, signature

OPSETS = range(13, 19)


@dataclasses.dataclass(kw_only=True)
class OnnxExporter(Exporter):
    """A file with the input `image` `(batch, height, width, channels)`, of any batch size.

    Attributes:
        opset: version of ONNX's operators, 13 to 18. 17 is the last in which tf2onnx keeps global pooling one operator.
    """

    suffix = ".onnx"
    packages = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")

    opset: int = 17

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opset not in OPSETS:
            raise ValueError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, not {self.opset!r}")

    def convert(self, model: keras.Model, path: Path) -> None:
        import onnx
        import tensorflow as tf
        import tf2onnx

        function = tf.function(inference(model), autograph=False)
        proto, _ = tf2onnx.convert.from_function(function, signature(model), opset=self.opset)
        for tensor in (*proto.graph.input, *proto.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.save(proto, path)
