"""Runs an exported artifact in its own runtime, in a separate process that cannot import Keras: see `runner.py`."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.export import runner
from keras_resnets.export.runner import DEFAULT_SIGNATURE, Arrays, Call


class ArtifactError(ValueError):
    """An artifact that does not load or run in its own runtime, or is not what its report says."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was found out about an artifact.

    Attributes:
        latency_ms: of the first call, in milliseconds per image: median over some runs; None if nothing was run.
        operators: how often each operator occurs.
        problems: reasons why the artifact was not run: operators its runtime should not have to know.
        partitions: pieces that TFLite's XNNPACK delegate runs; None for other formats.
        versions: of the runtime's packages.
    """

    latency_ms: float | None
    operators: dict[str, int]
    problems: list[str]
    partitions: int | None
    versions: dict[str, str]


def run_artifact(path: str | os.PathLike, inputs: np.ndarray | Mapping[str, np.ndarray], batch_size: int = 1,
                 signature: str = DEFAULT_SIGNATURE, threads: int | None = None) -> tuple[Any, float]:  # fmt: skip
    """Outputs of an exported artifact and its latency, computed without Keras in a separate process.

    Args:
        path: SavedModel directory, `.tflite` file or `.onnx` file.
        inputs: `(images, height, width, channels)`, as the exported model takes them; or arrays by the names of the
            signature's inputs. Artifacts with an integer interface are given them quantised, and their outputs come back
            dequantised. Encoded images are an array of `bytes` objects.
        batch_size: images per call. An artifact made for a fixed batch is run with that.
        signature: which function of a SavedModel.
        threads: how many of the processor's the runtime may use; by default it chooses.

    Returns:
        Outputs `(images, …)`, by name if there are several, and milliseconds per image: the median of up to 20 calls after
        the first.

    Raises:
        ArtifactError: (a ValueError) the artifact does not exist, does not load or does not run.
    """
    arrays = dict(inputs) if isinstance(inputs, Mapping) else {"image": np.asarray(inputs)}
    (outputs,), facts = inspect_artifact(path, [Call(signature, arrays, batch_size)], batch_size, threads)
    assert facts.latency_ms is not None
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs, facts.latency_ms


def inspect_artifact(path: str | os.PathLike, calls: Sequence[Call], timed_batch: int = 1,
                     threads: int | None = None) -> tuple[list[Arrays], Facts]:  # fmt: skip
    """Outputs of every call, in order, and facts about the artifact; raises as `run_artifact` does."""
    artifact = os.fspath(path)
    if not os.path.exists(artifact):
        raise ArtifactError(f"artifact {artifact!r} does not exist")
    if runner.opener(artifact) is None:
        raise ArtifactError(f"artifact {artifact!r} is not a SavedModel directory, a .tflite file or an .onnx file")
    for call in calls:
        if not all(len(values) for values in call.inputs.values()) or call.batch < 1 or timed_batch < 1:
            raise ValueError("inputs and batch_size must be at least one image")
    with tempfile.TemporaryDirectory() as folder:
        asked = {"calls": [{"signature": call.signature, "batch": call.batch} for call in calls],
                 "timed_batch": timed_batch, "threads": threads}  # fmt: skip
        Path(folder, "asked.json").write_text(json.dumps(asked), "utf-8")
        for i, call in enumerate(calls):
            np.savez(os.path.join(folder, f"inputs_{i}.npz"), **runner.packed(call.inputs))  # type: ignore[arg-type]
        # runpy rather than the file as a program: the file's directory, with its onnx.py, stays off the import path.
        command = [sys.executable, "-c", "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')",
                   runner.__file__, os.path.abspath(artifact), folder]  # fmt: skip
        child = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if child.returncode:
            lines = child.stderr.strip().splitlines()[-5:] or [f"exit status {child.returncode}"]
            raise ArtifactError(f"artifact {artifact!r} does not run in its own runtime: " + "\n  ".join(lines))
        facts = Facts(**json.loads(Path(folder, "facts.json").read_text("utf-8")))
        if facts.problems:
            raise ArtifactError(f"artifact {artifact!r} cannot run: {'; '.join(facts.problems)}")
        return [_loaded(Path(folder, f"outputs_{i}.npz")) for i in range(len(calls))], facts


def _loaded(file: Path) -> Arrays:
    with np.load(file) as stored:
        return runner.unpacked(dict(stored))
