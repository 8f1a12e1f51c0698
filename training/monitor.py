"""What a run shows while it goes on: a bar with rate, time lost to data and time left; `log.csv`; TensorBoard's files."""

import collections
import math
import shutil
import time
from types import TracebackType

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from training.recipe import Recipe
from training.run_folder import RunFolder, read_log, write_log

COLUMNS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5",
           "images_per_second", "data_wait", "seconds")  # fmt: skip
REFRESH_SECONDS = 0.2  # between two pictures of the bar
LINE_SECONDS = 60.0  # between two lines within an epoch where there is no terminal
WINDOW = 50  # refreshes that rate and data wait are averaged over


class Monitor:
    """Shows and logs a run. A context manager; of several processes, one has it.

    On a terminal there is a bar, and a line above it for every epoch. Elsewhere, a log file say, there are the lines alone, and
    within long epochs one a minute.

    A run that continues keeps the rows of `log.csv` up to the epoch that `first_step` is in, and drops what was logged after the
    checkpoint: those epochs come again.

    Args:
        console: where to.
        folder: of the run.
        recipe: of the run.
        steps_per_epoch: optimizer steps.
        first_step: steps that were done before this process.
        tensorboard: write the figures of every epoch for TensorBoard as well, which need not be installed for that.
    """

    def __init__(self, console: Console, folder: RunFolder, recipe: Recipe, steps_per_epoch: int, first_step: int,
                 tensorboard: bool = False) -> None:  # fmt: skip
        self.console, self.folder, self.recipe = console, folder, recipe
        self.steps_per_epoch, self.first_step = steps_per_epoch, first_step
        self.steps = recipe.epochs * steps_per_epoch
        logged = read_log(folder.log)
        self.rows = [row for row in logged if row["epoch"] <= first_step // steps_per_epoch]
        if logged and not self.rows:
            folder.log.unlink()
        elif len(self.rows) < len(logged):
            self._write_log()
        self.writer = self._open_tensorboard() if tensorboard else None
        self.progress = None
        if console.is_terminal and not console.quiet:
            self.progress = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
                                     TextColumn("{task.fields[pace]}"), console=console, transient=True)  # fmt: skip
            self.task = self.progress.add_task(
                self._name(first_step), total=self.steps, completed=first_step, pace="the first step takes longer"
            )
        self.waited = 0.0  # seconds for data, since the start
        self.next_refresh = -math.inf
        self.next_line = math.inf
        # Time, steps done and seconds waited; the first is after the first step, which compiles.
        self.marks: collections.deque[tuple[float, int, float]] = collections.deque(maxlen=WINDOW)
        self.start: tuple[float, int] | None = None

    def __enter__(self) -> "Monitor":
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self.progress:
            self.progress.stop()
        if self.writer:
            self.writer.close()

    def step(self, step: int, data_seconds: float) -> None:
        """An optimizer step is done.

        Args:
            step: how many are done by now, of the whole run.
            data_seconds: how long this one waited for its images.
        """
        self.waited += data_seconds
        now = time.perf_counter()
        if now >= self.next_refresh:
            self._refresh(now, step)

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch is done: a line on the screen, a row of `log.csv`, a point for TensorBoard.

        Args:
            row: figures by the names of `COLUMNS`, and others; those of the test only after epochs with one.
        """
        self.rows.append(row)
        self._write_log()
        if self.writer:
            _write_point(self.writer, row)
        self.note(self._line(row))
        self.marks.clear()  # of the time between two epochs, with test and checkpoint, the rate knows nothing
        self.next_line = time.perf_counter() + LINE_SECONDS

    def note(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _write_log(self) -> None:
        known = dict.fromkeys(COLUMNS) | dict.fromkeys(key for row in self.rows for key in row)
        columns = [key for key in known if any(key in row for row in self.rows)]
        write_log(self.folder.log, [{key: row.get(key, math.nan) for key in columns} for row in self.rows])

    def _refresh(self, now: float, step: int) -> None:
        self.next_refresh = now + REFRESH_SECONDS
        if self.start is None:
            self.start, self.next_line = (now, step), now + LINE_SECONDS
        self.marks.append((now, step, self.waited))
        if self.progress:
            self.progress.update(self.task, completed=step, description=self._name(step), pace=self._pace())
        elif now >= self.next_line:
            self.next_line = now + LINE_SECONDS
            self.note(f"{self._name(step)}  step {step:,} of {self.steps:,}  {self._pace()}")

    def _name(self, step: int) -> str:
        """Of the epoch in which `step` steps were done."""
        epochs = str(self.recipe.epochs)
        return f"epoch {min(max(step - 1, 0) // self.steps_per_epoch + 1, self.recipe.epochs):>{len(epochs)}}/{epochs}"

    def _pace(self) -> str:
        """Rate and data wait of late, and the time left at the speed of all that was done, tests and checkpoints included."""
        (then, first, waited_then), (now, last, waited) = self.marks[0], self.marks[-1]
        if last <= first or self.start is None:
            return ""
        rate = (last - first) * self.recipe.batch_size / (now - then)
        wait = min((waited - waited_then) / (now - then), 1.0)
        left = (now - self.start[0]) / (last - self.start[1]) * (self.steps - last)
        return f"{rate:,.0f} images/s  data wait {wait:.0%}  {duration(left)} left"

    def _line(self, row: dict[str, float]) -> str:
        parts = [self._name(round(row["epoch"]) * self.steps_per_epoch)]
        for key, shown in (("train_loss", "loss {:.3f}"), ("train_accuracy", "accuracy {:.2%}"),
                           ("test_loss", "test loss {:.3f}"), ("test_accuracy", "test accuracy {:.2%}"),
                           ("test_top5", "top-5 {:.2%}"), ("images_per_second", "{:,.0f} images/s"),
                           ("data_wait", "data wait {:.0%}")):  # fmt: skip
            if key in row and not math.isnan(row[key]):
                parts.append(shown.format(row[key]))
        if "seconds" in row:
            parts.append(duration(row["seconds"]))
        return "  ".join(parts)

    def _open_tensorboard(self) -> tf.summary.SummaryWriter:
        """A file with the epochs done so far, as `log.csv` has them: what was written after the checkpoint is gone."""
        shutil.rmtree(self.folder.tensorboard, ignore_errors=True)
        writer = tf.summary.create_file_writer(str(self.folder.tensorboard))
        for row in self.rows:
            _write_point(writer, row)
        return writer


def _write_point(writer: tf.summary.SummaryWriter, row: dict[str, float]) -> None:
    """An epoch's figures, as `tf.summary.scalar` writes them, which is a part of TensorBoard."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    scalar = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class=1)
    with writer.as_default():
        for key, value in row.items():
            if key != "epoch" and not math.isnan(value):
                tf.summary.write(key, tf.constant(value, tf.float32), int(row["epoch"]), scalar)
    writer.flush()


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit: "45 s", "3 min 20 s", "2 h 05 min", "3 d 04 h"."""
    whole = round(seconds)
    for (unit, size), (smaller, part) in ((("d", 86400), ("h", 3600)), (("h", 3600), ("min", 60)),
                                          (("min", 60), ("s", 1))):  # fmt: skip
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {smaller}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
