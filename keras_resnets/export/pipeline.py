"""From model to proven artifact: fold, convert, run elsewhere, compare, and only then put it where it was asked for."""

import dataclasses
import difflib
import errno
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
from keras_resnets.export.base import Arrays, Exporter, ExportError, Probe, outputs_as_arrays
from keras_resnets.export.onnx import OnnxExporter
from keras_resnets.export.photos import real_images
from keras_resnets.export.proof import Limits, prove, store
from keras_resnets.export.report import ExportReport, artifact_files, digest, proof_path, report_path
from keras_resnets.export.runtimes import ArtifactError
from keras_resnets.export.saved_model import SavedModelExporter
from keras_resnets.export.tflite import TFLiteExporter
from keras_resnets.fusion import as_float32, fuse

FORMATS: dict[str, type[Exporter]] = {"saved_model": SavedModelExporter, "tflite": TFLiteExporter, "onnx": OnnxExporter}

FILE_LIMIT = 2**31  # bytes of a file that is one message, as ONNX's and TFLite's are
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # which TensorFlow tells in words only


def export(model: keras.Model, path: str | os.PathLike, format: str = "saved_model", **options: Any) -> ExportReport:
    """Writes `model` for another runtime, together with a proof that it computes the same there; or writes nothing.

    Batch normalisation is folded, mixed precision becomes float32. The artifact is loaded by its own runtime in a process
    without Keras, compared with the Keras model on real and random images, and timed. The figures are returned and
    written as `report.json` into a SavedModel's directory, as `<path>.report.json` beside a file.

    Args:
        model: functional or sequential, with one input.
        path: directory to make for "saved_model"; file ending in ".tflite" or ".onnx". Its parent directory must exist.
        format: "saved_model", "tflite" or "onnx".
        **options: of all formats: `images` (real inputs as the model takes them, compared beside random ones; by default
            photographs), `tolerance` (largest accepted relative difference), `min_agreement` (smallest accepted top-1
            agreement), `overwrite` (False), `labels` and `preprocessing` (by default those of the weights). More are those of
            the format: the attributes of `SavedModelExporter`, `TFLiteExporter` and `OnnxExporter`.

    Raises:
        ValueError: an argument is not allowed; the message says what is.
        ExportError: (a ValueError) the artifact was refused: it could not be converted or run, holds operators its runtime
            should not have to know, or differs from the model by more than allowed. Nothing is left on disk.
    """
    exporter = _exporter(format, options)
    _check_environment(exporter, format)
    target = exporter.target(Path(path))
    _check_target(Path(path), target, exporter)
    _check_model(model)
    model = exporter.prepare(model)
    _check_size(model, exporter)
    plain = as_float32(model) if any(layer.compute_dtype != "float32" for layer in model._flatten_layers()) else model
    inputs = _inputs(model, exporter)
    probes = exporter.probes(plain, inputs, _reference(plain, inputs))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=_existing(target.parent)) as folder:
            artifact = Path(folder, target.name)
            _convert(exporter, fuse(plain), artifact, format)
            report = _proven(model, target, format, exporter, artifact, probes, len(inputs))
            exporter.finish(report, artifact, target)
            published = _publish(report, probes, artifact, target)
        exporter.published(target)
        return published
    except OSError as error:
        raise ExportError(f"path {os.fspath(path)!r} cannot be written: {error}") from error


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


def _check_target(path: Path, target: Path, exporter: Exporter) -> None:
    if exporter.suffix and path.suffix != exporter.suffix:
        raise ValueError(f"path must end in {exporter.suffix!r}, not {os.fspath(path)!r}")
    suffixes = [kind.suffix for kind in FORMATS.values() if kind.suffix]
    meant = difflib.get_close_matches(path.suffix.lower(), suffixes, n=1, cutoff=0.7)
    if not exporter.suffix and meant:  # "a.onnx", and also "a.onx", but not "a.savedmodel" or "a.v2"
        raise ValueError(f"path {os.fspath(path)!r} would be a directory, with format='saved_model': name it without "
                         f"{path.suffix!r}, or for a file end it in {meant[0]!r} and give format={meant[0][1:]!r}")  # fmt: skip
    if not path.parent.is_dir():
        raise ValueError(f"path {os.fspath(path)!r} is in a directory that does not exist")
    if target.exists() and not exporter.overwrite:
        raise ValueError(f"path {os.fspath(target)!r} exists: give overwrite=True to replace it")


def _existing(folder: Path) -> Path:
    return folder if folder.is_dir() else _existing(folder.parent)


def _check_model(model: keras.Model) -> None:
    inputs, outputs = (getattr(model, name, None) or [] for name in ("inputs", "outputs"))
    if not isinstance(model, keras.Model) or len(inputs) != 1 or not outputs:
        raise ValueError("model must be a functional or sequential keras.Model with one input, not "
                         f"{type(model).__name__} with {len(inputs)}")  # fmt: skip


def _check_size(model: keras.Model, exporter: Exporter) -> None:
    """Before minutes of conversion. Quantised files would be smaller, but are made from one in float32."""
    weights = 4 * model.count_params()
    if exporter.suffix and weights >= FILE_LIMIT:
        raise ExportError(f"the model's weights are {weights / 2**30:.1f} GiB in float32, and a {exporter.suffix} file holds less "
                          f"than {FILE_LIMIT / 2**30:g} GiB: format 'saved_model' has no such limit")  # fmt: skip


def _inputs(model: keras.Model, exporter: Exporter) -> np.ndarray:
    """The real images, then seeded random ones of the same size."""
    real = real_images(model) if exporter.images is None else exporter.images
    shape = tuple(size or given for size, given in zip(model.inputs[0].shape[1:], real.shape[1:], strict=True))
    generator, count = np.random.default_rng(0), (exporter.random_images, *shape)
    random = generator.integers(0, 256, count) if real.dtype.kind in "iu" else generator.normal(size=count)
    return np.concatenate([real, random.astype(real.dtype)])


def _reference(model: keras.Model, inputs: np.ndarray) -> Arrays:
    outputs = outputs_as_arrays(model, inputs)
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise ExportError("the model's own outputs are not finite: there is nothing to prove the export with")
    return outputs


def _convert(exporter: Exporter, model: keras.Model, artifact: Path, format: str) -> None:
    try:
        exporter.convert(model, artifact)
    except OSError:
        raise
    except Exception as error:  # converters raise what they like
        if any(os.strerror(number) in str(error) for number in _DISK_FULL):
            raise OSError(str(error)) from error
        raise ExportError(f"the model cannot be converted to {format}: {error}") from error


def _proven(model: keras.Model, target: Path, format: str, exporter: Exporter, artifact: Path, probes: list[Probe],
            images: int) -> ExportReport:  # fmt: skip
    """The report of `artifact`; ExportError unless it runs, and runs within the limits."""
    try:
        proof = prove(artifact, probes, Limits(exporter.tolerance, exporter.min_agreement, exporter.floating), format)
    except ArtifactError as error:
        raise ExportError(f"the {format} file was refused: {error}") from error
    assert proof.facts.latency_ms is not None
    return ExportReport(
        path=os.fspath(target),
        format=format,
        network=getattr(model, "variant", None) or model.name,
        weights_tag=getattr(model, "weights_tag", None),
        input_shape=tuple(model.inputs[0].shape),
        options=_own_options(exporter),
        size_bytes=0,
        latency_ms=proof.facts.latency_ms,
        real_images=images - exporter.random_images,
        random_images=exporter.random_images,
        **dataclasses.asdict(proof.main),
        signatures=proof.signatures(),
        tolerance=exporter.tolerance,
        min_agreement=exporter.min_agreement,
        operators=proof.facts.operators,
        partitions=proof.facts.partitions,
        sha256="",
        environment=_environment() | proof.facts.versions,
    )


def _own_options(exporter: Exporter) -> dict[str, Any]:
    """The format's own options, arrays of images as their number, layers as their configuration."""
    common = {field.name for field in dataclasses.fields(Exporter)}
    names = [field.name for field in dataclasses.fields(exporter) if field.init and field.name not in common]
    values = {name: getattr(exporter, name) for name in names}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return len(value)
    return value.get_config() if isinstance(value, keras.layers.Layer) else value


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


def _publish(report: ExportReport, probes: list[Probe], artifact: Path, target: Path) -> ExportReport:
    """Moves the artifact, its report and its proof to where they belong, the artifact last; what they replace is deleted
    with the working directory."""
    report = dataclasses.replace(
        report, size_bytes=sum(file.stat().st_size for file in artifact_files(artifact)), sha256=digest(artifact)
    )
    store(artifact, probes, proof_path(artifact))
    report_path(artifact).write_text(json.dumps(report.to_dict(), indent=2) + "\n", "utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = [artifact] if artifact.is_dir() else [proof_path(artifact), report_path(artifact), artifact]
    for file in made:
        destination = target.with_name(file.name)
        if destination.exists():
            destination.rename(file.with_name(f"{file.name}.replaced"))
        file.rename(destination)
    return report
