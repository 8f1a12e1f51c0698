"""Evaluates networks on labelled images: published weights, saved networks and finished runs, alone or as an ensemble.

    python -m training.evaluate runs/digits_resnet20                                        # a run, on its held-out images
    python -m training.evaluate resnet50:a1_in1k --data folder:PATH --crops 10 --test-size
    python -m training.evaluate resnet50 resnext50_32x4d best.keras --data folder:PATH      # the mean of their probabilities

Prints the accuracy and a table per class; writes `evaluation.json`, `evaluation.md`, `predictions.png` (the worst predictions
first) and for few classes `confusion.png` into the run folder or that of `--out`.
"""

import argparse
import dataclasses
import functools
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.metrics import confusion_matrix

from keras_resnets.assembly import Network
from keras_resnets.preprocessing import preprocess_input
from training import plots, results
from training.data import LabelledImages, Split, load_data
from training.ensemble import Answers, Member, ask, open_member
from training.ensemble import load_network as load_network
from training.recipe import load_recipe
from training.run_folder import RunFolder
from training.sources import Source, arrays, open_source, outputs_of_classes

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
MOST_PICTURED = 30  # classes up to which `confusion.png` can be read
PICTURED_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A network's probabilities `(count, classes)` for images of which the classes `(count,)` are known."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the right one."""
        return self.top(1)

    def top(self, count: int) -> float:
        """Share of images whose class is among the `count` most probable ones; of equal ones the first counts as more so."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return float(np.mean((best == self.labels[:, np.newaxis]).any(axis=1)))

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Counts, a row per true class and a column per predicted class."""
        classes = self.probabilities.shape[1]
        return confusion_matrix(self.labels, self.probabilities.argmax(axis=1), labels=range(classes))


def evaluate(network: Network, split: Split, batch_size: int = 64) -> Evaluation:
    """Predicts the images of `split`, which have the network's size, preprocessed as its weights expect it."""
    inputs = preprocess_input(split.images, network)
    return Evaluation(network.predict(inputs, batch_size=batch_size, verbose=0), split.labels)


def per_class_table(evaluation: Evaluation, class_names: Sequence[str], most: int = 30) -> Table:
    """Images, recall and precision of every class; of more than `most` those with the lowest recall."""
    rows = results.by_class(evaluation.confusion, class_names)
    title = "Test images by class"
    if len(rows) > most:
        title += f": the {most} of {len(rows)} with the lowest recall"
        rows = sorted(rows, key=lambda row: row.recall)[:most]
    table = Table(title=title)
    for column in results.CLASS_COLUMNS:
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in rows:
        table.add_row(*row.cells())
    return table


def write_results(evaluation: Evaluation, data: LabelledImages, title: str, folder: Path) -> None:
    """Writes what the program writes, for a run's network and its held-out images."""
    source = arrays(title, data.test, data.class_names)
    report = results.Report(source.title, "held-out images", 1, (), evaluation.confusion, tuple(data.class_names),
                            evaluation.top(1), evaluation.top(5))  # fmt: skip
    write_all(report, evaluation, source, np.arange(len(source)), folder)


def write_all(report: results.Report, evaluation: Evaluation, source: Source, read: np.ndarray, folder: Path) -> None:
    """Writes figures and pictures into `folder`.

    Args:
        report: the figures.
        evaluation: of the images that could be read.
        source: of these.
        read: their numbers in it.
        folder: made if there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(report.class_names) <= MOST_PICTURED:
        plots.save(plots.confusion(evaluation.confusion, report.class_names, report.summary), folder / "confusion.png")
    true = evaluation.probabilities[np.arange(len(read)), evaluation.labels]
    worst = np.argsort(true, kind="stable")[:PICTURED_IMAGES]
    images = [source.read(int(number)) for number in read[worst]]
    for image in images:
        image.thumbnail((256, 256))
    sheet = plots.predictions(
        [np.asarray(image) for image in images], evaluation.labels[worst], evaluation.probabilities[worst],
        report.class_names, f"{report.title}: the hardest test images", count=PICTURED_IMAGES,
    )  # fmt: skip
    plots.save(sheet, folder / "predictions.png")
    results.write(report, folder)


def of_run(folders: Sequence[RunFolder]) -> Source:
    """The held-out images of runs.

    Raises:
        ValueError: a folder is that of no run, or they held out different images.
    """
    recipes = [load_recipe(folder.recipe).data for folder in folders]
    if any(recipe != recipes[0] for recipe in recipes):
        raise ValueError("the runs held out different images: say with --data on which to evaluate")
    data = load_data(recipes[0])
    return arrays("held-out images", data.test, data.class_names)


def labelled(members: Sequence[Member], source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    """The number of the right output for every image, and the names of all outputs.

    Raises:
        ValueError: the networks have different numbers of classes, or the images have other classes.
    """
    first = members[0]
    for member in members:
        if member.classes != first.classes:
            raise ValueError(f"networks of an ensemble must have as many classes: {first.title!r} has {first.classes}, "
                             f"{member.title!r} {member.classes}")  # fmt: skip
    known = next((member.known_classes for member in members if member.known_classes), None)
    outputs = outputs_of_classes(source.class_names, first.classes, known)
    names = [label for _, label in known] if known else [""] * first.classes
    if not known:
        for output, name in zip(outputs, source.class_names, strict=True):
            names[output] = name
    return outputs[source.labels], tuple(names)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    console = Console()
    try:
        report, evaluation, folder = run(options, console)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted.")
        return INTERRUPTED
    console.print(per_class_table(evaluation, report.class_names))
    for member in report.members if len(report.members) > 1 else ():
        _say(console, f"{member.title}: {member.top1:.2%}")
    if report.skipped:
        listed = "\n".join(f"  {reason}" for _, reason in report.skipped[:10])
        more = f"\n  … and {len(report.skipped) - 10} more, see evaluation.json" if len(report.skipped) > 10 else ""
        _say(console, f"{len(report.skipped)} images cannot be read and were left out:\n{listed}{more}")
    _say(console, f"{report.summary}. Figures and pictures are in {folder}.")
    return 0


def _say(console: Console, text: str) -> None:
    """Prints names and paths as they are, on lines as long as they need."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def run(options: argparse.Namespace, console: Console) -> tuple[results.Report, Evaluation, Path]:
    """Evaluates as the command line says and writes the results; raises ValueError, OSError or ImportError."""
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {options.batch_size}")
    folders = [RunFolder(Path(model)) for model in options.models if Path(model).is_dir()]
    if options.data is None and len(folders) < len(options.models):
        raise ValueError("--data is needed for networks that are not those of a run: digits or folder:PATH")
    source = open_source(options.data) if options.data else None
    with console.status("Loading networks"):
        members = [open_member(model, options.test_size, options.weights == "best") for model in options.models]
    source = source or of_run(folders)
    labels, class_names = labelled(members, source)
    bar = Progress(TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
    start = time.perf_counter()
    with bar:
        task = bar.add_task("", total=len(source))
        answers = ask(members, source, options.crops, options.batch_size, lambda count: bar.advance(task, count))
    evaluation = Evaluation(answers.probabilities, labels[answers.read])
    report = _report(members, source, answers, evaluation, class_names, options.crops, time.perf_counter() - start)
    alone = folders[0].path if len(options.models) == len(folders) == 1 else None
    folder = (
        options.out or alone or Path("runs") / re.sub(r"[^\w.-]+", "-", f"evaluate_{'+'.join(options.models)}")[:120]
    )
    write_all(report, evaluation, source, answers.read, folder)
    return report, evaluation, folder


def _report(members: Sequence[Member], source: Source, answers: Answers, evaluation: Evaluation,
            class_names: tuple[str, ...], crops: int, seconds: float) -> results.Report:  # fmt: skip
    each = [Evaluation(probabilities, evaluation.labels) for probabilities in answers.by_member]
    figures = tuple(
        results.MemberFigures.of(member.title, member.entry, own.top(1), own.top(5))
        for member, own in zip(members, each, strict=True)
    )
    title = " + ".join(member.title for member in members)
    return results.Report(title, source.title, crops, figures, evaluation.confusion, class_names, evaluation.top(1),
                          evaluation.top(5), tuple(answers.skipped), round(seconds, 1))  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Evaluate networks on labelled images."
    )
    parser.add_argument("models", nargs="+", metavar="MODEL",
                        help="NETWORK[:TAG] with published weights, a .keras file, or a run folder of training.train; "
                        "several are evaluated as an ensemble")  # fmt: skip
    parser.add_argument(
        "--data", help="digits, or folder:PATH with a folder of images per class (default: what a run held out)"
    )
    parser.add_argument("--crops", type=int, choices=(1, 10, 144), default=1, help="views per image (default: 1)")
    parser.add_argument("--test-size", action="store_true",
                        help="in the larger setting in which the weights were evaluated as well")  # fmt: skip
    parser.add_argument("--weights", choices=("final", "best"), default="final",
                        help="of a run: after the last epoch, or of the epoch with the best test accuracy "
                        "(default: final)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64, metavar="VIEWS", help="per step (default: 64)")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the results (default: the run folder, else one in runs)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
