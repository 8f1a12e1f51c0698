"""What blocks and paths of a trained network contribute: `python -m training.studies.path_ensemble`.

A residual network can be read as an ensemble of many networks of different depths (Veit et al., 2016, arXiv 1605.06431; Zhao et
al., 2016, arXiv 1611.07718). Two experiments on scanned digits, without any training after the cut:

* one block left out: of ResNet-20 with this package's weights, where its shortcut remains, and of a plain network of as
  many layers;
* paths: of a network with three fusions of a long and a short branch, which is 2³ = 8 base networks. Each of them alone; the
  mean of their probabilities; and the fused network without one of its eight paths, the deepest among them. A base network
  alone is also measured with normalisation statistics of its own, those of the training images in it: the ones it has are
  those of the fused network, where every sum has two terms.

The plain and the fused network are trained first, and found again when the program is started a second time; an
interrupted training continues. The run folder gets `path_ensemble.png`, `table.csv` and `results.json`.
"""

import argparse
import csv
import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.preprocessing import preprocess_input
from training import plots
from training.data import LabelledImages, load_data
from training.evaluate import Evaluation, load_network
from training.interruption import Interrupted
from training.recipe import Recipe, load_recipe
from training.run_folder import RunFolder, replacing, write_text
from training.studies import path_plots, surgery
from training.studies.path_plots import Row
from training.train import INTERRUPTED, announce, train

RESIDUAL = "resnet20_cifar"
TRAINED = ("plain", "fused")  # names of the recipes end so, and of the folders


class Laboratory:
    """The images of the study, as its networks read them."""

    def __init__(self, data: LabelledImages, network: Network) -> None:
        self.training = preprocess_input(data.train.images, network)
        self.test, self.labels = preprocess_input(data.test.images, network), data.test.labels

    def probabilities(self, model: keras.Model) -> np.ndarray:
        """Of the test images."""
        return keras.ops.convert_to_numpy(model(self.test, training=False))

    def accuracy(self, probabilities: np.ndarray) -> float:
        """On the test images."""
        return Evaluation(probabilities, self.labels).accuracy


def trained(recipe: Recipe, folder: RunFolder, data: LabelledImages, console: Console) -> Network:
    """The network of `recipe`: the one in `folder`, or trained now.

    Raises:
        ValueError: `folder` holds a run of another recipe.
    """
    if folder.final.exists():
        folder.open(recipe)
        console.print(f"{recipe.name}: trained already, in {folder.path}.", highlight=False)
    else:
        announce(recipe, folder, data, console)
        train(recipe, folder, data, console)
    return load_network(folder.final)


def drop_blocks(network: Network, data: LabelledImages, console: Console) -> list[Row]:
    """`network` as it is, then without one of its blocks, each that can be left out."""
    laboratory = Laboratory(data, network)
    intact = laboratory.accuracy(laboratory.probabilities(network))
    rows = [Row("block left out", network.variant or "", "none", surgery.layers(network), intact)]
    names = surgery.removable_blocks(network)
    for name in track(names, f"{network.variant}: without one block", console=console, transient=True):
        cut = surgery.without_block(network, name)
        left = surgery.layers(network) - surgery.block_layers(network.get_layer(name))
        rows.append(Row("block left out", network.variant or "", name, left, laboratory.accuracy(laboratory.probabilities(cut)),
                        position=surgery.position(network, name)))  # fmt: skip
    return rows


def follow_paths(network: Network, data: LabelledImages, console: Console) -> list[Row]:
    """The fused network, its base networks, their ensembles, and the fused network without one path."""
    laboratory, name = Laboratory(data, network), network.variant or ""
    deepest = surgery.path_layers(network, surgery.paths(network)[-1])
    whole = Row("fused network", name, "all paths", deepest, laboratory.accuracy(laboratory.probabilities(network)))
    alone: list[np.ndarray] = []
    adapted: list[np.ndarray] = []
    bases: list[Row] = []
    without: list[Row] = []
    for path in track(surgery.paths(network), f"{name}: paths", console=console, transient=True):
        base, label, layers = surgery.base_network(network, path), "-".join(path), surgery.path_layers(network, path)
        alone.append(laboratory.probabilities(base))
        with surgery.own_statistics(base, laboratory.training):
            adapted.append(laboratory.probabilities(base))
        bases.append(Row("base network", name, label, layers, *(laboratory.accuracy(p[-1]) for p in (alone, adapted))))
        cut = laboratory.probabilities(surgery.without_path(network, path))
        without.append(Row("path left out", name, label, layers, laboratory.accuracy(cut)))
    ensembles = []
    for label, count in ((f"all {len(bases)}", len(bases)), ("all but the deepest", len(bases) - 1)):
        accuracies = [laboratory.accuracy(np.mean(p[:count], axis=0)) for p in (alone, adapted)]
        layers = max(row.layers for row in bases[:count])
        ensembles.append(Row("ensemble", name, f"mean of {label}", layers, *accuracies))
    return [whole, *bases, *ensembles, *without]


def findings(rows: Sequence[Row]) -> list[str]:
    """What `rows` say, in words."""
    said = []
    for network in dict.fromkeys(row.network for row in rows if row.part == "block left out"):
        intact, *cut = [row for row in rows if row.part == "block left out" and row.network == network]
        accuracies = [row.accuracy for row in cut]
        said.append(
            f"{network}: {intact.accuracy:.1%} of the test images right. Without one of its blocks ({len(cut)} can be left out) "
            f"{np.mean(accuracies):.1%} in the mean, {min(accuracies):.1%} to {max(accuracies):.1%}."
        )
    whole = next(row for row in rows if row.part == "fused network")
    bases = [row for row in rows if row.part == "base network"]
    best = max(bases, key=lambda row: row.own_statistics or 0)
    everything, seven = (row for row in rows if row.part == "ensemble")
    without = [row for row in rows if row.part == "path left out"]
    worst, deepest = min(without, key=lambda row: row.accuracy), without[-1]
    said += [
        f"{whole.network}: {whole.accuracy:.1%} with all {len(bases)} paths. Alone, as they are, its base networks reach "
        f"{min(row.accuracy for row in bases):.1%} to {max(row.accuracy for row in bases):.1%}; with statistics of their own up to "
        f"{best.own_statistics:.1%} ({best.what}, {best.layers} layers).",
        f"The mean of the {len(bases)} base networks, each with its own statistics, is right on {everything.own_statistics:.1%}; "
        f"without the deepest, of {bases[-1].layers} layers, on {seven.own_statistics:.1%}.",
        f"The fused network loses {100 * (whole.accuracy - deepest.accuracy):.1f} points without its deepest path, and "
        f"{100 * (whole.accuracy - np.mean([row.accuracy for row in without])):.1f} in the mean of all paths; most, "
        f"{100 * (whole.accuracy - worst.accuracy):.1f}, without {worst.what}.",
    ]
    return said


def tables(rows: Sequence[Row]) -> Iterable[Table]:
    """A table for the screen for every part of the study."""
    for part in dict.fromkeys(row.part for row in rows):
        own = any(row.own_statistics is not None for row in rows if row.part == part)
        table = Table(title=part.capitalize())
        for column in ("network", "which", "layers", "accuracy", *(["own statistics"] if own else [])):
            table.add_column(column, justify="left" if column in ("network", "which") else "right")
        for row in rows:
            if row.part == part:
                accuracies = [row.accuracy] if row.own_statistics is None else [row.accuracy, row.own_statistics]
                table.add_row(row.network, row.what, str(row.layers), *(f"{accuracy:.2%}" for accuracy in accuracies))
        yield table


def write(rows: Sequence[Row], data: LabelledImages, folder: Path) -> None:
    """Writes `table.csv`, `results.json` and `path_ensemble.png`, each whole."""
    records = [dataclasses.asdict(row) for row in rows]
    with replacing(folder / "table.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    results = {"test_images": len(data.test), "findings": findings(rows), "rows": records}
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    plots.save(path_plots.figure(rows), folder / "path_ensemble.png")


def study(folder: Path, overrides: Sequence[str], console: Console) -> list[Row]:
    """Does all of it; returns the table.

    Raises:
        ValueError: an override is wrong, changes the images, or does not fit what is in `folder`.
    """
    recipes = {name: load_recipe(f"path_ensemble_{name}", overrides) for name in TRAINED}
    shipped = load_recipe("digits_resnet20").data
    if any(recipe.data != shipped for recipe in recipes.values()):
        raise ValueError(
            f"data must stay as it is: the weights of {RESIDUAL} were trained on the other images of this split"
        )
    data = load_data(shipped)
    networks = {name: trained(recipe, RunFolder(folder / name), data, console) for name, recipe in recipes.items()}
    rows = drop_blocks(kr.create_model(RESIDUAL, weights="digits"), data, console)
    rows += drop_blocks(networks["plain"], data, console)
    rows += follow_paths(networks["fused"], data, console)
    write(rows, data, folder)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.path_ensemble",
                                     description="Cut blocks and paths out of trained networks.")  # fmt: skip
    parser.add_argument("--run-dir", type=Path, default=Path("runs/path_ensemble"),
                        help="folder for the results (default: runs/path_ensemble)")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="change a value of both recipes, path_ensemble_plain and path_ensemble_fused")  # fmt: skip
    options = parser.parse_args(arguments)
    console, start = Console(), time.perf_counter()
    try:
        rows = study(options.run_dir, options.overrides, console)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt) as error:
        console.print("\nInterrupted. The same command continues where it was.")
        return 128 + error.number if isinstance(error, Interrupted) else INTERRUPTED
    console.print(*tables(rows))
    for said in findings(rows):
        console.print(f"• {said}", highlight=False)
    console.print(
        f"Done in {time.perf_counter() - start:.0f} s. Picture and table are in {options.run_dir}.", highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
