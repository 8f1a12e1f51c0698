"""What the training loop adds to the bare compiled train step of the same network, and what `fit` does.

python -m benchmarks.run train_loop [NETWORK …]

The loop of `training.train` runs as it always does: batches from its pipeline (images in memory, resized and normalised), metrics,
progress, signals. After every few of its steps it is held up while the others do as many: a train step and nothing else, compiled
as one function, on a batch that is there already; and `fit`, on batches from the same pipeline.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from benchmarks.harness import RESULTS, Comparison, Plan, Rounds, describe, environment
from benchmarks.options import add_options, choose, chosen_plan, measured_lately
from benchmarks.plot import Draw
from benchmarks.table import Target, spread, write_page
from training.data import LabelledImages, Split
from training.loop import Run
from training.losses import training_loss
from training.networks import build_network, preprocessing
from training.optimizers import make_optimizer
from training.pipeline import training_batches
from training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, Recipe, ScheduleRecipe
from training.run_folder import RunFolder
from training.strategy import open_strategy

TITLE = "The training loop beside a bare train step and Keras' fit, float32, CPU"
STEP, PROCESSOR = "train step", "processor time"
LOOP, BARE, FIT = "training.train", "bare step", "Keras fit"
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a network is trained here.

    Attributes:
        size: of the images.
        batch: images per step.
        steps: of everyone's turn.
    """

    size: int
    batch: int
    steps: int


NETWORKS = {
    "resnet20_cifar": Setting(32, 64, 4),
    "resnest29_cifar": Setting(32, 16, 4),
    "resnet18": Setting(224, 8, 2),
    "resnet50": Setting(224, 4, 2),
}


class Done(Exception):
    """Enough has been measured."""


def make_recipe(network: str, setting: Setting) -> Recipe:
    """SGD with momentum and L2; an epoch has more steps than are measured."""
    return Recipe(
        name=network, model=ModelRecipe(name=network), data=DataRecipe(source="digits", image_size=setting.size),
        optimizer=OptimizerRecipe(lr=0.01, l2=1e-4), schedule=ScheduleRecipe(name="constant"), epochs=1,
        batch_size=setting.batch,
    )  # fmt: skip


def make_data(setting: Setting, steps: int) -> LabelledImages:
    """Images of noise for an epoch of so many steps."""
    count = steps * setting.batch
    pixels = np.random.default_rng(0).integers(0, 256, (setting.batch, setting.size, setting.size, 3), dtype=np.uint8)
    images = Split(np.tile(pixels, (steps, 1, 1, 1)), np.arange(count) % CLASSES)
    return LabelledImages(images, Split(pixels, np.arange(setting.batch) % CLASSES), tuple(map(str, range(CLASSES))))


Clock = tuple[float, float]


def clock() -> Clock:
    """Seconds on the wall, and those that all threads of this process have worked."""
    return time.perf_counter(), time.process_time()


def bare_turn(recipe: Recipe, data: LabelledImages, steps: int) -> Callable[[], tuple[Clock, Clock]]:
    """A train step and nothing else: returns what takes a turn of them, and says when it began and ended."""
    network, optimizer, loss = build_network(recipe, data), make_optimizer(recipe, 0.01), training_loss(recipe)
    optimizer.build(network.trainable_variables)
    images, labels = next(iter(training_batches(data, recipe, preprocessing(recipe))))

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(loss(labels, network(images, training=True), None))
        weights = [variable.value for variable in network.trainable_variables]
        optimizer.apply(tape.gradient(mean, weights), network.trainable_variables)
        return mean

    def turn() -> tuple[Clock, Clock]:
        step(images, labels)
        start = clock()
        for _ in range(steps):
            last = step(images, labels)
        last.numpy()  # waits for a GPU
        return start, clock()

    return turn


class Clocks(keras.callbacks.Callback):
    """When an epoch's first and last step ended."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.end = clock()
        if batch == 0:
            self.start = self.end


def fit_turn(recipe: Recipe, data: LabelledImages, steps: int) -> Callable[[], tuple[Clock, Clock]]:
    """The same of Keras' own loop over the same batches, without what it does around them."""
    network = build_network(recipe, data)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(make_optimizer(recipe, 0.01), loss, metrics=["accuracy"])
    batches = training_batches(data, recipe, preprocessing(recipe))
    clocks = Clocks()

    def turn() -> tuple[Clock, Clock]:
        network.fit(batches, steps_per_epoch=steps + 1, verbose=0, callbacks=[clocks], shuffle=False)
        return clocks.start, clocks.end

    return turn


def settle() -> None:
    """Waits until the pipelines, which read ahead in threads of their own, have nothing to do."""
    working = True
    while working:
        before = time.process_time()
        time.sleep(0.05)
        working = time.process_time() - before > 0.005


class Turns:
    """Times the loop, which calls `after_step`, and lets the others have their turns in between.

    `wait` is called before the clock is read: it waits for a GPU.

    The first step of everyone's turn does not count, and neither does the first round, in which all is compiled.
    """

    def __init__(self, others: dict[str, Callable[[], tuple[Clock, Clock]]], steps: int, rounds: int) -> None:
        self.others, self.steps, self.rounds = others, steps, rounds
        self.times: dict[str, dict[str, Rounds]] = {name: {STEP: [], PROCESSOR: []} for name in (LOOP, *others)}
        self.start = clock()
        self.wait: Callable[[], Any] = lambda: None

    def after_step(self, done: int) -> None:
        """Of the loop: so many steps are done."""
        place = done % (self.steps + 1)
        if place > 1:
            return
        self.wait()
        if place == 1:
            self.start = clock()
            return
        turns = {LOOP: (self.start, clock())}
        for name, turn in self.others.items():
            settle()
            turns[name] = turn()
        settle()
        if done > self.steps + 1:
            for name, (start, end) in turns.items():
                for measure, before, after in zip((STEP, PROCESSOR), start, end, strict=True):
                    self.times[name][measure].append([1000 * (after - before) / self.steps])
        if len(self.times[LOOP][STEP]) == self.rounds:
            raise Done


def compare(network: str, rounds: int) -> Comparison:
    """Everyone's milliseconds per step, a mean per round."""
    setting = NETWORKS[network]
    recipe = make_recipe(network, setting)
    data = make_data(setting, (rounds + 1) * (setting.steps + 1) + 1)
    turns = Turns({BARE: bare_turn(recipe, data, setting.steps), FIT: fit_turn(recipe, data, setting.steps)},
                  setting.steps, rounds)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Done):
        run = Run(recipe, RunFolder(Path(folder)), data, Console(quiet=True), open_strategy("none"),
                  after_step=turns.after_step)  # fmt: skip
        turns.wait = run.trainer.optimizer.iterations.numpy
        run.train()
    packages = {package: importlib.metadata.version(package) for package in ("tensorflow", "keras", "numpy")}
    versions = {LOOP: {"python": platform.python_version(), **packages}}
    return Comparison(turns.times, versions, environment(Plan(rounds)))


def cells(measured: dict[str, Comparison]) -> list[list[str]]:
    """Header and rows."""
    rows = [["network", "size, batch", "", "train step, ms", f"÷ {BARE}", "processor time, ms", f"÷ {BARE}"]]
    for network, comparison in measured.items():
        for name in comparison.times:
            row = [network, f"{NETWORKS[network].size}, {NETWORKS[network].batch}", name]
            for measure in (STEP, PROCESSOR):
                row += [spread(comparison.time(name, measure)), spread(comparison.ratio(name, BARE, measure))]
            rows.append(row)
    return rows


def targets(measured: dict[str, Comparison]) -> list[Target]:
    """How far the loop is from the bare step, in the measure that other programs on the machine disturb least."""
    ratios = {network: comparison.ratio(LOOP, BARE, PROCESSOR).median for network, comparison in measured.items()}
    return [
        Target(f"{network}, processor time of {LOOP} ÷ {BARE}", ratio, at_most=1.05)
        for network, ratio in ratios.items()
    ]


def write_results(measured: dict[str, Comparison], folder: Path = RESULTS) -> None:
    """The table, how it was measured, what was aimed at, and every turn."""
    last = next(reversed(measured.values()))
    surroundings, versions = last.environment, ", ".join(f"{key} {value}" for key, value in last.versions[LOOP].items())
    how = (
        "Of one process, taking turns of a few steps. The bare step is forward, backward and update in one compiled function on a "
        "batch that is there already. The loop and `fit` take batches from the same pipeline, with images in memory, and keep loss "
        "and accuracy. Milliseconds per step, median (fastest–slowest) of the turns; ratios, median (smallest–largest), of turns "
        "next to each other. Processor time is that of all threads of the process: it hardly depends on what else the machine "
        f"does. {surroundings['rounds']} rounds. {describe(surroundings)}; {versions}."
    )
    networks = {name: {"versions": c.versions[LOOP], "milliseconds": c.times} for name, c in measured.items()}
    record = {"environment": surroundings, "networks": networks}
    write_page(
        "train_loop", TITLE, cells(measured), how, record, targets(measured), draw=drawing(measured), folder=folder
    )


def drawing(measured: dict[str, Comparison]) -> Draw:
    """The ratios by network, of processor time."""

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for place, (name, colour) in enumerate({LOOP: "tab:blue", FIT: "tab:gray"}.items()):
            ratios = [comparison.ratio(name, BARE, PROCESSOR) for comparison in measured.values()]
            errors = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
            places = [number + 0.4 * (place - 0.5) for number in range(len(ratios))]
            panel.barh(places, [r.median for r in ratios], 0.4, xerr=errors, color=colour, ecolor="black", label=name)
        panel.set_yticks(range(len(measured)), list(measured))
        panel.invert_yaxis()
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set(xlabel=f"processor time ÷ {BARE}", title=TITLE)
        figure.legend(loc="outside lower center", ncols=2)

    return draw


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run train_loop", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (default: all)")
    add_options(parser, Plan(rounds=15))
    options = parser.parse_args(arguments)
    rounds = chosen_plan(options).rounds
    networks = choose(options.networks, list(NETWORKS), parser)
    if measured_lately("train_loop", options):
        return
    measured: dict[str, Comparison] = {}
    for network in networks:
        measured[network] = compare(network, rounds)
        write_results(measured)  # after every network: a run that is stopped leaves what it has measured
