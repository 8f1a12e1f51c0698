"""Accuracy of TFLite files on labelled images, and how often they agree.

    python -m tflite.evaluate digits.tflite digits_int8.tflite
    python -m tflite.evaluate net.tflite net_int8.tflite --data folder:PATH --keras resnet50:a1_in1k --json result.json

Images are prepared as each file's own metadata say: resized, cut and normalised; labels are matched by name. Agreement is with
the network of --keras, or with the first file.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from sklearn.metrics import confusion_matrix

from keras_resnets.assembly import Network
from keras_resnets.cli.networks import open_network
from keras_resnets.preprocessing import expected_input
from tflite import program
from tflite.answers import Answers, Scorer, ask
from tflite.classifier import Classifier
from tflite.preparation import Preparation, preparation
from tflite.sources import Pictures, open_pictures
from training import plots
from training.run_folder import write_text

COLUMNS = ("file", "size (kB)", "images", "accuracy (%)", "top-5 (%)", "agreement (%)", "ms per image")
MOST_PICTURED = 30  # classes up to which a picture of the confusion can be read


@dataclasses.dataclass(frozen=True)
class Contender:
    """A file, or the Keras network as a reference.

    Attributes:
        name: for people.
        size: of the file in bytes; None for a network.
        scorer: what it computes.
        classes: number of outputs.
        preparation: of its images.
    """

    name: str
    size: int | None
    scorer: Scorer
    classes: int
    preparation: Preparation


@dataclasses.dataclass(frozen=True)
class Result:
    """What a contender answered, and milliseconds per image that its calls took, in batches of the file's own size."""

    contender: Contender
    answers: Answers
    milliseconds: float


def of_file(path: Path, model: str | None, threads: int | None) -> Contender:
    """A `.tflite` file; ValueError if it is no classifier, or nothing says what its images are to be."""
    classifier = Classifier(path, threads)
    return Contender(path.name, path.stat().st_size, classifier, classifier.classes,
                     preparation(path, model, classifier.input_shape))  # fmt: skip


def of_network(text: str) -> Contender:
    """A network of this package, `NETWORK[:TAG]` or a `.keras` file."""
    network = open_network(text, None)
    if not isinstance(network, Network) or len(network.output_shape) != 2:
        raise ValueError(f"--keras {text!r} is no classifier of keras_resnets")
    entry = expected_input(network)

    def scorer(images: np.ndarray) -> np.ndarray:
        return np.asarray(network.predict_on_batch(images)) if len(images) else np.empty((0, network.output_shape[-1]))

    return Contender(f"{text} (Keras)", None, scorer, network.output_shape[-1], Preparation(entry, None))


def evaluate(
    contenders: Sequence[Contender], data: str, most: int | None, console: Console
) -> tuple[Pictures, list[Result]]:
    """All answers, with a progress bar.

    Raises:
        ValueError: `data` names no images, or ones of other classes; or the contenders have different classes.
    """
    for contender in contenders:
        if contender.classes != contenders[0].classes:
            raise ValueError(f"{contenders[0].name} has {contenders[0].classes} classes and {contender.name} "
                             f"{contender.classes}: evaluate them one by one")  # fmt: skip
    results = []
    for contender in contenders:
        pictures = open_pictures(data, "test", contender.preparation.entry.input_size)
        results.append(_result(contender, pictures, pictures.spread(most), console))
    return pictures, results


def _result(contender: Contender, pictures: Pictures, numbers: Sequence[int], console: Console) -> Result:
    seconds: list[float] = []

    def timed(images: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        scores = contender.scorer(images)
        seconds.append(time.perf_counter() - start)
        return scores

    with program.progress(console, contender.name) as bar:
        task = bar.add_task("", total=len(numbers))
        answers = ask(timed, pictures, contender.preparation.entry, numbers, contender.preparation.labels, contender.classes,
                      lambda count: bar.advance(task, count))  # fmt: skip
    return Result(contender, answers, 1000 * sum(seconds) / len(answers.scores))


def percent(share: float | None) -> str:
    """A share for a table."""
    return "–" if share is None else f"{100 * share:.2f}"


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Of the table for people."""
    made = []
    for result in results:
        figures = result.answers.figures(results[0].answers)
        size = "–" if result.contender.size is None else f"{result.contender.size / 1000:.0f}"
        made.append((result.contender.name, size, str(figures["images"]),
                     *(percent(figures[key]) for key in ("top1", "top5", "agreement")), f"{result.milliseconds:.2f}"))  # fmt: skip
    return made


def content(title: str, results: Sequence[Result]) -> str:
    """The JSON file."""
    figures = [{"file": result.contender.name, "bytes": result.contender.size, **result.answers.figures(results[0].answers),
                "ms_per_image": program.json_number(result.milliseconds, 4)} for result in results]  # fmt: skip
    return (
        json.dumps({"images": title, "agreement_with": results[0].contender.name, "results": figures}, indent=1) + "\n"
    )


def draw_confusion(path: Path, result: Result, names: Sequence[str]) -> None:
    """Writes the picture of what one contender takes for what.

    Raises:
        ValueError: the classes are not known, or too many.
    """
    answers, classes = result.answers, result.contender.classes
    if answers.labels is None or classes > MOST_PICTURED:
        raise ValueError(f"--confusion needs images of known classes, {MOST_PICTURED} at most")
    counts = confusion_matrix(answers.labels, answers.best, labels=range(classes))
    plots.save(plots.confusion(counts, names, f"{result.contender.name}: {percent(answers.top(1))} %"), path)


def _body(options: argparse.Namespace, console: Console) -> None:
    for path in (options.json, options.confusion):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{str(path)!r} is in a directory that does not exist")
    contenders = [of_network(options.keras)] if options.keras else []
    contenders += [of_file(path, options.model, options.threads) for path in options.files]
    count = f"at most {options.images} images" if options.images else "all images"
    program.say(
        console, f"Evaluating {', '.join(contender.name for contender in contenders)} on {count} of {options.data}."
    )
    pictures, results = evaluate(contenders, options.data, options.images, console)
    if options.json is not None:
        write_text(options.json, content(pictures.title, results))
    if options.confusion is not None:
        names = results[-1].contender.preparation.labels or pictures.class_names or ()
        draw_confusion(options.confusion, results[-1], names)
    console.print(
        program.table(f"{pictures.title}; agreement with {results[0].contender.name}", COLUMNS, rows(results))
    )
    skipped = results[0].answers.skipped
    if skipped:
        program.say(console, f"{len(skipped)} images cannot be read and were left out; the first: {skipped[0]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    parser = program.Parser("evaluate", "Accuracy and agreement of TFLite files.")
    parser.add_argument("files", nargs="+", type=program.tflite_file, metavar="FILE.tflite")
    parser.add_argument("--data", default="digits",
                        help="digits, a folder (PATH or folder:PATH), or tfds:NAME[/SPLIT] (default: %(default)s)")  # fmt: skip
    parser.add_argument("--images", type=program.whole_number, metavar="N", help="at most how many (default: all)")
    parser.add_argument("--keras", metavar="MODEL", help="network[:tag] or .keras file as a reference")
    parser.add_argument(
        "--model", metavar="NETWORK[:TAG]", help="whose preprocessing to apply (default: what a file says)"
    )
    parser.add_argument("--threads", type=program.whole_number, help="of the interpreter (default: one per processor)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--confusion", type=Path, metavar="FILE.png", help="draw what the last file takes for what")
    return program.run(parser, arguments, _body)


if __name__ == "__main__":
    sys.exit(main())
