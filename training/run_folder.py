"""The folder of a training run: what is in it, and how it gets there whole."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from training.recipe import Recipe, flatten, load_recipe


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path with the same ending beside `path`; renamed to `path` if the body succeeds, else removed."""
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or none."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of a run: `recipe.yaml`, `environment.json`, `log.csv`, `checkpoints/`, `best.keras`, `final.keras`,
    `curves.png`, `report.md`, `report.html` and `tensorboard/`."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best.keras"

    @property
    def final(self) -> Path:
        return self.path / "final.keras"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def require(self, recipe: Recipe) -> None:
        """Nothing, if the folder holds a run of the very same recipe or none.

        Raises:
            ValueError: the folder holds a run of another recipe; the message says where they differ.
        """
        if not self.recipe.exists():
            return
        before, now = flatten(load_recipe(self.recipe)), flatten(recipe)
        changed = [key for key in before | now if before.get(key) != now.get(key)]
        if changed:
            listed = ", ".join(f"{key} ({before.get(key)!r} there, {now.get(key)!r} now)" for key in changed)
            raise ValueError(f"run folder {os.fspath(self.path)!r} holds a run of another recipe: {listed}. "
                             "Choose another --run-dir, or remove that folder")  # fmt: skip

    def open(self, recipe: Recipe) -> None:
        """Makes the folder for `recipe`, or takes up the run of the very same recipe in it.

        Raises:
            ValueError: see `require`.
        """
        self.require(recipe)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.recipe, recipe.to_yaml())
        write_text(self.environment, json.dumps(environment(), indent=2) + "\n")

    def clear(self) -> None:
        """Removes the run, and nothing else that is in the folder."""
        reports = (self.path / "report.md", self.path / "report.html")
        for file in (self.log, self.best, self.final, self.curves, *reports, self.environment, self.recipe):
            file.unlink(missing_ok=True)
        for part in (self.checkpoints, self.tensorboard):
            shutil.rmtree(part, ignore_errors=True)


def environment() -> dict[str, Any]:
    """What the run depends on besides the recipe: versions, processor, devices, and the commit of this checkout."""
    import tensorflow as tf

    packages = ("keras", "tensorflow", "numpy", "scikit-learn")
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": [device.device_type for device in tf.config.list_logical_devices()],
        "commit": git.stdout.strip() or None,
    }


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of `log.csv`, one per epoch; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write_log(path: Path, rows: Iterable[dict[str, float]]) -> None:
    """Writes `log.csv` whole."""
    rows = list(rows)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
