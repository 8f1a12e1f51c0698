"""Training runs: what they leave in their folder, and what they answer to wrong input; killed ones are in `test_resume`."""

import dataclasses
import json
import os
import pathlib
import signal
import zipfile
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tiny_run

from training import train
from training.checkpoints import Checkpoints
from training.interruption import Signals
from training.recipe import load_recipe
from training.run_folder import RunFolder, read_log, replacing


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nobody interrupted."""
    return tiny_run.run(tmp_path_factory.mktemp("whole"))


def weights(path: pathlib.Path) -> list[np.ndarray]:
    return keras.models.load_model(path).get_weights()


def test_run_folder(whole: RunFolder) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names == {"recipe.yaml", "environment.json", "log.csv", "checkpoints", "best.keras", "final.keras",
                     "curves.png", "report.md", "report.html"}  # fmt: skip
    assert load_recipe(whole.recipe) == tiny_run.RECIPE
    assert [path.name for path in Checkpoints(whole.checkpoints).paths] == [
        f"step-00000000{step}.safetensors" for step in (9, 6, 3)
    ]
    assert json.loads(whole.environment.read_text())["packages"]["keras"] == keras.__version__
    assert whole.curves.read_bytes().startswith(b"\x89PNG")


def test_log(whole: RunFolder) -> None:
    """Three epochs of three steps, the first of them the warm-up."""
    rows = read_log(whole.log)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    # The rate of the step that would come next: steps 3, 6 and 9 of 9, of which 3 are the warm-up.
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [0.05, 0.025, 0.0], atol=1e-8)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_saved_networks_need_nothing_of_training(whole: RunFolder) -> None:
    for path in (whole.final, whole.best):
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
        assert not config.get("compile_config")
        assert "training" not in json.dumps([config["module"], config["registered_name"]])
    network = keras.models.load_model(whole.final)
    assert (network.variant, network.weights_tag) == ("resnet20_cifar", "digits")
    probabilities = network.predict(np.zeros((2, 16, 16, 3)), verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's handler of Ctrl-C, which a shell takes away from what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_waits_for_the_step() -> None:
    """Ctrl-C raises nothing at once, is noted, and the usual handler is back for a second one."""
    usual = signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        assert not signals.received
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is usual
    assert signal.getsignal(signal.SIGINT) is usual


def test_finished_run_started_again(whole: RunFolder) -> None:
    before, log = weights(whole.final), whole.log.read_text()
    tiny_run.run(whole.path)
    for old, new in zip(before, weights(whole.final), strict=True):
        np.testing.assert_array_equal(old, new)
    assert whole.log.read_text() == log


def test_another_recipe_in_the_same_folder(whole: RunFolder) -> None:
    changed = dataclasses.replace(tiny_run.RECIPE, batch_size=8)
    with pytest.raises(ValueError, match=r"batch_size \(16 there, 8 now\)"):
        tiny_run.run(whole.path, changed)


def test_batch_larger_than_the_data(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="batch_size 64 is more than the 52 training images"):
        tiny_run.run(tmp_path / "run", dataclasses.replace(tiny_run.RECIPE, batch_size=64))
    assert not (tmp_path / "run").exists()


def test_diverging_run_stops_and_says_so(tmp_path: pathlib.Path) -> None:
    optimizer = dataclasses.replace(tiny_run.RECIPE.optimizer, lr=1e30)
    recipe = dataclasses.replace(tiny_run.RECIPE, optimizer=optimizer, epochs=2)
    with pytest.raises(FloatingPointError, match=r"epoch 1.*optimizer\.lr"):
        tiny_run.run(tmp_path, recipe)
    assert not RunFolder(tmp_path).checkpoints.exists()


def test_interrupted_write_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_program_on_wrong_input(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["digits_resnet20", "--set", "model.name=resnet20_cifa", "--run-dir", str(tmp_path / "run")]) == 1
    assert "'resnet20_cifar'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "--recipe",
        "digits_resnet20",
        "--set",
        "batch_size=100",
        "--run-dir",
        str(tmp_path / "run"),
        "--dry-run",
    ]
    assert train.main(command) == 0
    said = capsys.readouterr().out
    assert "269,722" in said and "14 per epoch" in said and "1,437 to train on, 360 held out" in said
    assert not (tmp_path / "run").exists()
