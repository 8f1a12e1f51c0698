"""Evaluates a trained network on the held-out images of its run: `python -m training.evaluate runs/digits_resnet20`.

Prints the accuracy and a table per class; writes `evaluation.json`, `confusion.png` and `predictions.png` (the worst
predictions first) into the run folder.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import confusion_matrix

from keras_resnets.assembly import Network
from keras_resnets.preprocessing import preprocess_input
from training import plots
from training.data import LabelledImages, Split, load_data
from training.recipe import load_recipe
from training.run_folder import RunFolder, write_text


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A network's probabilities `(count, classes)` for images of which the classes `(count,)` are known."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the right one."""
        return float(np.mean(self.probabilities.argmax(axis=1) == self.labels))

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Counts, a row per true class and a column per predicted class."""
        classes = self.probabilities.shape[1]
        return confusion_matrix(self.labels, self.probabilities.argmax(axis=1), labels=range(classes))


def evaluate(network: Network, split: Split, batch_size: int = 64) -> Evaluation:
    """Predicts the images of `split`, preprocessed as the network's weights expect it."""
    inputs = preprocess_input(split.images, network)
    return Evaluation(network.predict(inputs, batch_size=batch_size, verbose=0), split.labels)


def per_class_table(evaluation: Evaluation, class_names: Sequence[str]) -> Table:
    """Images, recall and precision of every class."""
    table = Table(title="Test images by class")
    for column in ("class", "images", "recognised", "recall", "precision"):
        table.add_column(column, justify="left" if column == "class" else "right")
    matrix = evaluation.confusion
    for name, images, right, predicted in zip(
        class_names, matrix.sum(axis=1), matrix.diagonal(), matrix.sum(axis=0), strict=True
    ):
        recall, precision = (f"{right / count:.1%}" if count else "-" for count in (images, predicted))
        table.add_row(name, str(images), str(right), recall, precision)
    return table


def write_results(evaluation: Evaluation, data: LabelledImages, title: str, folder: Path) -> None:
    """Writes `evaluation.json`, `confusion.png` and `predictions.png` into `folder`."""
    wrong = int(len(data.test) - evaluation.confusion.trace())
    summary = f"{title}: {evaluation.accuracy:.2%} of {len(data.test)} test images, {wrong} wrong"
    plots.save(plots.confusion(evaluation.confusion, data.class_names, summary), folder / "confusion.png")
    sheet = plots.predictions(data.test.images, data.test.labels, evaluation.probabilities, data.class_names,
                              f"{title}: the hardest test images")  # fmt: skip
    plots.save(sheet, folder / "predictions.png")
    results = {"accuracy": evaluation.accuracy, "images": len(data.test), "wrong": wrong, "class_names": data.class_names,
               "confusion": evaluation.confusion.tolist()}  # fmt: skip
    write_text(folder / "evaluation.json", json.dumps(results, indent=2) + "\n")


def load_network(path: Path) -> Network:
    """A network that `training.train` saved.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(
            f"{os.fspath(path)!r} does not exist: train first, or until the end, with python -m training.train"
        )
    return keras.models.load_model(path, compile=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code, 1 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Evaluate a trained network.")
    parser.add_argument("run_dir", type=Path, help="a run folder of training.train")
    parser.add_argument("--weights", choices=("final", "best"), default="final",
                        help="after the last epoch, or of the epoch with the best test accuracy (default: final)")  # fmt: skip
    options = parser.parse_args(arguments)
    console, folder = Console(), RunFolder(options.run_dir)
    try:
        network = load_network(folder.final if options.weights == "final" else folder.best)
        recipe = load_recipe(folder.recipe)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    data = load_data(recipe.data)
    evaluation = evaluate(network, data.test)
    write_results(evaluation, data, recipe.name, folder.path)
    console.print(per_class_table(evaluation, data.class_names))
    console.print(f"Accuracy {evaluation.accuracy:.2%} on {len(data.test)} test images. Pictures are in {folder.path}.",
                  highlight=False)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
