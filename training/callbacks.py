"""What happens beside the optimizer: the log, the best network, the checkpoint, schedules, and the progress on the screen.

Main logits, log, best and checkpoint are given to `fit` in this order. The checkpoint alone says how far a run is; whatever
a killed run had written after its last checkpoint is written again, with the same content, when it continues.
"""

import itertools
import math
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from keras_resnets.assembly import Network
from keras_resnets.layers import DropBlock
from training.run_folder import replacing, write_log


class MainLogits(keras.callbacks.Callback):
    """Gives the figures of the main logits, where there are auxiliary ones, the names that they have without."""

    NAMES: ClassVar = {"logits_cross_entropy": "loss", "logits_accuracy": "accuracy"}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = {} if logs is None else logs
        for prefix, (given, usual) in itertools.product(("", "val_"), self.NAMES.items()):
            if prefix + given in logs:
                logs[prefix + usual] = logs[prefix + given]


class Log(keras.callbacks.Callback):
    """One row per epoch in `log.csv`.

    Args:
        path: of the file.
        rows: of the epochs that are done already.
    """

    def __init__(self, path: Path, rows: list[dict[str, float]]) -> None:
        super().__init__()
        self.path, self.rows = path, rows

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss became {logs['loss']} in epoch {epoch + 1}; the checkpoint of the epoch before is kept. "
                "A smaller optimizer.lr may help"
            )
        self.rows.append({
            "epoch": epoch + 1,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "train_loss": logs["loss"],
            "train_accuracy": logs["accuracy"],
            "test_loss": logs["val_loss"],
            "test_accuracy": logs["val_accuracy"],
            "seconds": round(time.perf_counter() - self.start, 3),
        })  # fmt: skip
        write_log(self.path, self.rows)


class KeepBest(keras.callbacks.Callback):
    """Saves a network after the best epoch so far: the highest test accuracy, then the lowest test loss.

    Args:
        path: of the `.keras` file.
        network: has the layers of the trained one; it is not compiled, so that the file needs nothing of this folder to
            be loaded.
        rows: of the log.
    """

    def __init__(self, path: Path, network: Network, rows: list[dict[str, float]]) -> None:
        super().__init__()
        self.path, self.network, self.rows = path, network, rows

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if max(self.rows, key=lambda row: (row["test_accuracy"], -row["test_loss"])) is self.rows[-1]:
            with replacing(self.path) as temporary:
                self.network.save(temporary)


class Checkpoint(keras.callbacks.Callback):
    """Everything that the next epoch depends on, in one file: weights, statistics, optimizer state with the step count."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with replacing(self.path) as temporary:
            self.model.save_weights(temporary)


class DropBlockSchedule(keras.callbacks.Callback):
    """Raises the rates of all `DropBlock` layers linearly from nothing to their own over the run, step by step.

    The schedule of ResNeSt's recipe and of the paper (arXiv 1810.12890, section 4.1).

    Args:
        steps: optimizer steps of the whole run.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        layers = [layer for layer in self.model._flatten_layers() if isinstance(layer, DropBlock)]
        self.progresses = [layer.progress for layer in layers if layer.progress is not None]

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        for progress in self.progresses:
            progress.assign(int(self.model.optimizer.iterations) / self.steps)


class StopOnInterrupt(keras.callbacks.Callback):
    """Ctrl-C ends training after the current step: never in the middle of a file, never lost in somebody's destructor.

    A second Ctrl-C does what the first would have done without this.
    """

    def __enter__(self) -> "StopOnInterrupt":
        self.asked, self.usual = False, signal.getsignal(signal.SIGINT)
        if self.usual is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        signal.signal(signal.SIGINT, self.usual)

    def _note(self, *_: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.usual)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.asked:
            raise KeyboardInterrupt

    on_epoch_end = on_train_batch_end


class ProgressBar(keras.callbacks.Callback):
    """A bar over all steps of the run, and a line per epoch above it."""

    def __init__(self, console: Console, epochs: int, steps: int, batch_size: int, first_epoch: int) -> None:
        super().__init__()
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        self.task = self.progress.add_task("training", total=epochs * steps, completed=first_epoch * steps, rate="")

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.progress.stop()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.start = time.perf_counter()
        self.progress.update(self.task, description=f"epoch {epoch + 1} of {self.epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        rate = (batch + 1) * self.batch_size / (time.perf_counter() - self.start)
        self.progress.update(self.task, advance=1, rate=f"{rate:.0f} images/s")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        self.progress.console.print(
            f"epoch {epoch + 1:>3}  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:7.2%}  "
            f"test loss {logs['val_loss']:.3f}  test accuracy {logs['val_accuracy']:7.2%}",
            highlight=False,
        )
