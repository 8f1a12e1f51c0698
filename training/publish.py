"""Turns a finished run into a weights file of the package: `python -m training.publish runs/digits_resnet20`.

Writes a safetensors file with PyTorch's parameter names and layouts into `keras_resnets/data`, and the accuracy measured on
the weights as they are read back into their row of `keras_resnets/data/weights.csv`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

import keras_resnets as kr
from keras_resnets.assembly import Network
from training.data import load_data
from training.evaluate import evaluate, load_network
from training.recipe import load_recipe
from training.run_folder import RunFolder, replacing, write_text

DATA = Path(kr.__file__).parent / "data"


def write_safetensors(network: Network, path: Path, recipe: str) -> None:
    """Writes the parameters and running statistics of `network` under PyTorch's names, and the recipe as metadata.

    Same weights, same bytes: with more than one entry the order of the metadata would be random.
    """
    parameters = kr.pytorch_parameters(network)
    state = {name: np.ascontiguousarray(to_torch(variable)) for name, (variable, to_torch) in parameters.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(state, {"recipe": recipe}))


def record_accuracy(table: Path, network: str, tag: str, top1: float) -> None:
    """Puts `top1`, in percent, into the row of `network` and `tag` of `weights.csv`; the other rows stay as they are.

    Raises:
        ValueError: there is no such row.
    """
    lines = table.read_text("utf-8").splitlines()
    header = lines[0].split(",")
    places = [i for i, line in enumerate(lines) if line.split(",")[:2] == [network, tag]]
    if len(places) != 1:
        raise ValueError(f"{table.name} must have one row for weights {tag!r} of {network!r}, not {len(places)}")
    row = lines[places[0]].split(",")
    row[header.index("top1")] = f"{top1:.3f}"
    lines[places[0]] = ",".join(row)
    write_text(table, "\n".join(lines) + "\n")


def publish(folder: RunFolder, data_dir: Path = DATA) -> tuple[Path, float]:
    """Writes the final weights of a run into `data_dir` and their accuracy into its table.

    Returns:
        The path of the file, and the accuracy in percent, measured on the weights as they are read back from it.

    Raises:
        ValueError: the run is not finished, its recipe names no weights entry, or the table has no row for it.
    """
    network, recipe = load_network(folder.final), load_recipe(folder.recipe)
    if not recipe.model.preprocessing:
        raise ValueError("model.preprocessing must name the weights entry that the run is to be published as")
    path = data_dir / f"{recipe.model.name}.{recipe.model.preprocessing}.safetensors"
    write_safetensors(network, path, recipe.to_yaml())
    kr.load_pytorch_weights(network, path)
    accuracy = 100 * evaluate(network, load_data(recipe.data).test).accuracy
    record_accuracy(data_dir / "weights.csv", recipe.model.name, recipe.model.preprocessing, accuracy)
    return path, accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code, 1 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m training.publish", description="Publish the weights of a finished run."
    )
    parser.add_argument("run_dir", type=Path, help="a finished run folder of training.train")
    options = parser.parse_args(arguments)
    try:
        path, accuracy = publish(RunFolder(options.run_dir))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path.name}: {path.stat().st_size:,} bytes, test accuracy {accuracy:.3f} %, as weights.csv now says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
