"""Quantises a network and measures what that costs: accuracy before and after, agreement, size.

    python -m tflite.quantize resnet20_cifar digits_int8.tflite --weights digits --calibration digits
    python -m tflite.quantize net.keras net_int8.tflite --interface uint8 --calibration folder:PATH

The scales are taken from real images, prepared as the network's weights want them. The float32 and the quantised file are then
compared on images that were not among these, and the figures written to `PATH.accuracy.json`.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_resnets.export import ExportReport
from keras_resnets.weights.labels import class_names
from tflite import conversion, program
from tflite.answers import Answers, ask, known_classes
from tflite.classifier import Classifier
from tflite.conversion import Opened
from tflite.evaluate import percent
from tflite.sources import Pictures, open_pictures
from training.run_folder import write_text
from training.sources import outputs_of_classes

COLUMNS = ("file", "size (kB)", "of float32", "accuracy (%)", "top-5 (%)", "agreement (%)")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A file on the images that the comparison is made on."""

    name: str
    size: int
    answers: Answers


def evaluation_images(options: argparse.Namespace, size: int) -> tuple[Pictures, list[int]]:
    """Images to compare on: those of --data, else of --calibration, without the ones calibrated on if there are others."""
    source = options.data or options.calibration
    if source is None:
        raise ValueError("--data is needed: images to measure the accuracy on (digits, a folder, tfds:NAME)")
    pictures = open_pictures(source, "test", size)
    numbers = list(range(pictures.count))
    if source == options.calibration and not pictures.apart:
        used = set(open_pictures(source, "train", size).spread(options.calibration_images))
        numbers = [number for number in numbers if number not in used] or numbers
    step = max(1, -(-len(numbers) // options.images)) if options.images else 1
    return pictures, numbers[::step]


def labels_of(opened: Opened) -> tuple[str, ...] | None:
    """Names of the network's outputs, where its weights tell them."""
    classes = opened.network.output_shape[-1]
    known = class_names("digits") if opened.entry.tag == "digits" and classes == 10 else known_classes(None, classes)
    return None if known is None else tuple(label for _, label in known)


def measure(
    path: Path, name: str, pictures: Pictures, numbers: Sequence[int], opened: Opened, console: Console
) -> Measured:
    """What a file says about the images."""
    classifier = Classifier(path)
    with program.progress(console, f"evaluating {name}") as bar:
        task = bar.add_task("", total=len(numbers))
        answers = ask(classifier, pictures, opened.entry, numbers, labels_of(opened), classifier.classes,
                      lambda count: bar.advance(task, count))  # fmt: skip
    return Measured(name, path.stat().st_size, answers)


def quantize(opened: Opened, options: argparse.Namespace, pictures: Pictures, numbers: Sequence[int],
             console: Console) -> tuple[ExportReport, list[Measured]]:  # fmt: skip
    """Writes the quantised file and measures it beside the float32 one, which is kept if it was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        plain = options.float32 or Path(folder, "float32.tflite")
        with console.status("converting to float32"):
            conversion.export(opened, plain, None, options)
        measured = [measure(plain, "float32", pictures, numbers, opened, console)]
        with console.status(f"quantising to {options.quantization}"):
            report = conversion.export(opened, options.path, options.quantization, options)
        measured.append(measure(options.path, options.quantization, pictures, numbers, opened, console))
    return report, measured


def content(report: ExportReport, title: str, measured: Sequence[Measured]) -> dict[str, Any]:
    """The JSON file."""
    plain, small = measured
    drop = None if plain.answers.labels is None else 100 * ((plain.answers.top(1) or 0) - (small.answers.top(1) or 0))
    return {
        "file": report.path, "network": report.network, "weights_tag": report.weights_tag, "options": report.options,
        "images": title,
        "results": [{"quantization": each.name, "bytes": each.size, **each.answers.figures(plain.answers)} for each in measured],
        "size_ratio": program.json_number(small.size / plain.size), "accuracy_drop_points": program.json_number(drop),
    }  # fmt: skip


def _body(options: argparse.Namespace, console: Console) -> None:
    if options.float32 is not None:
        conversion.check_path(options.float32, options.overwrite)
    opened = conversion.open_model(options)
    pictures, numbers = evaluation_images(options, opened.entry.input_size)
    if len(opened.network.output_shape) != 2:
        raise ValueError(f"model {options.model!r} is no classifier: convert it with tflite.convert")
    if pictures.class_names is not None:  # before the work, not after it
        classes = opened.network.output_shape[-1]
        outputs_of_classes(pictures.class_names, classes, known_classes(labels_of(opened), classes))
    program.say(console, opened.described(options))
    program.say(console, f"Comparing with float32 on {len(numbers)} images of {pictures.title}.")
    report, measured = quantize(opened, options, pictures, numbers, console)
    figures = content(report, pictures.title, measured)
    accuracy = options.path.with_name(options.path.name + ".accuracy.json")
    write_text(accuracy, json.dumps(figures, indent=1) + "\n")
    rows = [(each.name, f"{each.size / 1000:.0f}", f"{each.size / measured[0].size:.3f}", percent(each.answers.top(1)),
             percent(figure["top5"]), percent(figure["agreement"]))
            for each, figure in zip(measured, figures["results"], strict=True)]  # fmt: skip
    console.print(program.table(f"{options.model} on {pictures.title}", COLUMNS, rows))
    skipped = measured[0].answers.skipped
    if skipped:
        program.say(console, f"{len(skipped)} images cannot be read and were left out; the first: {skipped[0]}")
    for name, figures in report.options.get("quantizers", {}).items():
        program.say(
            console, f"Quantiser {name}{' (kept)' * (name == report.options['quantizer_kept'])}: {_told(figures)}"
        )
    written = [options.path, accuracy, *([options.float32] if options.float32 else [])]
    program.say(console, "Written: " + ", ".join(map(str, written)))


def _told(figures: Any) -> str:
    """What an export says about one of the quantisers that it tried."""
    if not isinstance(figures, dict):
        return str(figures)
    return f"agreement {percent(figures['top1_agreement'])} %, mean difference {100 * figures['mean_difference']:.3f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    parser = program.Parser("quantize", "Quantise a network and measure what that costs.")
    conversion.add_arguments(parser)
    parser.add_argument(
        "--quantization", choices=conversion.QUANTIZATIONS, default="int8", help="(default: %(default)s)"
    )
    parser.add_argument("--data", metavar="IMAGES",
                        help="to measure the accuracy on, as for --calibration (default: its test images, or those not "
                        "calibrated on)")  # fmt: skip
    parser.add_argument("--images", type=program.whole_number, default=1000, metavar="N",
                        help="at most how many of them (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--float32", type=Path, metavar="FILE.tflite", help="keep the float32 file there, for tflite.compare"
    )
    return program.run(parser, arguments, _body)


if __name__ == "__main__":
    sys.exit(main())
