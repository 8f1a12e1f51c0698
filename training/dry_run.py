"""What a run would do, without doing it: the resolved recipe, steps, learning rate and memory."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_resnets.assembly import Network
from keras_resnets.costs import without_values
from training import memory, plots
from training.data import Data
from training.networks import build_network
from training.pipeline import steps_per_epoch
from training.recipe import Recipe, flatten
from training.schedules import make_schedule

WIDTH, HEIGHT = 64, 10  # of the chart, in characters
EIGHTHS = " ▁▂▃▄▅▆▇█"
POINTS = 512  # of the picture, at most


def describe(recipe: Recipe, data: Data, network: Network, console: Console, replicas: int = 1,
             plot: Path | None = None) -> None:  # fmt: skip
    """Prints what a run of `recipe` would do.

    Args:
        recipe: of the run.
        data: its images.
        network: its network.
        console: where to.
        replicas: over all processes.
        plot: a PNG file for the learning rate.

    Raises:
        ValueError: there are too few images for a batch.
    """
    steps = steps_per_epoch(data, recipe)
    total = steps * recipe.epochs
    console.print(recipe.description or recipe.name, highlight=False, style="bold")
    table = Table(show_header=False, box=None)
    for key, value in flatten(recipe).items():
        if key not in ("name", "description"):
            table.add_row(key, _text(value))
    table.add_section()
    trained, all_weights = (sum(math.prod(v.shape) for v in variables) for variables in
                            (network.trainable_variables, network.weights))  # fmt: skip
    table.add_row(
        "images", f"{data.train_count:,} to train on, {data.test_count:,} held out, {len(data.class_names)} classes"
    )
    table.add_row("parameters", f"{trained:,} trained, {all_weights:,} with statistics and what is frozen")
    table.add_row("steps", f"{steps:,} per epoch, {total:,} in all")
    table.add_row("memory of a step", _memory(recipe, data, network, replicas))
    console.print(table, highlight=False)
    shown, rates = learning_rates(recipe, steps, WIDTH)
    console.print(f"\nLearning rate over the {total:,} steps", highlight=False)
    for line in chart(rates, _block_characters(console)):
        console.print(line, highlight=False, no_wrap=True, overflow="crop")
    console.print(f"{'':10}0{f'{total:,}':>{len(shown) - 1}}", highlight=False)
    if plot is not None:
        at, rates = learning_rates(recipe, steps, POINTS)
        plots.save(plots.learning_rate([step / steps for step in at], rates, recipe.name), plot)
        console.print(f"Its picture is in {plot}.", highlight=False)


def learning_rates(recipe: Recipe, steps: int, points: int) -> tuple[list[int], list[float]]:
    """At most `points` steps, from the first to the last of the run, and their learning rates."""
    total = steps * recipe.epochs
    schedule = make_schedule(recipe, steps)
    at = sorted({round(step) for step in np.linspace(0, total - 1, min(points, total))})
    return at, [float(schedule(step)) for step in at]


def chart(values: Sequence[float], characters: str = EIGHTHS, height: int = HEIGHT) -> list[str]:
    """Columns as high as `values`, the highest `height` lines high; the scale on the left starts at 0.

    Args:
        values: at least 0.
        characters: from empty to full.
        height: in lines.
    """
    top = max(values) or 1.0
    parts = len(characters) - 1
    heights = [round(value / top * height * parts) for value in values]
    lines = []
    for line in reversed(range(height)):
        scale = f"{top * (line + 1) / height:>9.3g}" if line == height - 1 or line == height // 2 - 1 else " " * 9
        lines.append(scale + " " + "".join(characters[min(max(high - line * parts, 0), parts)] for high in heights))
    return lines


def _block_characters(console: Console) -> str:
    """Blocks, or stars where the encoding has none."""
    try:
        EIGHTHS.encode(console.encoding or sys.getdefaultencoding())
    except UnicodeEncodeError:
        return " *"
    return EIGHTHS


def _memory(recipe: Recipe, data: Data, network: Network, replicas: int) -> str:
    if None in network.input_shape[1:]:  # it is tested at another size; here it has that of training, and no values
        with without_values():
            square = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, test_size=0))
            network = build_network(square, data)
    needed = memory.estimate(network, recipe, replicas)
    parts = {"weights": needed.weights, "gradients": needed.gradients, "optimizer": needed.optimizer,
             "activations": needed.activations}  # fmt: skip
    listed = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    where = f" on each of {replicas} replicas" if replicas > 1 else ""
    return f"about {_bytes(needed.total)}{where} ({listed}); an estimate"


def _bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
