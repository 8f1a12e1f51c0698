"""The proof of an artifact, repeated: after a move to another machine, an upgrade of a runtime, or a year on a disk."""

import dataclasses
import os
from pathlib import Path

from keras_resnets.export.proof import repeat
from keras_resnets.export.report import ExportReport
from keras_resnets.export.runtimes import ArtifactError


def verify(path: str | os.PathLike) -> ExportReport:
    """Runs an exported artifact again, on inputs stored beside it, and compares with what its Keras model computed.

    Needs the artifact's runtime and what `kr.export` wrote beside it or into it, the report and the stored proof; neither
    the model nor TensorFlow for `.tflite` and `.onnx`. Inputs and outputs are stored as far as they are small: some of the
    images, of feature maps some thousand values each.

    Args:
        path: SavedModel directory, `.tflite` file or `.onnx` file made by `kr.export`.

    Returns:
        The artifact's report with the figures of this run: differences, agreement, latency, operators, versions.

    Raises:
        ArtifactError: (a ValueError) there is no artifact, report or stored proof; the artifact was changed since, does not
            run here, or differs from its model by more than its limits.
    """
    artifact = Path(path)
    if not artifact.exists():
        raise ArtifactError(f"artifact {os.fspath(path)!r} does not exist")
    try:
        report = ExportReport.from_json(artifact)
    except ValueError as error:
        raise ArtifactError(f"artifact {os.fspath(path)!r} cannot be verified: {error}") from error
    proof, real, random = repeat(artifact, report)
    assert proof.facts.latency_ms is not None
    return dataclasses.replace(
        report,
        path=os.fspath(path),
        latency_ms=proof.facts.latency_ms,
        real_images=real,
        random_images=random,
        **dataclasses.asdict(proof.main),
        signatures=proof.signatures(),
        operators=proof.facts.operators,
        partitions=proof.facts.partitions,
        environment=report.environment | proof.facts.versions,
    )
