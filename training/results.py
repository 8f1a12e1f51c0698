"""What an evaluation found, as figures: per class, per network, as JSON and as Markdown."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.registry import WeightsEntry
from keras_resnets.resize import short_side
from training.run_folder import write_text

CLASS_COLUMNS = ("class", "images", "recognised", "recall", "precision")
MOST_CONFUSED = 100  # classes up to which `evaluation.json` has the whole confusion matrix


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Of one class: its images, those recognised, their share of its images and of the images taken for it, if any are."""

    name: str
    images: int
    recognised: int
    recall: float
    precision: float | None

    def cells(self) -> tuple[str, ...]:
        precision = "-" if self.precision is None else f"{self.precision:.1%}"
        return (self.name, str(self.images), str(self.recognised), f"{self.recall:.1%}", precision)


def by_class(confusion: np.ndarray, class_names: Sequence[str]) -> list[ClassFigures]:
    """The figures of every class that has images."""
    counts = zip(class_names, confusion.sum(axis=1), confusion.diagonal(), confusion.sum(axis=0), strict=True)
    return [
        ClassFigures(
            name, int(images), int(right), float(right / images), float(right / predicted) if predicted else None
        )
        for name, images, right, predicted in counts
        if images
    ]


@dataclasses.dataclass(frozen=True)
class MemberFigures:
    """A network, what its images were made, its own accuracy, and in percent the published one in this setting."""

    title: str
    weights: str
    input_size: int
    short_side: int
    interpolation: str
    top1: float
    top5: float
    published_top1: float | None
    published_top5: float | None

    @classmethod
    def of(cls, title: str, entry: WeightsEntry, top1: float, top5: float) -> "MemberFigures":
        """Those of a network with weights that expect `entry`."""
        shortest = short_side(entry.input_size, entry.crop)
        return cls(
            title, entry.tag, entry.input_size, shortest, entry.interpolation, top1, top5, entry.top1, entry.top5
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        title: of the networks.
        data: what the images are.
        crops: views per image.
        members: figures of each network.
        confusion: counts, a row per true class and a column per predicted class.
        class_names: of all outputs.
        top1, top5: accuracy as a share of the images.
        skipped: number and reason of images that cannot be read.
        seconds: that it took.
    """

    title: str
    data: str
    crops: int
    members: tuple[MemberFigures, ...]
    confusion: np.ndarray
    class_names: tuple[str, ...]
    top1: float
    top5: float
    skipped: tuple[tuple[int, str], ...] = ()
    seconds: float | None = None

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def summary(self) -> str:
        """The accuracy in a sentence."""
        wrong = self.images - int(self.confusion.trace())
        top5 = f", top-5 {self.top5:.2%}" if len(self.class_names) > 5 else ""
        return f"{self.title}: {self.top1:.2%} of {self.images} test images, {wrong} wrong{top5}"

    def to_dict(self) -> dict[str, Any]:
        """As in `evaluation.json`: shares from 0 to 1, published figures in percent."""
        content: dict[str, Any] = {
            "title": self.title, "data": self.data, "crops": self.crops, "images": self.images,
            "accuracy": self.top1, "top1": self.top1, "top5": self.top5,
            "wrong": self.images - int(self.confusion.trace()), "seconds": self.seconds,
            "members": [dataclasses.asdict(member) for member in self.members],
            "skipped": [reason for _, reason in self.skipped],
            "classes": [dataclasses.asdict(row) for row in by_class(self.confusion, self.class_names)],
            "class_names": self.class_names,
        }  # fmt: skip
        if len(self.class_names) <= MOST_CONFUSED:
            content["confusion"] = self.confusion.tolist()
        return content

    def to_markdown(self) -> str:
        """One page: accuracy, networks, classes, what was left out."""
        parts = [f"# {self.title}", f"{self.summary}; {self.data}, {self.crops} view{'s'[: self.crops > 1]} per image."]
        if self.members:
            header = ("network", "weights", "input", "short side", "interpolation", "top-1", "top-5", "published top-1")
            parts.append(_table(header, [
                (m.title, m.weights, str(m.input_size), str(m.short_side), m.interpolation, f"{m.top1:.2%}", f"{m.top5:.2%}",
                 "" if m.published_top1 is None else f"{m.published_top1:.2f} %")
                for m in self.members
            ]))  # fmt: skip
        parts.append(_table(CLASS_COLUMNS, [row.cells() for row in by_class(self.confusion, self.class_names)]))
        if self.skipped:
            listed = "\n".join(f"- {reason}" for _, reason in self.skipped)
            parts.append(f"{len(self.skipped)} images cannot be read and were left out:\n\n{listed}")
        return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write(report: Report, folder: Path) -> None:
    """Writes `evaluation.json` and `evaluation.md` into `folder`."""
    write_text(folder / "evaluation.md", report.to_markdown())
    write_text(folder / "evaluation.json", json.dumps(report.to_dict(), indent=2) + "\n")
