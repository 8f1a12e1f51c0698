"""What TFLite files and networks say about labelled images, and the figures that follow."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_resnets.registry import WeightsEntry
from keras_resnets.weights.labels import class_names
from tflite.program import json_number
from tflite.sources import Pictures, batches
from training.sources import outputs_of_classes

Scorer = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Answers:
    """Scores for the images that could be read.

    Attributes:
        scores: `(images, classes)`.
        labels: `(images,)`, the right output of each; None if it is not known.
        skipped: why other images could not be read.
    """

    scores: np.ndarray
    labels: np.ndarray | None
    skipped: tuple[str, ...]

    @property
    def best(self) -> np.ndarray:
        """The output with the highest score, of each image; the first of equal ones."""
        return self.scores.argmax(axis=1)

    def top(self, count: int) -> float | None:
        """Share of images whose class is among the `count` with the highest scores; None if the classes are not known."""
        if self.labels is None:
            return None
        ranked = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        return float(np.mean((ranked == self.labels[:, np.newaxis]).any(axis=1)))

    def agreement(self, other: "Answers") -> float:
        """Share of images with the same best output."""
        return float(np.mean(self.best == other.best))

    def figures(self, reference: "Answers") -> dict[str, Any]:
        """For JSON."""
        top1, top5 = self.top(1), self.top(5) if self.scores.shape[1] > 5 else None
        return {"images": len(self.scores), "top1": json_number(top1), "top5": json_number(top5),
                "agreement": json_number(self.agreement(reference)), "skipped": len(self.skipped)}  # fmt: skip


def ask(scorer: Scorer, pictures: Pictures, entry: WeightsEntry, numbers: Sequence[int], labels: Sequence[str] | None,
        classes: int, advance: Callable[[int], None] = lambda count: None) -> Answers:  # fmt: skip
    """Shows images to a file or network.

    Args:
        scorer: gives scores `(images, classes)` for images as the network takes them.
        pictures, entry, numbers: as in `tflite.sources.batches`.
        labels: names of the outputs, as far as they are known.
        classes: number of outputs.
        advance: is told how many images are done.

    Raises:
        ValueError: no image can be read, or the classes of the images are not those of the outputs.
    """
    outputs = (
        None
        if pictures.class_names is None
        else outputs_of_classes(pictures.class_names, classes, known_classes(labels, classes))
    )
    scores: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    skipped: list[str] = []
    for batch in batches(pictures, entry, numbers):
        scores.append(scorer(batch.inputs))
        skipped += batch.skipped
        if outputs is not None and batch.labels is not None:
            truth.append(outputs[batch.labels])
        advance(len(batch.inputs) + len(batch.skipped))
    made = np.concatenate(scores)
    if not len(made):
        raise ValueError(f"none of the {len(numbers)} images of {pictures.title} can be read; the first: {skipped[0]}")
    return Answers(made, None if outputs is None else np.concatenate(truth), tuple(skipped))


def known_classes(labels: Sequence[str] | None, classes: int) -> Sequence[tuple[str, str]] | None:
    """`(synset, label)` of the outputs, as far as their names or their number tell."""
    imagenet = class_names("imagenet") or ()
    if classes == len(imagenet) and (labels is None or list(labels) == [label for _, label in imagenet]):
        return imagenet
    return None if labels is None else [("", label) for label in labels]
