"""The monitor of a run: what is logged, shown and kept when a run continues."""

import dataclasses
import io
import math
import pathlib
from typing import Any

import pytest
import tensorflow as tf
import tiny_run
from rich.console import Console

from training import monitor
from training.monitor import Monitor, duration
from training.run_folder import RunFolder, read_log

STEPS = 100
RECIPE = dataclasses.replace(tiny_run.RECIPE, epochs=4, batch_size=16)


class Clock:
    """In the place of `time`: seconds pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(monitor, "time", own)
    return own


def row(epoch: int, **more: float) -> dict[str, float]:
    return {
        "epoch": epoch,
        "learning_rate": 0.1,
        "train_loss": 1 / epoch,
        "train_accuracy": 0.5,
        "seconds": 2.0,
        **more,
    }


def screen(terminal: bool, width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rows(tmp_path: pathlib.Path) -> None:
    """A row per epoch in a fixed order of columns; what an epoch without a test lacks is not a number."""
    folder, console = RunFolder(tmp_path), screen(terminal=False, width=40)
    with Monitor(console, folder, RECIPE, STEPS, 0) as shown:
        shown.epoch({"seconds": 61.2, **{key: value for key, value in row(1).items() if key != "seconds"}})
        assert [line["epoch"] for line in read_log(folder.log)] == [1]
        shown.epoch(row(2, test_loss=0.25, test_accuracy=0.975, data_wait=0.125, images_per_second=1234.4, extra=3.0))
    rows = read_log(folder.log)
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
                             "images_per_second", "data_wait", "seconds", "extra"]  # fmt: skip
    assert math.isnan(rows[0]["test_accuracy"]) and rows[1]["test_accuracy"] == 0.975
    # One whole line per epoch, however narrow the screen, and nothing but text.
    assert text(console).splitlines() == [
        "epoch 1/4  loss 1.000  accuracy 50.00%  1 min 01 s",
        "epoch 2/4  loss 0.500  accuracy 50.00%  test loss 0.250  test accuracy 97.50%  1,234 images/s  data wait 12%  2.0 s",
    ]


def test_resumed_log(tmp_path: pathlib.Path) -> None:
    """The checkpoint is of step 250, in the third epoch: the third and fourth epoch that were logged come again."""
    folder = RunFolder(tmp_path)
    with Monitor(screen(terminal=False), folder, RECIPE, STEPS, 0) as shown:
        for epoch in (1, 2, 3, 4):
            shown.epoch(row(epoch, train_loss=9.0))
    with Monitor(screen(terminal=False), folder, RECIPE, STEPS, 250) as shown:
        assert [line["epoch"] for line in read_log(folder.log)] == [1, 2]
        for epoch in (3, 4):
            shown.epoch(row(epoch, train_loss=5.0))
        assert shown.rows == read_log(folder.log)
    assert [(line["epoch"], line["train_loss"]) for line in read_log(folder.log)] == [(1, 9), (2, 9), (3, 5), (4, 5)]


def test_log_of_a_run_without_a_checkpoint(tmp_path: pathlib.Path) -> None:
    folder = RunFolder(tmp_path)
    Monitor(screen(terminal=False), folder, RECIPE, STEPS, 0).epoch(row(1))
    assert Monitor(screen(terminal=False), folder, RECIPE, STEPS, 30).rows == []
    assert not folder.log.exists()


def test_bar(tmp_path: pathlib.Path, clock: Clock) -> None:
    """Steps of 16 images take 0.1 s, a quarter of it waiting: 160 images/s, and 20 s for the 200 steps that are left."""
    console = screen(terminal=True)
    with Monitor(console, RunFolder(tmp_path), RECIPE, STEPS, 0) as shown:
        for step in range(1, 202):
            shown.step(step, 0.025)
            clock.now += 0.1
        assert shown.progress is not None
        (task,) = shown.progress.tasks
        assert task.description == "epoch 3/4" and task.total == 400
        assert task.completed == pytest.approx(200, abs=2)
        assert task.fields["pace"] == "160 images/s  data wait 25%  20 s left"
        shown.note("a word")
    assert "a word\n" in text(console)


def test_rate_is_that_of_late_and_time_left_counts_everything(tmp_path: pathlib.Path, clock: Clock) -> None:
    """A test of 100 s after the first epoch does not lower the rate, but the rest of the run will have such tests too."""
    with Monitor(screen(terminal=True), RunFolder(tmp_path), RECIPE, STEPS, 0) as shown:
        for step in range(1, 151):
            shown.step(step, 0.0)
            clock.now += 1
            if step == 100:
                clock.now += 100
                shown.epoch(row(1))
        shown.step(151, 0.0)
        assert shown.progress is not None
        assert (
            shown.progress.tasks[0].fields["pace"] == "16 images/s  data wait 0%  6 min 55 s left"
        )  # 249 * 250 / 150 s


def test_a_step_draws_rarely(tmp_path: pathlib.Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast steps are, the bar is brought up to date five times a second; all else is adding numbers."""
    calls: list[Any] = []
    shown = Monitor(screen(terminal=True), RunFolder(tmp_path), RECIPE, 25_000, 0)
    monkeypatch.setattr(shown, "_refresh", lambda now, step: calls.append(step) or Monitor._refresh(shown, now, step))
    for step in range(1, 100_001):
        shown.step(step, 1e-6)
        clock.now += 1e-4
    assert 45 <= len(calls) <= 51  # in ten seconds
    assert shown.waited == pytest.approx(0.1)


def test_long_epochs_on_no_terminal(tmp_path: pathlib.Path, clock: Clock) -> None:
    """A line a minute within an epoch, none in short ones, and no control characters."""
    console = screen(terminal=False)
    with Monitor(console, RunFolder(tmp_path), RECIPE, STEPS, 0) as shown:
        for step in range(1, 101):
            shown.step(step, 1.0)
            clock.now += 2
        shown.epoch(row(1))
        for step in range(101, 201):
            shown.step(step, 0.0)
            clock.now += 0.5
        shown.epoch(row(2))
    lines = text(console).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/4"] * 4 + ["epoch 2/4"]
    assert lines[0] == "epoch 1/4  step 31 of 400  8 images/s  data wait 50%  12 min 18 s left"
    assert not any(ord(character) < 32 for line in lines for character in line)


def events(folder: RunFolder) -> dict[tuple[str, int], float]:
    found = {}
    for path in folder.tensorboard.iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_tensorboard(tmp_path: pathlib.Path) -> None:
    """Every figure of every epoch; a run that continues has one file, without what came after the checkpoint."""
    folder = RunFolder(tmp_path)
    with Monitor(screen(terminal=False), folder, RECIPE, STEPS, 0, tensorboard=True) as shown:
        shown.epoch(row(1))
        shown.epoch(row(2, test_accuracy=0.75))
    assert events(folder)["test_accuracy", 2] == 0.75
    with Monitor(screen(terminal=False), folder, RECIPE, STEPS, 100, tensorboard=True) as shown:
        shown.epoch(row(2, test_accuracy=0.5))
    assert len(list(folder.tensorboard.iterdir())) == 1
    assert events(folder) == {
        ("learning_rate", 1): pytest.approx(0.1), ("train_loss", 1): 1.0, ("train_accuracy", 1): 0.5, ("seconds", 1): 2.0,
        ("learning_rate", 2): pytest.approx(0.1), ("train_loss", 2): 0.5, ("train_accuracy", 2): 0.5, ("seconds", 2): 2.0,
        ("test_accuracy", 2): 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min"),
     (86400 * 3 + 3600 * 4, "3 d 04 h")],
)  # fmt: skip
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said
