"""From model to proven artifact: fold, convert, run elsewhere, compare, and only then put it where it was asked for."""

import dataclasses
import importlib.util
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import nearest
from keras_resnets.export.base import Exporter, ExportError, only_output
from keras_resnets.export.onnx import OnnxExporter
from keras_resnets.export.report import Comparison, ExportReport, compare, report_path
from keras_resnets.export.runtimes import ArtifactError, inspect_artifact
from keras_resnets.export.saved_model import SavedModelExporter
from keras_resnets.export.tflite import TFLiteExporter
from keras_resnets.fusion import as_float32, fuse
from keras_resnets.registry import find

FORMATS: dict[str, type[Exporter]] = {"saved_model": SavedModelExporter, "tflite": TFLiteExporter, "onnx": OnnxExporter}
_COMPARED_BATCH = 4  # with six random images the last batch is smaller: that any batch size works is part of the proof


def export(model: keras.Model, path: str | os.PathLike, format: str = "saved_model", **options: Any) -> ExportReport:
    """Writes `model` for another runtime, together with a proof that it computes the same there; or writes nothing.

    Batch normalisation is folded, mixed precision becomes float32. The artifact is loaded by its own runtime in a process
    without Keras, compared with the Keras model on real and random images, and timed. The figures are returned and
    written as `report.json` into a SavedModel's directory, as `<path>.report.json` beside a file.

    Args:
        model: functional or sequential, with one input and one output.
        path: directory to make for "saved_model"; file ending in ".tflite" or ".onnx". Its parent directory must exist.
        format: "saved_model", "tflite" or "onnx".
        **options: of all formats: `images` (real inputs as the model takes them, compared beside random ones), `tolerance`
            (largest accepted relative difference, 1e-4), `min_agreement` (smallest accepted top-1 agreement, 0),
            `overwrite` (False). Of "tflite": `quantization` (None, "float16" or "int8"), `calibration` and `interface` (for
            int8), `batch_size` (1), see `TFLiteExporter`. Of "onnx": `opset` (17).

    Raises:
        ValueError: an argument is not allowed; the message says what is.
        ExportError: (a ValueError) the artifact was refused: it could not be converted or run, holds operators its runtime
            should not have to know, or differs from the model by more than allowed. Nothing is left on disk.
    """
    exporter = _exporter(format, options)
    _check_environment(exporter, format)
    target = Path(path)
    _check_target(target, exporter)
    _check_model(model)
    exporter.prepare(model)
    plain = as_float32(model) if any(layer.compute_dtype != "float32" for layer in model._flatten_layers()) else model
    inputs = _inputs(model, exporter)
    reference = _reference(plain, inputs)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            artifact = Path(folder, target.name)
            _convert(exporter, fuse(plain), artifact, format)
            report = _prove(model, target, format, exporter, artifact, inputs, reference)
            _publish(report, artifact, target)
    except OSError as error:
        raise ExportError(f"path {os.fspath(path)!r} cannot be written: {error}") from error
    return report


def _exporter(format: str, options: dict[str, Any]) -> Exporter:
    """The options checked by themselves; ValueError with the nearest names."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: {nearest(format, FORMATS)}")
    known = {name: [field.name for field in dataclasses.fields(kind) if field.init] for name, kind in FORMATS.items()}
    for option in options:
        owners = [name for name, names in known.items() if option in names]
        if not owners:
            raise ValueError(f"unknown option {option!r}: {nearest(option, known[format])}")
        if format not in owners:
            raise ValueError(f"option {option!r} is for format {' or '.join(map(repr, owners))}, not for {format!r}")
    return FORMATS[format](**options)


def _check_environment(exporter: Exporter, format: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ExportError(f"export needs Keras on the TensorFlow backend, not {keras.backend.backend()!r}: save the model as "
                          ".keras, set KERAS_BACKEND=tensorflow and load it again")  # fmt: skip
    missing = [package for package in exporter.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(f"format {format!r} needs {', '.join(missing)}: pip install 'keras-resnets[export]'")


def _check_target(target: Path, exporter: Exporter) -> None:
    if exporter.suffix and target.suffix != exporter.suffix:
        raise ValueError(f"path must end in {exporter.suffix!r}, not {os.fspath(target)!r}")
    if not exporter.suffix and target.suffix in {kind.suffix for kind in FORMATS.values() if kind.suffix}:
        raise ValueError(f"path {os.fspath(target)!r} is a directory's here: name it without {target.suffix!r}")
    if not target.parent.is_dir():
        raise ValueError(f"path {os.fspath(target)!r} is in a directory that does not exist")
    if target.exists() and not exporter.overwrite:
        raise ValueError(f"path {os.fspath(target)!r} exists: give overwrite=True to replace it")


def _check_model(model: keras.Model) -> None:
    inputs, outputs = (getattr(model, name, None) or [] for name in ("inputs", "outputs"))
    if not isinstance(model, keras.Model) or len(inputs) != 1 or len(outputs) != 1:
        raise ValueError("model must be a functional or sequential keras.Model with one input and one output, not "
                         f"{type(model).__name__} with {len(inputs)} and {len(outputs)}")  # fmt: skip


def _inputs(model: keras.Model, exporter: Exporter) -> np.ndarray:
    """The real images, then seeded random ones of the same size."""
    shape, dtype = model.inputs[0].shape[1:], np.dtype(model.inputs[0].dtype)
    real = np.empty((0, *(size or 0 for size in shape)), dtype) if exporter.images is None else exporter.images
    if None in shape and len(real):
        shape = real.shape[1:]
    elif None in shape:
        if getattr(model, "variant", None) is None:
            raise ValueError(f"images must be given for a model of unknown height and width, {tuple(shape)}")
        shape = tuple(size or find(model.variant).input_size for size in shape)
        real = real.reshape(0, *shape)
    generator, count = np.random.default_rng(0), (exporter.random_images, *shape)
    random = generator.integers(0, 256, count) if dtype.kind in "iu" else generator.normal(size=count)
    return np.concatenate([real, random.astype(dtype)])


def _reference(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    batches = np.split(inputs, range(32, len(inputs), 32))
    outputs = np.concatenate([keras.ops.convert_to_numpy(only_output(model, batch)) for batch in batches])
    if not np.isfinite(outputs).all():
        raise ExportError("the model's own outputs are not finite: there is nothing to prove the export with")
    return outputs


def _convert(exporter: Exporter, model: keras.Model, artifact: Path, format: str) -> None:
    try:
        exporter.convert(model, artifact)
    except OSError:
        raise
    except Exception as error:  # converters raise what they like
        raise ExportError(f"the model cannot be converted to {format}: {error}") from error


def _prove(model: keras.Model, target: Path, format: str, exporter: Exporter, artifact: Path, inputs: np.ndarray,
           reference: np.ndarray) -> ExportReport:  # fmt: skip
    """The report of `artifact`; ExportError unless it runs, and runs within the limits."""
    try:
        outputs, facts = inspect_artifact(artifact, inputs, _COMPARED_BATCH, 1)
    except ArtifactError as error:
        raise ExportError(str(error)) from error
    if outputs is None or facts.latency_ms is None:
        raise ExportError(f"the {format} file was refused: " + "; ".join(facts.problems))
    if outputs.shape != reference.shape:
        raise ExportError(f"the {format} file computes outputs of shape {outputs.shape}, the model {reference.shape}")
    comparison = compare(reference, outputs, logarithms=exporter.floating)
    _check_limits(comparison, exporter, format)
    files = [artifact] if artifact.is_file() else [file for file in artifact.rglob("*") if file.is_file()]
    return ExportReport(
        path=os.fspath(target),
        format=format,
        network=getattr(model, "variant", None) or model.name,
        weights_tag=getattr(model, "weights_tag", None),
        input_shape=tuple(model.inputs[0].shape),
        options=_own_options(exporter),
        size_bytes=sum(file.stat().st_size for file in files),
        latency_ms=facts.latency_ms,
        real_images=len(inputs) - exporter.random_images,
        random_images=exporter.random_images,
        **dataclasses.asdict(comparison),
        tolerance=exporter.tolerance,
        min_agreement=exporter.min_agreement,
        operators=facts.operators,
        partitions=facts.partitions,
        environment=_environment() | facts.versions,
    )


def _check_limits(comparison: Comparison, exporter: Exporter, format: str) -> None:
    """Written so that a difference that is not a number is refused as well."""
    relative, agreement = comparison.relative_difference, comparison.top1_agreement
    if exporter.tolerance is not None and not relative <= exporter.tolerance:
        raise ExportError(f"the {format} file differs from the model by {relative:.2g} of the largest value of its "
                          f"{comparison.compared}, more than tolerance={exporter.tolerance:.2g}")  # fmt: skip
    if exporter.min_agreement and (agreement is None or not agreement >= exporter.min_agreement):
        raise ExportError(f"the {format} file has the model's top-1 class on {agreement} of the images, less than "
                          f"min_agreement={exporter.min_agreement}")  # fmt: skip


def _own_options(exporter: Exporter) -> dict[str, Any]:
    """The format's own options, arrays of images as their number."""
    common = {field.name for field in dataclasses.fields(Exporter)}
    values = {name: value for name, value in vars(exporter).items() if name not in common}
    return {name: len(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _environment() -> dict[str, str]:
    import tensorflow as tf

    import keras_resnets

    return {
        "keras_resnets": keras_resnets.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }


def _publish(report: ExportReport, artifact: Path, target: Path) -> None:
    """Moves the artifact and its report to where they belong; what they replace is deleted with the working directory."""
    proof = report_path(artifact)
    proof.write_text(json.dumps(report.to_dict(), indent=2) + "\n", "utf-8")
    for made in [artifact] if artifact.is_dir() else [proof, artifact]:
        destination = target.with_name(made.name)
        if destination.exists():
            destination.rename(made.with_name(f"{made.name}.replaced"))
        made.rename(destination)
