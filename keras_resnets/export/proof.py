"""The proof: an artifact, run in its own runtime, computes what the Keras model computes; and its repetition later."""

import dataclasses
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.export.base import Arrays, ExportError, Probe
from keras_resnets.export.report import Comparison, ExportReport, compare, digest, proof_path
from keras_resnets.export.runner import Call, packed, unpacked
from keras_resnets.export.runtimes import ArtifactError, Facts, inspect_artifact

# What is stored to repeat a proof: of every probe as many images as fit, of large outputs evenly spaced elements.
_STORED_INPUT_BYTES = 4_000_000
_STORED_ELEMENTS = 4096  # of one image


@dataclasses.dataclass(frozen=True)
class Limits:
    """What differences are accepted, see `Exporter`."""

    tolerance: float | None
    min_agreement: float
    floating: bool

    def check(self, comparison: Comparison, what: str) -> None:
        """Raises ExportError beyond them; written so that a difference that is not a number is refused as well."""
        relative, agreement = comparison.relative_difference, comparison.top1_agreement
        if comparison.compared == "equality":
            if not relative == 0:
                raise ExportError(f"{what} differs from the model in {relative:.2%} of its values, which must be equal")
            return
        if self.tolerance is not None and not relative <= self.tolerance:
            raise ExportError(f"{what} differs from the model by {relative:.2g} of the largest value of its "
                              f"{comparison.compared}, more than tolerance={self.tolerance:.2g}")  # fmt: skip
        if self.min_agreement and (agreement is None or not agreement >= self.min_agreement):
            raise ExportError(f"{what} has the model's top-1 class on {agreement} of the images, less than "
                              f"min_agreement={self.min_agreement}")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Proof:
    """Comparisons by signature and output, and the facts of the run."""

    comparisons: dict[str, dict[str, Comparison]]
    facts: Facts

    @property
    def main(self) -> Comparison:
        """Of the first signature the output that differs most."""
        return max(next(iter(self.comparisons.values())).values(), key=lambda found: found.relative_difference)

    def signatures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Plain data for the report."""
        return {signature: {name: dataclasses.asdict(found) for name, found in outputs.items()}
                for signature, outputs in self.comparisons.items()}  # fmt: skip


def prove(artifact: Path, probes: Sequence[Probe], limits: Limits, format: str) -> Proof:
    """Runs every probe and compares; ExportError unless all of them run, and run within the limits.

    The agreement that is asked for is that of the first probe.
    """
    comparisons, facts = _compared(artifact, probes, limits.floating, sampled=False)
    for i, (signature, outputs) in enumerate(comparisons.items()):
        held_to = limits if i == 0 else dataclasses.replace(limits, min_agreement=0.0)
        for name, comparison in outputs.items():
            held_to.check(comparison, _name(format, signature, name, len(probes), len(outputs)))
    return Proof(comparisons, facts)


def store(artifact: Path, probes: Sequence[Probe], file: Path) -> None:
    """Writes inputs and expected outputs, as many as are reasonable beside an artifact, for `repeat`."""
    arrays: Arrays = {}
    for probe in probes:
        count = _stored_images(probe)
        for name, values in probe.inputs.items():
            arrays[f"{probe.signature}/inputs/{name}"] = values[:count]
        for name, values in probe.expected.items():
            arrays[f"{probe.signature}/expected/{name}"] = _sample(values[:count])
    with file.open("wb") as opened:
        np.savez_compressed(opened, **packed(arrays))  # type: ignore[arg-type]


def repeat(artifact: Path, report: ExportReport) -> tuple[Proof, int, int]:
    """The proof again, on what `store` kept; and how many of its images are real and random.

    Raises:
        ArtifactError: the artifact is not the file that was proved, its stored proof is missing or damaged, it does not run
            any more, or differs by more than when it was made.
    """
    if digest(artifact) != report.sha256:
        raise ArtifactError(f"artifact {str(artifact)!r} is not the one of its report: its SHA-256 has changed")
    probes = _stored(proof_path(artifact))
    recorded = {name: {output: Comparison(**figures) for output, figures in outputs.items()}
                for name, outputs in report.signatures.items()}  # fmt: skip
    logarithms = any(
        figures.compared == "log-probabilities" for outputs in recorded.values() for figures in outputs.values()
    )
    comparisons, facts = _compared(artifact, probes, logarithms, sampled=True)
    for signature, outputs in comparisons.items():
        for name, comparison in outputs.items():
            # Other images, or another machine's rounding: as close as when it was made is close enough.
            if not comparison.max_abs_difference <= 1.5 * recorded[signature][name].max_abs_difference:
                what = _name(report.format, signature, name, len(probes), len(outputs))
                _check_repeated(comparison, report, what)
    images = len(next(iter(probes[0].inputs.values())))
    real = min(images, report.real_images)  # the real ones come first
    return Proof(comparisons, facts), real, images - real


def _check_repeated(found: Comparison, report: ExportReport, what: str) -> None:
    try:
        Limits(report.tolerance or 0.0, 0.0, True).check(found, what)
    except ExportError as error:
        raise ArtifactError(str(error)) from error


def _compared(
    artifact: Path, probes: Sequence[Probe], floating: bool, sampled: bool
) -> tuple[dict[str, dict[str, Comparison]], Facts]:
    """Comparisons of every output that the probes name; of evenly spaced elements if only those are expected."""
    calls = [Call(probe.signature, probe.inputs, probe.batch) for probe in probes]
    results, facts = inspect_artifact(artifact, calls)
    comparisons: dict[str, dict[str, Comparison]] = {}
    for probe, outputs in zip(probes, results, strict=True):
        comparisons[probe.signature] = {}
        for name, expected in probe.expected.items():
            if name not in outputs:
                raise ArtifactError(
                    f"signature {probe.signature!r} has no output {name!r}: it has {', '.join(outputs)}"
                )
            values = _sample(outputs[name]) if sampled else outputs[name]
            if values.shape != expected.shape:
                raise ArtifactError(f"output {name!r} is of shape {values.shape}, the model's is {expected.shape}")
            comparisons[probe.signature][name] = compare(expected, values, logarithms=floating)
    return comparisons, facts


def _name(format: str, signature: str, output: str, signatures: int, outputs: int) -> str:
    """The artifact as a sentence calls it; as precise as it needs to be."""
    if signatures == outputs == 1:
        return f"the {format} file"
    return f"output {output!r} of signature {signature!r} of the {format} artifact"


def _stored_images(probe: Probe) -> int:
    count = len(next(iter(probe.inputs.values())))
    size = sum(
        max((len(value) for value in values), default=0) if values.dtype == object else values[0].nbytes
        for values in probe.inputs.values()
    )
    return max(1, min(count, _STORED_INPUT_BYTES // max(size, 1)))


def _sample(values: np.ndarray) -> np.ndarray:
    """Of arrays with more than two axes at most some thousand evenly spaced elements of each image."""
    if values.ndim <= 2:
        return values
    flat = values.reshape(len(values), -1)
    return flat[:, :: math.ceil(flat.shape[1] / _STORED_ELEMENTS)]


def _stored(file: Path) -> list[Probe]:
    try:
        with np.load(file) as opened:
            arrays = unpacked(dict(opened))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"the stored proof {str(file)!r} cannot be read: {error}") from error
    probes: dict[str, Probe] = {}
    for key, values in arrays.items():
        signature, kind, name = key.split("/", 2)
        probe = probes.setdefault(signature, Probe(signature, {}, {}))
        getattr(probe, kind)[name] = values
    return list(probes.values())
