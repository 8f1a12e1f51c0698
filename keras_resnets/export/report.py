"""The proof that an artifact computes what its model computes, as figures."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one output of an artifact is from the Keras model's; the attributes are those of `ExportReport`.

    Whole numbers and strings are `compared` by "equality": their relative difference is the fraction that differs.
    """

    max_abs_difference: float
    relative_difference: float
    compared: str
    top1_agreement: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was compared and measured when an artifact was made, and the limits it was held to.

    Attributes:
        path: of the artifact.
        format: "saved_model", "tflite" or "onnx".
        network: name of the network's table row, or of the model.
        weights_tag: of the pretrained weights it was made with, or None.
        input_shape: of the model, `(batch, height, width, channels)`.
        options: of the format, such as `quantization` or `opset`.
        size_bytes: of the file, or of all files of the directory.
        latency_ms: milliseconds per image at batch size 1 (or the batch size the file is fixed to), median of some calls.
        real_images, random_images: how many of each were compared.
        max_abs_difference: largest absolute difference from the Keras model's outputs.
        relative_difference: largest difference divided by the largest absolute value, of what `compared` says.
        compared: "outputs"; or "log-probabilities" where the outputs are float probabilities: a saturated softmax hides
            differences, its logarithm does not.
        top1_agreement: fraction of images with the same largest output; None unless the output is `(batch, classes)`.
            These four are of the artifact's main function; of several outputs, of the one that differs most.
        signatures: the same four of every output of every function, as `{signature: {output: {…}}}`.
        tolerance, min_agreement: limits of `relative_difference` and `top1_agreement`.
        operators: how often each operator occurs.
        partitions: of TFLite's XNNPACK delegate, 1 being best; None for other formats.
        sha256: of the artifact, see `digest`.
        environment: versions of the packages that took part, and the machine.
    """

    path: str
    format: str
    network: str
    weights_tag: str | None
    input_shape: tuple[int | None, ...]
    options: dict[str, Any]
    size_bytes: int
    latency_ms: float
    real_images: int
    random_images: int
    max_abs_difference: float
    relative_difference: float
    compared: str
    top1_agreement: float | None
    signatures: dict[str, dict[str, dict[str, Any]]]
    tolerance: float | None
    min_agreement: float
    operators: dict[str, int]
    partitions: int | None
    sha256: str
    environment: dict[str, str]

    @property
    def images_compared(self) -> int:
        """Real and random images together."""
        return self.real_images + self.random_images

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "ExportReport":
        """The report in a file, or the one that belongs to the artifact at `path`.

        Raises:
            ValueError: there is no report, or it is not one.
        """
        file = Path(path) if Path(path).suffix == ".json" else report_path(path)
        try:
            values = json.loads(file.read_text("utf-8"))
            return cls(**{**values, "input_shape": tuple(values["input_shape"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{os.fspath(file)!r} is not an export report: {error}") from error

    def __str__(self) -> str:
        agreement = "" if self.top1_agreement is None else f", top-1 agreement {self.top1_agreement:.2%}"
        return (
            f"{self.path}: {self.network} as {self.format}, {self.size_bytes / 1e6:.2f} MB, {self.latency_ms:.2f} ms per image; "
            f"relative difference {self.relative_difference:.1e}{agreement} on {self.images_compared} images"
        )


def report_path(artifact: str | os.PathLike) -> Path:
    """Where the report of an artifact lies: inside a directory, beside a file."""
    return _companion(Path(artifact), "report.json")


def proof_path(artifact: str | os.PathLike) -> Path:
    """Where the inputs and outputs lie with which the proof can be repeated."""
    return _companion(Path(artifact), "proof.npz")


def _companion(artifact: Path, name: str) -> Path:
    return artifact / name if artifact.is_dir() else artifact.with_name(f"{artifact.name}.{name}")


def artifact_files(artifact: Path) -> list[Path]:
    """The files that make up an artifact, without its report and proof, sorted."""
    if artifact.is_file():
        return [artifact]
    own = (report_path(artifact), proof_path(artifact))
    return sorted(file for file in artifact.rglob("*") if file.is_file() and file not in own)


def digest(artifact: Path) -> str:
    """SHA-256 of a file; of a directory that of its files' paths and digests, in order."""
    if artifact.is_file():
        sha256 = hashlib.sha256()
        with artifact.open("rb") as file:
            while part := file.read(1 << 20):
                sha256.update(part)
        return sha256.hexdigest()
    lines = [f"{digest(file)}  {file.relative_to(artifact).as_posix()}\n" for file in artifact_files(artifact)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def compare(reference: np.ndarray, outputs: np.ndarray, logarithms: bool = True) -> Comparison:
    """How far `outputs` are from `reference`; with `logarithms`, probabilities are compared as such.

    A difference that is not a number stays one, and exceeds every limit that is written as "not less or equal".
    """
    if reference.dtype.kind != "f":
        differing = float(np.mean(outputs != reference)) if outputs.shape == reference.shape else 1.0
        return Comparison(differing, differing, "equality", None)
    reference, outputs = reference.astype("float64"), outputs.astype("float64")
    agreement = float(np.mean(outputs.argmax(-1) == reference.argmax(-1))) if reference.ndim == 2 else None
    difference, compared = float(np.max(np.abs(outputs - reference))), "outputs"
    if logarithms and _are_probabilities(reference):
        reference, outputs = (np.log(np.maximum(values, 1e-30)) for values in (reference, outputs))
        compared = "log-probabilities"
    largest = max(np.max(np.abs(reference)), np.finfo("float32").tiny)
    return Comparison(difference, float(np.max(np.abs(outputs - reference)) / largest), compared, agreement)


def _are_probabilities(outputs: np.ndarray) -> bool:
    several = outputs.ndim == 2 and outputs.shape[1] > 1
    return several and outputs.min() >= 0 and np.allclose(outputs.sum(1), 1, atol=1e-3)
