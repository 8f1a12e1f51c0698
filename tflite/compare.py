"""Where a quantised TFLite file loses accuracy: its error at every layer against the float32 file, worst layers first.

    python -m tflite.compare digits.tflite digits_int8.tflite --data digits

Both files are run on the same real images with all intermediate tensors kept. For every operator that both have it measures the
error so far, and what the operator itself adds: the float32 operator is run by itself on what the quantised file has before
it. Writes `compare.png`, `compare.csv` and `compare.json`.
"""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from tflite import program
from tflite.graph import Graph
from tflite.layer_errors import LayerError, layer_errors, worst_first
from tflite.preparation import preparation
from tflite.sources import all_images, open_pictures
from training import plots
from training.run_folder import replacing, write_text

BARS = 20
COLUMNS = ("layer", "operator", "channels", "lost %", "own error %", "error so far %", "SQNR dB")
ACCUMULATED, OWN = "#1f5fa8", "#d1495b"


def figure(errors: Sequence[LayerError], title: str) -> Figure:
    """Bars of the worst layers, and the errors along the depth."""
    worst = [error for error in worst_first(list(errors)) if error.lost is not None][:BARS]
    made = Figure(figsize=(14, max(4, 0.27 * len(worst) + 1.6)), layout="constrained")
    bars, depth = made.subplots(1, 2)
    bars.barh(
        [f"{error.name}  {error.kind.lower()}" for error in worst],
        [100 * (error.lost or 0) for error in worst],
        color=OWN,
    )
    bars.invert_yaxis()
    bars.tick_params(axis="y", labelsize=8)
    bars.set(
        title=f"Worst {len(worst)} of {len(errors)} operators",
        xlabel="lost: error that the operator adds, by channel, in %",
    )
    places = [error.depth for error in errors]
    floor = 1e-7  # of a logarithmic axis; operators that only move values add nothing
    depth.plot(places, [100 * max(error.accumulated, floor) for error in errors], color=ACCUMULATED, label="so far")
    depth.plot(places, [np.nan if error.lost is None else 100 * max(error.lost, floor) for error in errors], color=OWN,
               linestyle="", marker=".", label="lost in this operator")  # fmt: skip
    depth.set(title="Along the depth", xlabel="operator", ylabel="relative error in %", yscale="log")
    depth.set_ylim(bottom=1e-3)
    depth.yaxis.set_major_formatter("{x:g}")
    depth.legend(frameon=False)
    made.suptitle(title)
    return made


def write(errors: Sequence[LayerError], title: str, images: int, folder: Path) -> None:
    """Writes picture, table and figures, each whole."""
    program.output_folder(folder)
    plots.save(figure(errors, title), folder / "compare.png")
    rows = [{**dataclasses.asdict(error), "sqnr_db": round(error.sqnr_db, 2)} for error in worst_first(list(errors))]
    with replacing(folder / "compare.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_text(folder / "compare.json", json.dumps({"title": title, "images": images, "layers": rows}, indent=1) + "\n")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _body(options: argparse.Namespace, console: Console) -> None:
    reference, quantised = Graph(options.reference), Graph(options.quantized)
    entry = preparation(options.reference, options.model, reference.input_shape).entry
    pictures = open_pictures(options.data, "test", entry.input_size)
    program.say(console, f"Comparing {options.quantized} with {options.reference}, layer by layer, "
                f"on up to {options.images} images of {pictures.title}.")  # fmt: skip
    images = all_images(pictures, entry, pictures.spread(options.images)).inputs
    with program.progress(console, "comparing") as bar:
        task = bar.add_task("", total=len(images))
        errors = layer_errors(reference, quantised, images, lambda count: bar.advance(task, count))
    title = f"{options.quantized.name} against {options.reference.name}"
    folder = options.out or Path("runs") / f"compare_{options.quantized.stem}"
    write(errors, title, len(images), folder)
    rows = [(error.name, error.kind, str(error.channels), _percent(error.lost), _percent(error.own),
             _percent(error.accumulated), f"{error.sqnr_db:.1f}") for error in worst_first(errors)[: options.top]]  # fmt: skip
    console.print(program.table(f"{title}: the worst {len(rows)} of {len(errors)} operators", COLUMNS, rows))
    program.say(console, f"At the output: {_percent(errors[-1].accumulated)} %. Picture and tables are in {folder}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    parser = program.Parser("compare", "Error of a quantised TFLite file at every layer, against the float32 file.")
    parser.add_argument("reference", type=program.tflite_file, metavar="FLOAT32.tflite")
    parser.add_argument(
        "quantized", type=program.tflite_file, metavar="QUANTIZED.tflite", help="made of the same network"
    )
    parser.add_argument(
        "--data",
        default="digits",
        help="digits, a folder (PATH or folder:PATH), or tfds:NAME[/SPLIT] (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=program.whole_number, default=16, help="at most how many (default: %(default)s)"
    )
    parser.add_argument("--model", metavar="NETWORK[:TAG]",
                        help="whose preprocessing to apply (default: what the file says)")  # fmt: skip
    parser.add_argument("--top", type=program.whole_number, default=15, help="rows of the table (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the results (default: runs/compare_QUANTIZED)")
    return program.run(parser, arguments, _body)


if __name__ == "__main__":
    sys.exit(main())
