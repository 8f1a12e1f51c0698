"""ONNX through tf2onnx, for ONNX Runtime and whatever else reads it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import nearest
from keras_resnets.export.base import Arrays, Exporter, Probe, as_inputs
from keras_resnets.export.description import Description, describe
from keras_resnets.export.tflite_calibration import check_calibration
from keras_resnets.preprocessing import Preprocess

OPSETS = range(13, 24)
LAYOUTS = ("nhwc", "nchw")
QUANTIZATIONS = ("int8",)


@dataclasses.dataclass(kw_only=True)
class OnnxExporter(Exporter):
    """A file with the input `image`, for any batch size, whose convolutions work channels first, as ONNX wants them.

    The file's metadata say what it is: network, weights, licence, input size, normalisation and names of the classes.

    Attributes:
        opset: version of ONNX's operators, 13 to 23.
        layout: of the input: "nhwc" `(batch, height, width, channels)`, which costs one Transpose, or "nchw" `(batch,
            channels, height, width)`. Outputs are the model's in either.
        quantization: None; or "int8": weights per channel and activations in 8 bits, by ONNX Runtime's static quantisation.
            Input and output stay floats.
        calibration: for int8: real inputs as the model takes them, `(images, height, width, channels)` in either layout, a
            hundred or more, 16 at least. Their ranges become the scales; they are the images compared if there are no others.
        labels: a name for each class, "imagenet" or "digits"; by default those of a network's own weights.
        preprocessing: how images become inputs; by default that of a network's own weights.
        tolerance, min_agreement: by default 1e-5 and 0, for int8 None and 0.95.
    """

    suffix = ".onnx"
    packages = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")

    opset: int = 17
    layout: str = "nhwc"
    quantization: str | None = None
    calibration: np.ndarray | None = None
    labels: str | Sequence[str] | None = None
    preprocessing: Preprocess | None = None
    tolerance: float | None = None
    min_agreement: float | None = None  # type: ignore[assignment]  # None until __post_init__ only

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ValueError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, not {self.opset!r}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"unknown layout {self.layout!r}: {nearest(str(self.layout), LAYOUTS)}")
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ValueError(f"unknown quantization {self.quantization!r} for onnx: "
                             + nearest(str(self.quantization), QUANTIZATIONS))  # fmt: skip
        integer = self.quantization == "int8"
        if integer and self.calibration is None:
            raise ValueError(
                "quantization='int8' needs calibration=: a hundred or more real inputs as the model takes them"
            )
        if self.calibration is not None and not integer:
            raise ValueError(f"calibration is for quantization='int8', not for {self.quantization!r}")
        if self.tolerance is None and not integer:
            self.tolerance = 1e-5
        if self.min_agreement is None:
            self.min_agreement = 0.95 if integer else 0.0
        super().__post_init__()
        if integer:
            self.images = self.calibration if self.images is None else self.images
            self.random_images, self.floating = 0, False

    def prepare(self, model: keras.Model) -> keras.Model:
        model = super().prepare(model)
        if self.layout == "nchw" and len(model.inputs[0].shape) != 4:
            raise ValueError(
                f"layout 'nchw' needs an input (batch, height, width, channels), not {model.inputs[0].shape}"
            )
        description = describe(model, self.labels, self.preprocessing)
        if self.calibration is not None:
            self.calibration = as_inputs(model, "calibration", self.calibration)
            known = self.preprocessing is not None or description.weights_tag is not None
            check_calibration(self.calibration, description.preprocessing if known else None)
        return model

    def convert(self, model: keras.Model, path: Path) -> None:
        import onnx

        from keras_resnets.export.onnx_convert import converted

        proto = converted(model, self.opset, self.layout == "nchw").model()
        if self.calibration is not None:
            from keras_resnets.export.onnx_quantize import quantized

            proto = quantized(proto, self._turned(self.calibration), path.parent)
        proto.producer_name = "keras_resnets"
        onnx.helper.set_model_props(proto, metadata(describe(model, self.labels, self.preprocessing), self.layout))
        onnx.save(proto, path)

    def probes(self, model: keras.Model, inputs: np.ndarray, reference: Arrays) -> list[Probe]:
        return [Probe("predict", {"image": self._turned(inputs)}, reference)]

    def _turned(self, images: np.ndarray) -> np.ndarray:
        """`images` in the file's layout."""
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if self.layout == "nchw" else images


def metadata(description: Description, layout: str) -> dict[str, str]:
    """What an ONNX file says about itself, by key; numbers and lists as JSON.

    Keys: `network`, `weights`, `licence`, `layout`, `input_size` `[height, width]` (null for any), `mean` and `std` per
    channel of pixels scaled to 0..1, `crop`, `interpolation`, `labels`. Absent where nothing is known.
    """
    known: dict[str, Any] = {"network": description.network, "weights": description.weights_tag, "licence": description.licence,
                             "layout": layout, "input_size": description.input_shape[:2]}  # fmt: skip
    if description.preprocessing is not None:
        known |= dataclasses.asdict(description.preprocessing)
    known["labels"] = description.labels
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in known.items()
        if value is not None
    }
