"""The loop around the steps: epochs, tests, checkpoints, and every way in which a run may end.

A run is stopped by Ctrl-C, by SIGTERM (machines that are taken away), by SIGKILL or a power cut; started again it continues from
its last checkpoint. Everything that a step does follows from the weights and the step's number, so it ends in the same weights.
"""

import contextlib
import dataclasses
import math
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from training.checkpoints import Checkpoint, Checkpoints
from training.data import Data
from training.distillation import load_teacher
from training.interruption import Interrupted, Signals
from training.losses import training_loss
from training.monitor import Monitor
from training.networks import Deployable, build_network, preprocessing
from training.optimizers import make_optimizer
from training.pipeline import Share, replica_batch, steps_per_epoch, test_batches, training_batches
from training.recipe import Recipe
from training.run_folder import RunFolder
from training.schedules import make_schedule
from training.start import start_from
from training.step import Trainer
from training.strategy import Place, require_same

SAVE, STOP = 1.0, 1000.0  # wishes of a process; their sum says what all of them do
LOOK_EVERY = 100  # steps between two looks whether the loss is a number


@dataclasses.dataclass
class Epoch:
    """Of the epoch under way: seconds since its start and seconds of these that training waited for images."""

    seconds: float = 0.0
    waited: float = 0.0


def make_trainer(recipe: Recipe, data: Data) -> Trainer:
    """Network, optimizer and everything else that the steps of `recipe` need, in the scope of the current strategy."""
    steps = steps_per_epoch(data, recipe)
    network = build_network(recipe, data)
    start_from(network, recipe)
    average = None
    if recipe.ema:
        average = build_network(recipe, data)
        average.set_weights(network.get_weights())
    size = recipe.data.image_size
    teacher = load_teacher(recipe, len(data.class_names), (size, size, 3))
    optimizer = make_optimizer(recipe, make_schedule(recipe, steps))
    return Trainer(network, recipe, optimizer, training_loss(recipe), recipe.epochs * steps, average, teacher)


class Run:
    """A run of a recipe in a folder, from its beginning or from its last checkpoint.

    Args:
        recipe: what to do.
        folder: takes everything that comes of it.
        data: images.
        console: where the chief speaks.
        place: of this process among those of the run.
        tensorboard: log for TensorBoard as well.
        minutes: between two checkpoints; there is one after every epoch besides.
        after_step: called with the number of optimizer steps done, after each.

    Raises:
        ValueError: the recipe cannot be carried out, `folder` holds a run of another recipe or only damaged checkpoints, or
            the processes do not do the same.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, data: Data, console: Console, place: Place,
                 tensorboard: bool = False, minutes: float = 10.0,
                 after_step: Callable[[int], None] = lambda step: None) -> None:  # fmt: skip
        self.recipe, self.folder, self.data, self.place = recipe, folder, data, place
        self.minutes, self.after_step, self.console, self.tensorboard = minutes, after_step, console, tensorboard
        self.steps = steps_per_epoch(data, recipe)
        size = replica_batch(recipe, Share(place.strategy.num_replicas_in_sync, place.worker, place.workers))
        if size % recipe.accumulate:
            raise ValueError(f"accumulate must divide a replica's {size} images of a batch, not be {recipe.accumulate}")
        self.preprocess = preprocessing(recipe)
        folder.require(recipe)
        keras.utils.set_random_seed(recipe.seed)
        with place.strategy.scope():
            self.trainer = make_trainer(recipe, data)
        self.checkpoints, self.epoch, self.saved = Checkpoints(folder.checkpoints), Epoch(), time.monotonic()
        self._deployable: Deployable | None = None
        self.wishes: Any = 0.0
        self.first_step = self._restore()
        if place.chief:
            folder.open(recipe)

    def train(self) -> None:
        """Trains to the end and saves what came of it.

        Raises:
            FloatingPointError: the loss is no longer a number. The last checkpoint is kept.
            Interrupted: by a signal. A checkpoint is written.
        """
        with contextlib.ExitStack() as stack:
            self.monitor = None
            if self.place.chief:
                self.monitor = stack.enter_context(
                    Monitor(self.console, self.folder, self.recipe, self.steps, self.first_step, self.tensorboard)
                )
            self.signals = stack.enter_context(Signals())
            self._epochs()
            values = self._values()
            if self.place.chief:
                self._deploy(self.folder.final, values)

    def _epochs(self) -> None:
        strategy, first = self.place.strategy, self.first_step
        if first == self.recipe.epochs * self.steps:
            return
        batches = iter(strategy.distribute_datasets_from_function(
            lambda context: training_batches(self.data, self.recipe, self.preprocess, _share(context), first)
        ))  # fmt: skip
        tests = strategy.distribute_datasets_from_function(
            lambda context: test_batches(self.data, self.recipe, self.preprocess, _share(context))
        )
        for epoch in range(first // self.steps, self.recipe.epochs):
            last = (epoch + 1) * self.steps
            for done in range(max(first, epoch * self.steps) + 1, last + 1):
                agreed = self._step(batches, done)
                if done == last:  # before any checkpoint of this step, which is one of a whole epoch
                    self._end_epoch(epoch + 1, tests)
                if agreed or done == last:
                    self._save(done)
                if agreed >= STOP:
                    raise Interrupted(self.signals.received or signal.SIGTERM)

    def _step(self, batches: Iterator[Any], done: int) -> float:
        """The step after which `done` are done; returns what the processes wish together."""
        start = time.perf_counter()
        images, labels = next(batches)
        loaded = time.perf_counter()
        wish = self._wish()
        # What the processes wish together is known without waiting once the next step has been started.
        wishes = self.trainer.train(images, labels, tf.constant(wish))
        agreed, self.wishes = float(self.wishes) if self.place.workers > 1 else wish, wishes
        now = time.perf_counter()
        self.epoch.seconds += now - start
        self.epoch.waited += loaded - start
        if self.monitor:
            self.monitor.step(done, loaded - start)
        if done % LOOK_EVERY == 0:
            self._look(done)
        self.after_step(done)
        return agreed

    def _wish(self) -> float:
        if self.signals.received:
            return STOP
        if self.place.chief and time.monotonic() - self.saved > 60 * self.minutes:
            self.saved = time.monotonic()
            return SAVE
        return 0.0

    def _look(self, done: int) -> None:
        loss = float(self.trainer.train_metrics[0].result())
        scale = self.trainer.loss_scale
        if not math.isfinite(loss) or (scale and float(scale.factor) < 1e-3):
            what = f"the loss became {loss}" if not math.isfinite(loss) else "float16 gradients overflow at any scale"
            raise FloatingPointError(
                f"{what} in epoch {(done - 1) // self.steps + 1}; the last checkpoint is kept. A smaller optimizer.lr may help"
            )

    def _end_epoch(self, epoch: int, tests: Any) -> None:
        trainer = self.trainer
        self._look(epoch * self.steps)
        loss, accuracy = (float(metric.result()) for metric in trainer.train_metrics)
        row = {"epoch": epoch, "learning_rate": float(trainer.optimizer.learning_rate), "train_loss": loss,
               "train_accuracy": accuracy}  # fmt: skip
        tested = epoch % self.recipe.test_every == 0 or epoch == self.recipe.epochs
        if tested:
            row |= dict(zip(("test_loss", "test_accuracy", "test_top5"), self._test(tests), strict=True))
        seconds = max(self.epoch.seconds, 1e-9)
        row |= {"images_per_second": round(self.steps * self.recipe.batch_size / seconds, 1),
                "data_wait": round(self.epoch.waited / seconds, 4), "seconds": round(seconds, 3)}  # fmt: skip
        values = self._values() if tested else {}
        for metric in trainer.train_metrics:
            metric.reset_state()
        self.epoch = Epoch()
        if self.monitor:
            self.monitor.epoch(row)
            if tested and math.isfinite(row["test_loss"]) and _best(self.monitor.rows) is self.monitor.rows[-1]:
                self._deploy(self.folder.best, values)

    def _test(self, tests: Any) -> list[float]:
        """Loss, accuracy and top-5 accuracy on the held-out images."""
        self.trainer.synchronise()
        for metric in self.trainer.test_metrics:
            metric.reset_state()
        for batch in tests:
            self.trainer.test(*batch)
        return [float(metric.result()) for metric in self.trainer.test_metrics]

    def _values(self) -> dict[str, np.ndarray]:
        """The weights that are tested and saved, by path. All processes take part."""
        self.trainer.synchronise()
        return {variable.path: _array(variable) for variable in self.trainer.tested.weights}

    def _deploy(self, path: Path, values: dict[str, np.ndarray]) -> None:
        self._deployable = self._deployable or Deployable(self.recipe, self.data)
        self._deployable.save(path, values)

    def _save(self, done: int) -> None:
        """Writes a checkpoint. All processes take part, the chief writes."""
        self.trainer.synchronise()
        arrays = {name: _array(variable) for name, variable in self.trainer.variables().items()}
        if self.place.chief:
            self.checkpoints.save(Checkpoint(done, arrays, dataclasses.asdict(self.epoch)))
        self.saved = time.monotonic()

    def _restore(self) -> int:
        """Takes up the last checkpoint; returns how many steps are done."""
        found, problems = self.checkpoints.latest()
        step = found.step if found else 0
        require_same(self.place, step, zlib.crc32(self.recipe.to_yaml().encode()))
        if self.place.chief:
            for path, problem in problems.items():
                self.checkpoints.put_aside(path)
                self.console.print(f"{problem}: put aside.", highlight=False)
        if found is None:
            return 0
        variables = self.trainer.variables()
        if strange := sorted(set(variables) ^ set(found.arrays)):
            raise ValueError(f"the checkpoints in {str(self.folder.checkpoints)!r} are of another version of this program: "
                             f"{strange[0]!r} is in only one of them and the network. Remove them to train anew")  # fmt: skip
        for name, variable in variables.items():
            variable.assign(found.arrays[name])
        self.epoch = Epoch(**found.notes)
        if self.place.chief:
            self.console.print(f"Continuing after step {step} of {self.recipe.epochs * self.steps}.", highlight=False)
        return step


def _best(rows: list[dict[str, float]]) -> dict[str, float]:
    """The row with the highest test accuracy, of equal ones with the lowest test loss, of equal ones the first."""
    tested = [row for row in rows if math.isfinite(row.get("test_loss", math.nan))]
    return max(tested, key=lambda row: (row["test_accuracy"], -row["test_loss"]))


def _share(context: tf.distribute.InputContext) -> Share:
    return Share(context.num_replicas_in_sync, context.input_pipeline_id, context.num_input_pipelines)


def _array(variable: Any) -> np.ndarray:
    return tf.identity(variable.value if isinstance(variable, keras.Variable) else variable).numpy()
