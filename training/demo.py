"""The package end to end, on real scanned digits: `make demo`, or `python -m training.demo`.

Trains a residual network, evaluates it, exports it to SavedModel, TFLite (float32 and int8) and ONNX, runs every artifact in
its own runtime on all test images, and writes pictures, figures and a one-page report into `runs/demo`. An interrupted demo
continues where it was; a finished one starts afresh.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.export import export, run_artifact
from keras_resnets.preprocessing import preprocess_input
from keras_resnets.registry import find
from training import native_messages_hidden, report
from training.data import LabelledImages, load_data
from training.evaluate import Evaluation, evaluate, load_network, write_results
from training.interruption import Interrupted
from training.recipe import Recipe, load_recipe
from training.run_folder import RunFolder, read_log, write_text
from training.train import INTERRUPTED, announce, train

TARGET = 0.985  # test accuracy below which the demo counts as failed
CALIBRATION_IMAGES = 300
COLUMNS = ("format", "size", "latency", "accuracy", "difference", "agreement")
EXPORTS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("SavedModel", "saved_model", "network_saved_model", {}),
    ("TFLite float32", "tflite", "network_float32.tflite", {}),
    ("TFLite int8", "tflite", "network_int8.tflite", {"quantization": "int8"}),
    ("ONNX", "onnx", "network.onnx", {}),
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One form of the network on all test images.

    Attributes:
        format: what it is.
        file: its name; empty for the network itself.
        size: in bytes.
        latency: in milliseconds per image, one image at a time.
        accuracy: share of right predictions.
        max_difference: largest difference of a probability from the network's.
        agreement: share of images with the network's most probable class.
    """

    format: str
    file: str
    size: int
    latency: float
    accuracy: float
    max_difference: float
    agreement: float

    def cells(self) -> tuple[str, ...]:
        return (self.format, f"{self.size / 1e6:.2f} MB", f"{self.latency:.2f} ms", f"{self.accuracy:.2%}",
                f"{self.max_difference:.1e}" if self.max_difference else "0", f"{self.agreement:.2%}")  # fmt: skip


def measured(name: str, path: Path, outputs: np.ndarray, latency: float, reference: Evaluation) -> Measured:
    """What is said about an artifact with these `outputs`, compared with the network's."""
    own = Evaluation(outputs, reference.labels)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Measured(
        name, path.name, sum(file.stat().st_size for file in files), latency, own.accuracy,
        float(np.abs(outputs - reference.probabilities).max()),
        float(np.mean(outputs.argmax(axis=1) == reference.probabilities.argmax(axis=1))),
    )  # fmt: skip


def keras_latency(network: Network, inputs: np.ndarray, runs: int = 50) -> float:
    """Median milliseconds of the network itself on one image, compiled to a TensorFlow function."""
    call, image = tf.function(lambda x: network(x, training=False)), tf.constant(inputs[:1])
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        call(image)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[1:]))


def export_and_run(network: Network, data: LabelledImages, reference: Evaluation, folder: Path,
                   console: Console) -> list[Measured]:  # fmt: skip
    """Exports to every format, and runs each artifact on all test images in its own runtime."""
    inputs = preprocess_input(data.test.images, network)
    calibration = preprocess_input(data.train.images[:CALIBRATION_IMAGES], network)
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    rows = [
        measured("Keras", folder / "final.keras", reference.probabilities, keras_latency(network, inputs), reference)
    ]
    for name, kind, file, options in EXPORTS:
        if "quantization" in options:
            options = {**options, "calibration": calibration}
        with console.status(f"{name}: exporting"), native_messages_hidden():
            export(network, artifacts / file, format=kind, overwrite=True, **options)
        with console.status(f"{name}: running on {len(inputs)} test images"):
            outputs, latency = run_artifact(artifacts / file, inputs, batch_size=1)
        rows.append(measured(name, artifacts / file, outputs, latency, reference))
        console.print(f"{name}: exported and run on all test images.", highlight=False)
    return rows


def results_table(rows: Sequence[Measured]) -> Table:
    """The table that the demo ends with."""
    table = Table(title="One network, every runtime, all test images",
                  caption="difference: the largest of a probability from that of Keras\n"
                          "agreement: images with the same most probable class as Keras")  # fmt: skip
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "format" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    return table


def write_report(folder: RunFolder, recipe: Recipe, data: LabelledImages, parameters: int,
                 rows: Sequence[Measured]) -> None:  # fmt: skip
    """Writes `report.html` and `results.json`."""
    log = read_log(folder.log)
    seconds, wrong = sum(row["seconds"] for row in log), round((1 - rows[0].accuracy) * len(data.test))
    results = {"accuracy": rows[0].accuracy, "test_images": len(data.test), "training_images": len(data.train),
               "epochs": recipe.epochs, "training_seconds": round(seconds, 1),
               "formats": [dataclasses.asdict(row) for row in rows]}  # fmt: skip
    report.write(
        report_path(folder),
        texts={
            "title": f"{recipe.model.name} on scanned digits",
            "subtitle": f"Trained on {len(data.train):,} images, tested on {len(data.test)} others that it never saw.",
            "formats_text": "Every artifact was run on all test images by a runtime that is not Keras: TensorFlow's session "
            "loader, LiteRT and ONNX Runtime. Difference is the largest of a probability from that of the Keras network; "
            "agreement, the share of images with the same most probable class; latency is for one image at a time on this "
            "machine's processor.",
            "training_text": f"{recipe.epochs} epochs in {seconds:.0f} seconds. Every figure of this page is that of the "
            "weights after the last epoch; no epoch was chosen by its test accuracy.",
            "confusion_text": f"{wrong} of {len(data.test)} test images are taken for another digit. "
            "Rows are true digits, columns predictions.",
            "predictions_text": "The test images whose true digit got the lowest probability, the worst first.",
            "repeat_text": "make demo, with ARCH=NETWORK for another network, or python -m training.train with the recipe below. "
            "Order, augmentation and "
            "initialisation follow from the recipe's seed.",
            "recipe": folder.recipe.read_text("utf-8"),
            "environment": folder.environment.read_text("utf-8"),
        },
        facts=[
            (f"{rows[0].accuracy:.2%}", "test accuracy"),
            (f"{seconds:.0f} s", f"training, {recipe.epochs} epochs"),
            (f"{parameters:,}", "parameters"),
            (f"{min(row.agreement for row in rows):.2%}", "lowest top-1 agreement of an artifact"),
        ],
        formats=[COLUMNS, *(row.cells() for row in rows)],
        pictures={name: folder.path / f"{name}.png" for name in ("curves", "confusion", "predictions")},
    )
    write_text(results_path(folder), json.dumps(results, indent=2) + "\n")


def report_path(folder: RunFolder) -> Path:
    """Where the report goes, in the place of the run's own."""
    return folder.path / "report.html"


def results_path(folder: RunFolder) -> Path:
    """Where the figures go; they are written last, so that a demo with figures is a finished one."""
    return folder.path / "results.json"


def demo(recipe: Recipe, folder: RunFolder, console: Console) -> Evaluation:
    """Does all of it; returns the network's own evaluation."""
    data = load_data(recipe.data)
    announce(recipe, folder, data, console)
    console.rule("Training")
    train(recipe, folder, data, console)
    network = load_network(folder.final)
    evaluation = evaluate(network, data.test)
    write_results(evaluation, data, recipe.name, folder.path)
    console.rule("Export")
    rows = export_and_run(network, data, evaluation, folder.path, console)
    parameters = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    write_report(folder, recipe, data, parameters, rows)
    console.print(results_table(rows))
    return evaluation


def architecture(name: str | None) -> list[str]:
    """The overrides that put the network called `name` in the place of the recipe's.

    Raises:
        ValueError: there is no such network.
    """
    if name is None:
        return []
    size = max(32, find(name).spec.smallest_input)
    tag = "digits" if "digits" in kr.model_info(name).weights else "''"
    description = f"{name} on the 1,797 scanned digits of scikit-learn"
    return [f"name=digits_{name}", f"description={description}", f"model.name={name}", f"model.preprocessing={tag}",
            f"data.image_size={size}"]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input or too low an accuracy, 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m training.demo", description="Train, evaluate, export and prove.")
    parser.add_argument("--recipe", default="digits_resnet20", help="as in training.train (default: digits_resnet20)")
    parser.add_argument("--arch", metavar="NETWORK", help="another network than the recipe's, as in list_models")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="change a value of the recipe")  # fmt: skip
    parser.add_argument("--run-dir", type=Path,
                        help="folder for the results (default: runs/demo, or runs/demo_NETWORK with --arch)")  # fmt: skip
    options = parser.parse_args(arguments)
    default = Path("runs") / (f"demo_{options.arch}" if options.arch else "demo")
    console, folder, start = Console(), RunFolder(options.run_dir or default), time.perf_counter()
    try:
        recipe = load_recipe(options.recipe, [*architecture(options.arch), *options.overrides])
        if results_path(folder).exists():
            folder.clear()
            results_path(folder).unlink()
        evaluation = demo(recipe, folder, console)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt) as error:
        console.print("\nInterrupted. The same command continues from the last checkpoint.")
        return 128 + error.number if isinstance(error, Interrupted) else INTERRUPTED
    console.print(f"Done in {time.perf_counter() - start:.0f} s. The report is {report_path(folder)}.", highlight=False)
    if evaluation.accuracy < TARGET:
        print(f"error: test accuracy {evaluation.accuracy:.2%} is below the expected {TARGET:.1%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
