"""Checkpoints of a run: whole or not there, checked before they are trusted."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from training.run_folder import replacing


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a run continues from.

    Attributes:
        step: optimizer steps that are done.
        arrays: by the names that `Trainer.variables` gives.
        notes: plain figures of the epoch that is under way.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        hashed = hashlib.sha256(json.dumps([self.step, dict(sorted(self.notes.items()))]).encode())
        for name in sorted(self.arrays):
            array = np.asarray(self.arrays[name], order="C")
            hashed.update(f"{name} {array.dtype} {array.shape} ".encode())
            hashed.update(array.data if array.size else b"")
        return hashed.hexdigest()


class Checkpoints:
    """The last checkpoints of a run, `step-000001234.safetensors` each.

    Args:
        folder: made with the first of them.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    @property
    def paths(self) -> list[Path]:
        """Of all checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes those that are too old.

        Raises:
            FloatingPointError: it holds numbers that are not finite. The checkpoints before it are kept.
        """
        for array in checkpoint.arrays.values():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"after step {checkpoint.step} there are weights that are no longer numbers")
        self.folder.mkdir(parents=True, exist_ok=True)
        for half_written in self.folder.glob(".partial-*"):  # by a process that was killed
            half_written.unlink()
        meta = {"step": checkpoint.step, "notes": dict(checkpoint.notes), "digest": checkpoint.digest}
        content = safetensors.numpy.save(
            {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()},
            {"checkpoint": json.dumps(meta)},
        )
        path = self.folder / f"step-{checkpoint.step:09d}.safetensors"
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a renamed file without its content is what a power cut would leave otherwise
        for old in self.paths[self.keep :]:
            old.unlink()

    def latest(self) -> tuple[Checkpoint | None, dict[Path, str]]:
        """The newest checkpoint that is whole, or None if there has never been one; and what is wrong with newer ones.

        Raises:
            ValueError: there are checkpoints, none of which is whole.
        """
        problems: dict[Path, str] = {}
        for path in self.paths:
            try:
                return read(path), problems
            except ValueError as error:
                problems[path] = str(error)
        if problems:
            raise ValueError(f"no checkpoint in {os.fspath(self.folder)!r} can be used: {'; '.join(problems.values())}. "
                             "Remove them to train from the beginning")  # fmt: skip
        return None, problems

    def put_aside(self, path: Path) -> None:
        """Renames a damaged checkpoint, so that it is not counted among those that are kept."""
        path.rename(path.with_suffix(".damaged"))


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks it.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            meta: dict[str, Any] = json.loads(file.metadata()["checkpoint"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        checkpoint = Checkpoint(meta["step"], arrays, meta["notes"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if checkpoint.digest != meta["digest"]:
        raise ValueError(f"{path.name} is damaged: its content is not what was written")
    return checkpoint
