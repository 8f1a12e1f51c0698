"""TensorFlow Lite (LiteRT): float32, float16 weights, 8-bit weights, or integers throughout."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnets import ops
from keras_resnets.assembly import nearest
from keras_resnets.export.base import Exporter, as_inputs, outputs_as_arrays
from keras_resnets.export.description import describe
from keras_resnets.export.photos import real_images
from keras_resnets.export.report import ExportReport
from keras_resnets.export.saved_model import write_saved_model
from keras_resnets.export.tflite_calibration import check_calibration
from keras_resnets.export.tflite_metadata import METADATA_BUFFER, associated_files, metadata_buffer, with_files
from keras_resnets.export.tflite_quantization import (
    QUANTIZERS,
    SCHEMES,
    Scheme,
    convert,
    installed,
    most_accurate,
    requantize,
)
from keras_resnets.export.tflite_size import resized
from keras_resnets.preprocessing import Preprocess

DYNAMIC_TOLERANCE = 0.2  # relative to the largest output, where no images were given


@dataclasses.dataclass(kw_only=True)
class TFLiteExporter(Exporter):
    """A file of builtin operators only, with metadata for the mobile libraries: class names, normalisation, input size.

    Attributes:
        quantization: None; "float16" (weights stored so, computed in float32); "dynamic" (weights in 8 bits, activations
            quantised as they come); "int8" (weights per channel and activations in 8 bits); or "int16x8" (activations in 16).
        calibration: for int8 and int16x8: real inputs as the model takes them, a hundred or more, 16 at least. Their ranges
            become the scales; they are the images compared if there are no others.
        interface: type of input and output. For int8 "int8" (the default), "uint8" or "float32"; for int16x8 "float32" (the
            default) or "int16".
        quantizer: for dynamic, int8 and int16x8: "converter" (TensorFlow's), "litert" (the package litert-quantizer), or
            "best": both if the package is installed, of which the one is kept whose answers on the images agree with the
            model's more often, then those that are closer. The report's options say what was tried and how it did.
        batch_size: images per call that the file is made for; None for any number.
        input_size: side of the input in pixels, or (height, width), where it shall be another one than the model's.
        labels: a name for each class, "imagenet" or "digits"; by default those of a network's own weights.
        preprocessing: how images become inputs; by default that of a network's own weights.
        tolerance, min_agreement: by default 1e-4 and 0; for float16 1e-2 and 0; for dynamic and int8 None and 0.95; for int16x8
            0.1 and 0.98; for dynamic without images 0.2 and 0.
    """

    suffix = ".tflite"
    packages = ("tensorflow", "ai_edge_litert")

    quantization: str | None = None
    calibration: np.ndarray | None = None
    interface: str | None = None
    quantizer: str | None = None
    batch_size: int | None = 1
    input_size: int | tuple[int, int] | None = None
    labels: str | Sequence[str] | None = None
    preprocessing: Preprocess | None = None
    tolerance: float | None = None
    min_agreement: float | None = None  # type: ignore[assignment]  # None until __post_init__ only
    tried: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.quantization not in SCHEMES:
            names = [name for name in SCHEMES if name]
            raise ValueError(f"unknown quantization {self.quantization!r}: {nearest(str(self.quantization), names)}")
        scheme = SCHEMES[self.quantization]
        self._check_options(scheme)
        tolerance, min_agreement = scheme.tolerance, scheme.min_agreement
        if self.quantization == "dynamic" and self.images is None:  # too few photographs for an agreement
            tolerance, min_agreement = DYNAMIC_TOLERANCE, 0.0
        self.tolerance = tolerance if self.tolerance is None else self.tolerance
        self.min_agreement = min_agreement if self.min_agreement is None else self.min_agreement
        super().__post_init__()
        if scheme.quantizers:
            self.images = self.calibration if self.images is None else self.images
            self.random_images, self.floating = 0, False

    def _check_options(self, scheme: Scheme) -> None:
        given = f"quantization={self.quantization!r}"
        if self.batch_size is not None and not _is_positive(self.batch_size):
            raise ValueError(f"batch_size must be a positive whole number, or None for any, not {self.batch_size!r}")
        if not _is_size(self.input_size):
            raise ValueError(
                f"input_size must be a positive number of pixels, or (height, width), not {self.input_size!r}"
            )
        if self.interface is None:
            self.interface = scheme.interfaces[0]
        elif self.interface not in scheme.interfaces:
            raise ValueError(f"interface {self.interface!r} is not for {given}, which has "
                             + " or ".join(map(repr, scheme.interfaces)))  # fmt: skip
        if scheme.integer and self.calibration is None:
            raise ValueError(f"{given} needs calibration=: a hundred or more real inputs as the model takes them")
        for option, value, schemes in (
            ("calibration", self.calibration, [name for name in SCHEMES if SCHEMES[name].integer]),
            ("quantizer", self.quantizer, [name for name in SCHEMES if SCHEMES[name].quantizers]),
        ):
            if value is not None and self.quantization not in schemes:
                raise ValueError(
                    f"{option} is for quantization={' or '.join(map(repr, schemes))}, not for {self.quantization!r}"
                )
        if scheme.quantizers:
            self._check_quantizer()

    def _check_quantizer(self) -> None:
        self.quantizer = self.quantizer or "best"
        if self.quantizer not in ("best", *QUANTIZERS):
            raise ValueError(
                f"unknown quantizer {self.quantizer!r}: {nearest(str(self.quantizer), ('best', *QUANTIZERS))}"
            )
        if self.quantizer in QUANTIZERS and not installed(self.quantizer):
            raise ValueError(f"quantizer={self.quantizer!r} needs litert-quantizer: pip install litert-quantizer")

    def prepare(self, model: keras.Model) -> keras.Model:
        if self.input_size is not None:
            model = resized(model, self.input_size)
        if None in model.inputs[0].shape[1:]:
            raise ValueError(f"tflite needs a model of known height and width, not {tuple(model.inputs[0].shape)}: "
                             "build it with an input_shape, or give input_size=")  # fmt: skip
        description = describe(model, self.labels, self.preprocessing)
        if self.calibration is not None:
            self.calibration = as_inputs(model, "calibration", self.calibration)
        model = super().prepare(model)
        if self.calibration is not None:
            known = self.preprocessing is not None or description.weights_tag is not None
            check_calibration(self.calibration, description.preprocessing if known else None)
        return model

    def convert(self, model: keras.Model, path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            # XNNPACK, for which the graph is spelled, does not compute in 16 bits.
            spelling = ops.exporting("any" if self.quantization == "int16x8" else "xnnpack")
            joined = ops.exporting("int8") if self.quantization == "int8" else contextlib.nullcontext()
            with spelling, joined:
                write_saved_model(model, Path(folder), self.batch_size)
            content = (
                self._quantized(model, folder) if self.quantizer else convert(folder, self.quantization, "float32")
            )
        path.write_bytes(self._described(content, model))

    def _quantized(self, model: keras.Model, folder: str) -> bytes:
        """The file of the quantiser that was asked for, or of the better one."""
        assert self.quantization is not None and self.interface is not None
        batches = functools.partial(_batches, self.calibration, self.batch_size or 1)
        arguments = self.quantization, self.interface, batches
        candidates = {
            "converter": lambda: convert(folder, *arguments),
            "litert": lambda: requantize(convert(folder, None, "float32"), *arguments),
        }
        asked = list(candidates) if self.quantizer == "best" else [str(self.quantizer)]
        tried = {name: make for name, make in candidates.items() if name in asked and installed(name)}
        images = real_images(model) if self.images is None else self.images
        kept, content, figures = most_accurate(tried, images, outputs_as_arrays(model, images), Path(folder))
        missing = {name: "not tried: not installed" for name in asked if name not in tried}
        self.tried = {"quantizer_kept": kept, "quantizers": figures | missing}
        return content

    def _described(self, content: bytes, model: keras.Model) -> bytes:
        """`content` written compactly, with metadata."""
        from keras_resnets.export import tflite_flatbuffer as flatbuffer

        file = flatbuffer.load(content)
        flatbuffer.shorten(file)
        description = describe(model, self.labels, self.preprocessing)
        flatbuffer.set_metadata(file, METADATA_BUFFER, metadata_buffer(description, flatbuffer.output_names(file)))
        return with_files(flatbuffer.dump(file), associated_files(description))

    def finish(self, report: ExportReport, artifact: Path, target: Path) -> None:
        report.options.update(self.tried)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_size(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_positive, value))
    return value is None or _is_positive(value) or pair


def _batches(images: np.ndarray | None, size: int) -> Iterator[dict[str, np.ndarray]]:
    """`images` in batches of exactly `size`, the last one filled up by repetition."""
    assert images is not None
    for start in range(0, len(images), size):
        yield {"image": np.resize(images[start : start + size], (size, *images.shape[1:]))}
