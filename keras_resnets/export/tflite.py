"""TensorFlow Lite (LiteRT): float32, float16 weights, or 8-bit integers throughout."""

import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_resnets.assembly import nearest
from keras_resnets.export.base import Exporter, as_inputs
from keras_resnets.export.saved_model import write_saved_model

# By quantization: the tolerance, and the top-1 agreement that stands in for it.
LIMITS: dict[str | None, tuple[float | None, float]] = {None: (1e-4, 0.0), "float16": (1e-2, 0.0), "int8": (None, 0.95)}
INTERFACES = ("int8", "float32")


@dataclasses.dataclass(kw_only=True)
class TFLiteExporter(Exporter):
    """A file of builtin operators only.

    Attributes:
        quantization: None, "float16" (weights stored so, computed in float32), or "int8" (weights per channel, and
            activations).
        calibration: for int8: real inputs as the model takes them, a hundred or more. Their ranges become the scales; they
            are the images compared if there are no others, and random ones are not.
        interface: for int8: input and output in "int8" (the default) or "float32".
        batch_size: images per call that the file is made for; None for any number.
        tolerance, min_agreement: by default 1e-4 and 0, for float16 1e-2 and 0, for int8 None and 0.95.
    """

    suffix = ".tflite"
    packages = ("tensorflow", "ai_edge_litert")

    quantization: str | None = None
    calibration: np.ndarray | None = None
    interface: str | None = None
    batch_size: int | None = 1
    tolerance: float | None = None
    min_agreement: float | None = None  # type: ignore[assignment]  # None until __post_init__ only

    def __post_init__(self) -> None:
        if self.quantization not in LIMITS:
            names = [name for name in LIMITS if name]
            raise ValueError(f"unknown quantization {self.quantization!r}: {nearest(str(self.quantization), names)}")
        tolerance, min_agreement = LIMITS[self.quantization]
        self.tolerance = tolerance if self.tolerance is None else self.tolerance
        self.min_agreement = min_agreement if self.min_agreement is None else self.min_agreement
        super().__post_init__()
        if self.batch_size is not None and not (isinstance(self.batch_size, int) and self.batch_size > 0):
            raise ValueError(f"batch_size must be a positive whole number, or None for any, not {self.batch_size!r}")
        if self.quantization != "int8":
            for option in ("calibration", "interface"):
                if getattr(self, option) is not None:
                    raise ValueError(f"{option} is for quantization='int8', not for {self.quantization!r}")
            return
        if self.calibration is None:
            raise ValueError(
                "quantization='int8' needs calibration=: a hundred or more real inputs as the model takes them"
            )
        if self.interface not in (None, *INTERFACES):
            raise ValueError(f"unknown interface {self.interface!r}: {nearest(self.interface, INTERFACES)}")
        self.interface = self.interface or "int8"
        self.images = self.calibration if self.images is None else self.images
        self.random_images, self.floating = 0, False

    def prepare(self, model: keras.Model) -> None:
        super().prepare(model)
        if None in model.inputs[0].shape[1:]:
            raise ValueError(f"tflite needs a model of known height and width, not {tuple(model.inputs[0].shape)}: "
                             "build it with an input_shape")  # fmt: skip
        if self.calibration is not None:
            self.calibration = as_inputs(model, "calibration", self.calibration)

    def convert(self, model: keras.Model, path: Path) -> None:
        import tensorflow as tf

        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            write_saved_model(model, Path(folder), self.batch_size)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if self.quantization is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if self.quantization == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if self.calibration is not None:
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.representative_dataset = functools.partial(_batches, self.calibration, self.batch_size or 1)
                converter.inference_input_type = converter.inference_output_type = tf.as_dtype(self.interface)
            with warnings.catch_warnings():
                # The calibrator uses the interpreter that TensorFlow itself has deprecated.
                warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
                path.write_bytes(converter.convert())


def _batches(images: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
    """`images` in batches of exactly `size`, the last one filled up by repetition."""
    for start in range(0, len(images), size):
        yield {"image": np.resize(images[start : start + size], (size, *images.shape[1:]))}
