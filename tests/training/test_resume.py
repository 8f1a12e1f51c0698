"""Runs that are killed, stopped, damaged: started again, they end in the same weights as one that nobody touched."""

import dataclasses
import multiprocessing
import os
import pathlib
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tiny_run

from training import train
from training.checkpoints import Checkpoint, Checkpoints
from training.run_folder import RunFolder, read_log

# Processes are copies of one that has imported everything: an import of TensorFlow for each would take most of the time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tiny_run"])

# Everything that has a state of its own: averages, random masks, LAMB's moments; a checkpoint after every step.
OPTIONS = {"depth": 1, "drop_path_rate": 0.2, "dropout_rate": 0.1}
RECIPE = dataclasses.replace(
    tiny_run.RECIPE,
    model=dataclasses.replace(tiny_run.RECIPE.model, options=OPTIONS),
    optimizer=dataclasses.replace(
        tiny_run.RECIPE.optimizer, name="lamb", lr=0.01, l2=0.0, weight_decay=0.02, clip_norm=1.0
    ),
    augment=dataclasses.replace(tiny_run.RECIPE.augment, mixup=0.2, cutmix=1.0, erasing=0.25),
    ema=0.8,
)


def run(folder: pathlib.Path, first_step_done: Any = None) -> None:
    """To the end, with a word when the first step is done."""
    note = (lambda step: first_step_done.set()) if first_step_done else (lambda step: None)
    tiny_run.run(folder, RECIPE, note, minutes=0)


def in_process(target: Callable[..., Any], *arguments: Any) -> Any:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def finish(process: Any) -> None:
    process.join()
    assert process.exitcode == 0


def killed_run(folder: pathlib.Path, delay: float) -> bool:
    """Whether a run in `folder` was killed before its end, `delay` seconds after its first step."""
    started = PROCESSES.Event()
    process = in_process(run, folder, started)
    assert started.wait(300)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, float]:
    """A run that nobody touched, and the seconds from its first step to its end."""
    folder, started = tmp_path_factory.mktemp("whole"), PROCESSES.Event()
    process = in_process(run, folder, started)
    assert started.wait(300)
    start = time.perf_counter()
    finish(process)
    return RunFolder(folder), time.perf_counter() - start


def assert_same(folder: RunFolder, other: RunFolder) -> None:
    """To the last bit: weights of the network that is saved, everything in the last checkpoint, figures of the log."""
    ours, theirs = (keras.models.load_model(each.final).get_weights() for each in (folder, other))
    for mine, yours in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, yours)
    mine, yours = (Checkpoints(each.checkpoints).latest()[0] for each in (folder, other))
    assert mine is not None and yours is not None and mine.step == yours.step == 9
    for name in mine.arrays.keys() | yours.arrays.keys():
        np.testing.assert_array_equal(mine.arrays[name], yours.arrays[name], err_msg=name)
    timings = {"seconds": 0, "images_per_second": 0, "data_wait": 0}
    assert [row | timings for row in read_log(folder.log)] == [row | timings for row in read_log(other.log)]


def check_kill_points(whole: tuple[RunFolder, float], folder: pathlib.Path, count: int, seed: int) -> None:
    reference, seconds = whole
    draw = random.Random(seed)
    killed = 0
    for number in range(count):
        place = folder / str(number)
        # One in each part of the run, so that a few kill points are spread over it as well.
        killed += killed_run(place, seconds * (number + draw.random()) / count)
        finish(in_process(run, place))
        assert_same(RunFolder(place), reference)
    assert killed >= count // 3, "a run that has ended before it is killed shows nothing"


def test_kill_points(whole: tuple[RunFolder, float], tmp_path: pathlib.Path) -> None:
    """SIGKILL at three random moments."""
    check_kill_points(whole, tmp_path, count=3, seed=1)


@pytest.mark.series
def test_many_kill_points(whole: tuple[RunFolder, float], tmp_path: pathlib.Path) -> None:
    """SIGKILL at twenty random moments."""
    check_kill_points(whole, tmp_path, count=20, seed=2)


def stopped(folder: pathlib.Path, step: int, number: int) -> None:
    """A run that gets a signal from outside after a step; ends with the program's exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells take away from what runs in the background
    data = train.open_data
    train.open_data = lambda recipe: tiny_run.data()  # type: ignore[assignment]
    original = train.train

    def train_with_signal(*arguments: Any) -> None:
        original(*arguments, lambda done: os.kill(os.getpid(), number) if done == step else None)

    train.train = train_with_signal
    (folder.parent / "recipe.yaml").write_text(RECIPE.to_yaml(), "utf-8")
    code = train.main([str(folder.parent / "recipe.yaml"), "--run-dir", str(folder)])
    train.open_data, train.train = data, original
    os._exit(code)


@pytest.mark.parametrize(("number", "code", "step"), [(signal.SIGTERM, 143, 4), (signal.SIGINT, 130, 6)])
def test_signals(whole: tuple[RunFolder, float], tmp_path: pathlib.Path, number: int, code: int, step: int) -> None:
    """Pre-emption in the middle of an epoch, Ctrl-C at the end of one: a checkpoint, the documented exit code, no step lost."""
    process = in_process(stopped, tmp_path / "run", step, number)
    process.join()
    assert process.exitcode == code
    found, _ = Checkpoints(RunFolder(tmp_path / "run").checkpoints).latest()
    assert found is not None and found.step in (step, step + 1)
    finish(in_process(run, tmp_path / "run"))
    assert_same(RunFolder(tmp_path / "run"), whole[0])


def checkpoint(step: int) -> Checkpoint:
    arrays = {
        "network/0": np.full((3, 2), step, "float32"),
        "optimizer/0": np.array(step, "int64"),
        "empty": np.zeros((0, 2)),
    }
    return Checkpoint(step, arrays, {"seconds": 0.1 + step})


def test_checkpoints_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest() == (None, {})
    for step in (5, 30, 200):
        checkpoints.save(checkpoint(step))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-000000200.safetensors", "step-000000030.safetensors"}
    found, problems = checkpoints.latest()
    assert found is not None and not problems
    assert (found.step, found.notes) == (200, {"seconds": 200.1})
    for name, array in checkpoint(200).arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found.arrays[name], array)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip_last_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def claim_another_step(path: pathlib.Path) -> None:
    content = path.read_bytes()
    assert content.count(b'\\"step\\": 30') == 1
    path.write_bytes(content.replace(b'\\"step\\": 30', b'\\"step\\": 31'))


@pytest.mark.parametrize("damage", [truncate, flip_last_bit, empty, claim_another_step])
def test_damaged_checkpoints(tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]) -> None:
    """The one before is taken; the damaged one is named, and does not count any more once it is put aside."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 30):
        checkpoints.save(checkpoint(step))
    newest = checkpoints.paths[0]
    damage(newest)
    found, problems = checkpoints.latest()
    assert found is not None and found.step == 5
    assert list(problems) == [newest] and "step-000000030.safetensors is damaged" in problems[newest]
    checkpoints.put_aside(newest)
    checkpoints.save(checkpoint(40))
    assert [path.name for path in checkpoints.paths] == ["step-000000040.safetensors", "step-000000005.safetensors"]
    for path in checkpoints.paths:
        empty(path)
    with pytest.raises(
        ValueError, match="no checkpoint in .* can be used.*step-000000040.*step-000000005.*Remove them"
    ):
        checkpoints.latest()


def test_what_a_kill_left_is_removed(tmp_path: pathlib.Path) -> None:
    """Half of a checkpoint that was being written: with time the disk would be full of them."""
    half = tmp_path / ".partial-step-000000004.safetensors"
    half.write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(checkpoint(5))
    assert not half.exists() and len(checkpoints.paths) == 1


def test_a_checkpoint_without_numbers_is_not_written(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(checkpoint(5))
    poisoned = Checkpoint(6, {"network/0": np.array([1.0, np.nan])})
    with pytest.raises(FloatingPointError, match="after step 6"):
        checkpoints.save(poisoned)
    found, _ = checkpoints.latest()
    assert found is not None and found.step == 5
