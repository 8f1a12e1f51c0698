"""What 8-bit integers cost in every family: `python -m tflite.families`.

Trains a small network of each family on half of the scanned digits, exports it as float32 and int8, and shows both files all
images of the other half. Writes `results.json` and `int8.md` into the run folder. Networks that are trained are kept: an
interrupted study continues, and a finished one only exports again with --export-again.
"""

import argparse
import dataclasses
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.preprocessing import preprocess_input
from tflite import program
from tflite.classifier import Classifier
from tflite.family_networks import NETWORKS, folder_name
from tflite.graph import Graph
from tflite.layer_errors import layer_errors, worst_first
from training import native_messages_hidden
from training.data import LabelledImages, load_data
from training.ensemble import load_network
from training.interruption import Interrupted
from training.report import markdown
from training.run_folder import RunFolder, write_text
from training.train import train

CALIBRATION = 200  # images
COMPARED = 8  # images on which the layers are compared
MOST_DROP, MOST_RATIO = 0.5, 0.27  # points of accuracy, and size of the int8 file by that of the float32 file
COLUMNS = (
    "family",
    "network",
    "parameters",
    "float32 %",
    "int8 %",
    "drop, points",
    "agreement %",
    "quantiser",
    "size ratio",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A family's figures.

    Attributes:
        family, network, size: as in `tflite.family_networks`.
        parameters: of the network.
        images: held out, on which the rest was measured.
        float32, int8: accuracy of the files.
        agreement: share of images with the same answer from both.
        float32_bytes, int8_bytes: sizes of the files.
        quantizer: whose file was kept.
        worst: layers that lose most in int8, and the share that they lose.
    """

    family: str
    network: str
    size: int
    parameters: int
    images: int
    float32: float
    int8: float
    agreement: float
    float32_bytes: int
    int8_bytes: int
    quantizer: str
    worst: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Outcome":
        """From JSON."""
        return cls(**{**values, "worst": tuple((name, lost) for name, lost in values["worst"])})

    @property
    def drop(self) -> float:
        """Accuracy lost, in points."""
        return 100 * (self.float32 - self.int8)

    @property
    def ratio(self) -> float:
        """Size of the int8 file by that of the float32 file."""
        return self.int8_bytes / self.float32_bytes

    @property
    def reached(self) -> bool:
        """The drop and the size are within what is aimed at."""
        return self.drop <= MOST_DROP + 1e-9 and self.ratio <= MOST_RATIO

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        return (self.family, f"{self.network}, {self.size} px", f"{self.parameters:,}", f"{100 * self.float32:.2f}",
                f"{100 * self.int8:.2f}", f"{self.drop:.2f}", f"{100 * self.agreement:.2f}", self.quantizer,
                f"{self.ratio:.3f}")  # fmt: skip


def trained(family: str, folder: RunFolder, data: LabelledImages) -> Network:
    """The family's network, trained now unless it was before.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    recipe = NETWORKS[family].recipe(family)
    folder.require(recipe)
    if not folder.final.exists():
        train(recipe, folder, data, Console(quiet=True))
        keras.backend.clear_session()  # what training left behind; there will be many networks
        gc.collect()
    return load_network(folder.final)


def measured(family: str, network: Network, folder: Path, data: LabelledImages) -> Outcome:
    """Exports a network into `folder` and compares the files."""
    entry, small = NETWORKS[family], CALIBRATION / data.train_count
    chosen = (np.arange(data.train_count) * small % 1) < small
    plain, quantised = folder / "float32.tflite", folder / "int8.tflite"
    calibration = preprocess_input(data.train.images[chosen], network)
    kr.export(network, plain, "tflite", overwrite=True)
    report = kr.export(network, quantised, "tflite", quantization="int8", calibration=calibration, overwrite=True)
    inputs, labels = preprocess_input(data.test.images, network), data.test.labels
    exact, answers = (Classifier(path)(inputs).argmax(axis=1) for path in (plain, quantised))
    errors = worst_first(layer_errors(Graph(plain), Graph(quantised), inputs[:COMPARED]))
    return Outcome(
        family, entry.network, entry.size, network.count_params(), len(labels), float(np.mean(exact == labels)),
        float(np.mean(answers == labels)), float(np.mean(exact == answers)), plain.stat().st_size, quantised.stat().st_size,
        str(report.options["quantizer_kept"]),
        tuple((error.name, round(error.lost, 4)) for error in errors[:3] if error.lost is not None),
    )  # fmt: skip


def outcome(family: str, folder: Path, again: bool) -> Outcome:
    """The figures in `folder`, or those of training and exporting now."""
    kept = folder / "int8.json"
    if kept.exists() and not again:
        return Outcome.of(json.loads(kept.read_text("utf-8")))
    data = load_data(NETWORKS[family].recipe(family).data)
    network = trained(family, RunFolder(folder), data)
    with native_messages_hidden():
        made = measured(family, network, folder, data)
    keras.backend.clear_session()
    gc.collect()
    write_text(kept, json.dumps(dataclasses.asdict(made), indent=1) + "\n")
    return made


def page(outcomes: Sequence[Outcome]) -> str:
    """The table as a page."""
    missed = [row for row in outcomes if not row.reached]
    said = "All reach that." if not missed else "Not reached: " + "; ".join(
        f"{row.family} (drop {row.drop:.2f}, ratio {row.ratio:.3f}; most is lost in {', '.join(name for name, _ in row.worst)})"
        for row in missed
    ) + "."  # fmt: skip
    return (
        "# What 8-bit integers cost, family by family\n\n"
        "`python -m tflite.families` trains a small network of every family on half of the scanned digits, exports it to TFLite "
        f"as float32 and as int8 (calibrated on {CALIBRATION} training images), and shows both files the {outcomes[0].images} "
        f"images of the other half. Aimed at: at most {MOST_DROP} points of accuracy lost, and an int8 file of at most "
        f"{MOST_RATIO} of the float32 file. {said}\n\n"
        "A file in 8 bits has a byte per weight, and beside that twelve bytes per output channel (bias, its scale, that of the "
        "weights) and about three hundred per operator and its tensors. So networks of thin layers, of normalisations that stand "
        "before a ReLU and cannot be folded (DenseNet), and of very many operators (DCDC) are above a quarter.\n\n"
        "Five networks are second choices. RedNet's first, trained for 14 epochs as the others, lost 0.56 points, and this one was "
        "trained for 20: which images flip is also chance. Narrower first choices of IdentityMappings-CIFAR and ResNeSt-CIFAR had "
        "ratios of 0.282 and 0.274, and DPN's, with one block less, 0.273: groups of 4 channels are joined to 16 in int8, which "
        "makes their kernels four times as large. Inception had 93.9 % at the others' learning rate.\n\n"
        f"{markdown([COLUMNS, *(row.cells() for row in outcomes)])}\n"
    )


def _body(options: argparse.Namespace, console: Console) -> None:
    unknown = [family for family in options.families if family not in NETWORKS]
    if unknown:
        raise ValueError(f"no family {unknown[0]!r}: {', '.join(NETWORKS)}")
    families = options.families or list(NETWORKS)
    program.say(
        console,
        f"{len(families)} families: train on half of the digits, export, compare. Results go to {options.run_dir}.",
    )
    outcomes = []
    for number, family in enumerate(families, start=1):
        with console.status(f"{family}, {number} of {len(families)}"):
            outcomes.append(outcome(family, options.run_dir / folder_name(family), options.export_again))
        last = outcomes[-1]
        program.say(console, f"{number} of {len(families)}  {family}: {100 * last.float32:.2f} % as float32, "
                    f"{100 * last.int8:.2f} % as int8, size ratio {last.ratio:.3f}")  # fmt: skip
    write_text(
        options.run_dir / "results.json", json.dumps([dataclasses.asdict(row) for row in outcomes], indent=1) + "\n"
    )
    write_text(options.run_dir / "int8.md", page(outcomes))
    console.print(program.table("int8 against float32", COLUMNS, [row.cells() for row in outcomes]))
    program.say(console, f"Results are in {options.run_dir}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 128 plus the number of a signal that ended it."""
    parser = program.Parser("families", "What int8 costs in every family, on small networks trained on digits.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="(default: all)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/int8_families"), help="(default: %(default)s)")
    parser.add_argument("--export-again", action="store_true", help="export and measure anew; training is kept")
    try:
        return program.run(parser, arguments, _body)
    except Interrupted as stop:
        print("\nInterrupted: the same command continues.")
        return 128 + stop.number


if __name__ == "__main__":
    sys.exit(main())
