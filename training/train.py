"""Trains a network after a recipe: `python -m training.train training/recipes/digits_resnet20.yaml`.

A run folder takes everything that comes of it, see `training.run_folder`. Started again after an interruption, the program
continues from the last whole epoch and ends in the same weights as a run that was never interrupted.
"""

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.features import without_auxiliary
from keras_resnets.preprocessing import Preprocess
from training import callbacks, plots
from training.data import LabelledImages, load_data, training_batches
from training.optimizers import LAMB, SGD
from training.recipe import Recipe, flatten, load_recipe
from training.run_folder import RunFolder, read_log, replacing
from training.schedules import WarmupCosine, WarmupSteps

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def build_network(recipe: Recipe, data: LabelledImages) -> Network:
    """The network of `recipe`, freshly initialised, for the classes and image size of `data`.

    Raises:
        ValueError: the recipe weighs auxiliary logits that the network does not have, or does not weigh those it has.
    """
    network = kr.create_model(recipe.model.name, classes=len(data.class_names), input_shape=data.train.images.shape[1:],
                              **recipe.model.options)  # fmt: skip
    if len(network.outputs) > 1 and not recipe.aux_weight:
        raise ValueError("aux_weight must be above 0 (usually 0.4) for a network with auxiliary logits")
    if len(network.outputs) == 1 and recipe.aux_weight:
        raise ValueError(f"aux_weight must be 0, not {recipe.aux_weight}, for {network.name!r} without auxiliary logits "
                         "(model.options.aux_logits)")  # fmt: skip
    network.weights_tag = recipe.model.preprocessing or None
    return network


def per_output(network: Network, value: Any) -> Any:
    """`value`, or with auxiliary logits a dict that holds it for them and the others."""
    return dict.fromkeys(network.output, value) if isinstance(network.output, dict) else value


def preprocessing(recipe: Recipe) -> Callable[[Any], Any]:
    """From pixels 0..255 to what the recipe's weights entry expects."""
    return Preprocess.of(recipe.model.name, recipe.model.preprocessing or None)


def steps_per_epoch(recipe: Recipe, data: LabelledImages) -> int:
    """Optimizer steps in an epoch.

    Raises:
        ValueError: there are fewer images than a batch has.
    """
    steps = len(data.train) // recipe.batch_size
    if not steps:
        raise ValueError(f"batch_size {recipe.batch_size} is more than the {len(data.train)} training images")
    return steps


def make_schedule(recipe: Recipe, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate over a run of `steps` steps per epoch, scaled for the recipe's batch size."""
    peak, schedule = recipe.optimizer.lr, recipe.schedule
    if recipe.optimizer.lr_batch:
        peak *= recipe.batch_size / recipe.optimizer.lr_batch
    warmup_steps = round(schedule.warmup_epochs * steps)
    if schedule.name == "step":
        return WarmupSteps(peak, warmup_steps, [round(epoch * steps) for epoch in schedule.drop_epochs], schedule.factor)
    return WarmupCosine(peak, warmup_steps, recipe.epochs * steps)


def make_optimizer(recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with its schedule."""
    wanted, schedule = recipe.optimizer, make_schedule(recipe, steps)
    if wanted.name == "lamb":
        return LAMB(schedule, wanted.weight_decay)
    return SGD(schedule, wanted.momentum, wanted.nesterov, wanted.l2)


def compile_network(network: Network, recipe: Recipe, steps: int) -> None:
    """Gives `network` the recipe's loss and an optimizer with its state, ready to be trained or restored."""
    optimizer = make_optimizer(recipe, steps)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    if isinstance(network.output, dict):  # Keras averages each output's own loss over batches, whatever their sizes
        cross_entropy = keras.metrics.CategoricalCrossentropy("cross_entropy", label_smoothing=recipe.label_smoothing)
        network.compile(optimizer, per_output(network, loss), {"logits": 1.0, "aux_logits": recipe.aux_weight},
                        metrics={"logits": ["accuracy", cross_entropy]})  # fmt: skip
    else:
        network.compile(optimizer, loss, metrics=["accuracy"])
    optimizer.build(network.trainable_variables)


def train(recipe: Recipe, folder: RunFolder, data: LabelledImages, console: Console,
          more_callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:  # fmt: skip
    """Trains after `recipe` until its last epoch, from the beginning or from the checkpoint in `folder`.

    Raises:
        ValueError: the recipe cannot be carried out, or `folder` holds a run of another recipe.
        FloatingPointError: the loss is no longer a number.
    """
    steps = steps_per_epoch(recipe, data)
    keras.utils.set_random_seed(recipe.seed)
    network = build_network(recipe, data)
    compile_network(network, recipe, steps)
    folder.open(recipe)
    first_epoch = 0
    if folder.checkpoint.exists():
        network.load_weights(folder.checkpoint)
        first_epoch = int(network.optimizer.iterations) // steps
        console.print(f"Continuing after epoch {first_epoch} of {recipe.epochs}.", highlight=False)
    rows = read_log(folder.log)[:first_epoch]
    bare = without_auxiliary(network)
    preprocess, classes = preprocessing(recipe), len(data.class_names)
    batches = training_batches(data.train, classes, preprocess, recipe.augment, recipe.batch_size, recipe.seed,
                               range(first_epoch, recipe.epochs))  # fmt: skip
    test_labels = keras.utils.to_categorical(data.test.labels, classes)
    bar = callbacks.ProgressBar(console, recipe.epochs, steps, recipe.batch_size, first_epoch)
    with bar, callbacks.StopOnInterrupt() as stop:
        network.fit(
            batches.map(lambda images, labels: (images, per_output(network, labels))),
            epochs=recipe.epochs, initial_epoch=first_epoch, steps_per_epoch=steps, shuffle=False, verbose=0,
            validation_data=(preprocess(data.test.images), per_output(network, test_labels)),
            validation_batch_size=recipe.batch_size,
            callbacks=[
                callbacks.MainLogits(), bar, callbacks.DropBlockSchedule(recipe.epochs * steps),
                callbacks.Log(folder.log, rows), callbacks.KeepBest(folder.best, bare, rows),
                callbacks.Checkpoint(folder.checkpoint), stop, *more_callbacks,
            ],
        )  # fmt: skip
    with replacing(folder.final) as temporary:
        bare.save(temporary)
    plots.save(plots.curves(read_log(folder.log), recipe.name), folder.curves)


def tensorboard(folder: RunFolder) -> keras.callbacks.Callback:
    """Logs to `folder` for TensorBoard.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs TensorBoard, which is not installed: pip install tensorboard")
    return keras.callbacks.TensorBoard(folder.tensorboard, write_graph=False)


def announce(recipe: Recipe, folder: RunFolder, data: LabelledImages, console: Console) -> None:
    """Prints what a run of `recipe` will do."""
    console.print(recipe.description or recipe.name, highlight=False, style="bold")
    table = Table(show_header=False, box=None)
    steps, network = steps_per_epoch(recipe, data), build_network(recipe, data)
    for key, value in flatten(recipe).items():
        if key not in ("name", "description"):
            table.add_row(key, str(value))
    table.add_section()
    table.add_row(
        "images", f"{len(data.train)} to train on, {len(data.test)} held out, {len(data.class_names)} classes"
    )
    table.add_row("parameters", f"{sum(math.prod(v.shape) for v in network.trainable_variables):,}")
    table.add_row("steps", f"{steps} per epoch, {steps * recipe.epochs} in all")
    table.add_row("run folder", os.fspath(folder.path))
    console.print(table, highlight=False)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train a network after a recipe.")
    parser.add_argument("recipe", help="a YAML file, or the name of one in training/recipes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="change a value of the recipe, such as optimizer.lr=0.2 (may be repeated)")  # fmt: skip
    parser.add_argument("--run-dir", type=Path, help="folder for the results (default: runs/NAME)")
    parser.add_argument(
        "--tensorboard", action="store_true", help="log for TensorBoard as well (which must be installed)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        recipe = load_recipe(options.recipe, options.overrides)
        folder = RunFolder(options.run_dir or Path("runs") / recipe.name)
        data = load_data(recipe.data)
        announce(recipe, folder, data, console)
        if options.dry_run:
            return 0
        train(recipe, folder, data, console, [tensorboard(folder)] if options.tensorboard else [])
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. The same command continues from the last whole epoch.")
        return INTERRUPTED
    last = read_log(folder.log)[-1]
    console.print(f"Test accuracy {last['test_accuracy']:.2%}. Results are in {folder.path}.", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
