"""Trains a network after a recipe: `python -m training.train training/recipes/digits_resnet20.yaml`.

A run folder takes everything that comes of it, see `training.run_folder`. Started again after an interruption, the program
continues from the last checkpoint and ends in the same weights as a run that was never interrupted.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_resnets.costs import without_values
from training import dry_run, plots, report
from training.data import Data, open_data
from training.interruption import Interrupted
from training.loop import Run
from training.networks import build_network
from training.pipeline import steps_per_epoch
from training.recipe import Recipe, flatten, load_recipe
from training.run_folder import RunFolder, read_log
from training.strategy import STRATEGIES, Place, WorkerLost, open_strategy, together

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
AGAIN = 75  # "temporary failure" of sysexits.h: the same command again continues


def train(recipe: Recipe, folder: RunFolder, data: Data, console: Console, place: Place | None = None,
          tensorboard: bool = False, minutes: float = 10.0,
          after_step: Callable[[int], None] = lambda step: None) -> None:  # fmt: skip
    """Trains after `recipe` until its last epoch, from the beginning or from the last checkpoint in `folder`.

    Arguments and errors are those of `training.loop.Run` and its `train`; by default there is one process on one device.
    """
    place = place or Place(tf.distribute.get_strategy())
    with together(place):
        Run(recipe, folder, data, console, place, tensorboard, minutes, after_step).train()
    if place.chief:
        plots.save(plots.curves(read_log(folder.log), recipe.name), folder.curves)
        report.write_run_report(folder, recipe, data.problems())


def announce(recipe: Recipe, folder: RunFolder, data: Data, console: Console, place: Place | None = None) -> None:
    """Prints what a run of `recipe` will do."""
    console.print(recipe.description or recipe.name, highlight=False, style="bold")
    table = Table(show_header=False, box=None)
    steps = steps_per_epoch(data, recipe)
    with without_values():
        network = build_network(recipe, data)
    for key, value in flatten(recipe).items():
        if key not in ("name", "description"):
            table.add_row(key, str(value))
    table.add_section()
    table.add_row(
        "images", f"{data.train_count} to train on, {data.test_count} held out, {len(data.class_names)} classes"
    )
    table.add_row("parameters", f"{sum(math.prod(v.shape) for v in network.trainable_variables):,}")
    table.add_row("steps", f"{steps} per epoch, {steps * recipe.epochs} in all")
    if place is not None:
        table.add_row("devices", place.title)
    table.add_row("run folder", os.fspath(folder.path))
    console.print(table, highlight=False)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train a network after a recipe.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("recipe", nargs="?", help="a YAML file, or the name of one in training/recipes")
    which.add_argument("--recipe", dest="named", metavar="RECIPE", help="the same")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="change a value of the recipe, such as optimizer.lr=0.2 (may be repeated)")  # fmt: skip
    parser.add_argument("--run-dir", type=Path, help="folder for the results (default: runs/NAME)")
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0, metavar="MINUTES",
                        help="between two checkpoints within an epoch (default: 10)")  # fmt: skip
    parser.add_argument("--strategy", choices=STRATEGIES, default="auto",
                        help="none: one device; mirrored: all GPUs of this machine; multiworker: several machines; tpu; "
                             "auto (default): what there is")  # fmt: skip
    parser.add_argument("--workers", default="", metavar="HOST:PORT,…",
                        help="addresses of all processes of a multiworker run (default: from TF_CONFIG or SLURM)")  # fmt: skip
    parser.add_argument("--worker", type=int, metavar="N", help="number of this process among them, from 0")
    parser.add_argument("--devices", type=int, default=0, metavar="N",
                        help="replicas on the CPU of this process, to try strategies out")  # fmt: skip
    parser.add_argument("--tensorboard", action="store_true", help="log for TensorBoard as well")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="with --dry-run: a picture of the learning rate")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0; 1 for wrong input or a loss that is no number; 130 after Ctrl-C and 143 after
    SIGTERM, with a checkpoint written; 75 if another worker is gone."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        recipe = load_recipe(options.named or options.recipe, options.overrides)
        folder = RunFolder(options.run_dir or Path("runs") / recipe.name)
        place = open_strategy(options.strategy, options.workers, options.worker, options.devices)
        console.quiet = not place.chief
        data = open_data(recipe.data)
        if options.dry_run:
            with without_values():
                network = build_network(recipe, data)
            dry_run.describe(recipe, data, network, console, place.strategy.num_replicas_in_sync, options.plot)
            return 0
        announce(recipe, folder, data, console, place)
        train(recipe, folder, data, console, place, options.tensorboard, options.checkpoint_minutes)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except WorkerLost as error:
        print(f"error: {error}", file=sys.stderr)
        return AGAIN
    except (Interrupted, KeyboardInterrupt) as error:
        console.print("\nInterrupted. The same command continues from the last checkpoint.")
        return 128 + error.number if isinstance(error, Interrupted) else INTERRUPTED
    if place.chief:
        last: Any = read_log(folder.log)[-1]
        console.print(f"Test accuracy {last['test_accuracy']:.2%}. Results are in {folder.path}.", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
