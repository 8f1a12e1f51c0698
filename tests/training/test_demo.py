"""The demo: the figures of its table, and (slow) the whole of it with a short training."""

import json
import pathlib

import numpy as np
import pytest

import keras_resnets as kr
from training import demo
from training.data import load_data
from training.evaluate import Evaluation
from training.networks import build_network, preprocessing
from training.recipe import load_recipe
from training.run_folder import RunFolder


def test_figures_of_an_artifact(tmp_path: pathlib.Path) -> None:
    """A directory of 30 bytes whose outputs differ in one of four answers, by 0.5 at most."""
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"0" * 10)
    (tmp_path / "model" / "inner" / "b").write_bytes(b"0" * 20)
    reference = Evaluation(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1, 1]))
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]])
    row = demo.measured("format", tmp_path / "model", outputs, 1.5, reference)
    assert (row.size, row.accuracy, row.agreement, row.latency) == (30, 1.0, 0.75, 1.5)
    assert row.max_difference == pytest.approx(0.5)


def test_finished_demo_starts_afresh_and_nothing_else_is_removed(tmp_path: pathlib.Path) -> None:
    folder = RunFolder(tmp_path)
    for path in (folder.recipe, folder.final, folder.log, tmp_path / "notes.txt"):
        path.write_text("x")
    folder.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_wrong_input(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--set", "epoch=1", "--run-dir", str(tmp_path / "demo")]) == 1
    assert "'epochs'" in capsys.readouterr().err
    assert demo.main(["--arch", "resnest29_cifr", "--run-dir", str(tmp_path / "demo")]) == 1
    assert "did you mean 'resnest29_cifar'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("name", "tag"), [("resnet20_cifar", "digits"), ("resnest29_cifar", ""), ("resnest14d", "")])
def test_another_network(name: str, tag: str) -> None:
    recipe = load_recipe("digits_resnet20", demo.architecture(name))
    assert (recipe.name, recipe.model.name, recipe.model.preprocessing) == (f"digits_{name}", name, tag)
    assert build_network(recipe, load_data(recipe.data)).output_shape == (None, 10)
    # What the network sees in training is what its users are told to show it.
    image = np.full((1, 32, 32, 3), 100, "uint8")
    shown = kr.preprocess_input(image, build_network(recipe, load_data(recipe.data)))
    np.testing.assert_allclose(preprocessing(recipe)(image), shown, rtol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("resnest29_cifar", 32), ("inception_v3", 75)])
def test_images_are_large_enough(name: str, size: int) -> None:
    assert load_recipe("digits_resnet20", demo.architecture(name)).data.image_size == size


@pytest.mark.slow
def test_whole_demo(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = demo.main(["--set", "epochs=4", "--run-dir", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert code == (0 if results["accuracy"] >= 0.985 else 1)
    rows = {row["format"]: row for row in results["formats"]}
    assert list(rows) == ["Keras", "SavedModel", "TFLite float32", "TFLite int8", "ONNX"]
    for name in ("SavedModel", "TFLite float32", "ONNX"):
        assert rows[name]["max_difference"] < 1e-4 and rows[name]["agreement"] == 1
    assert rows["TFLite int8"]["agreement"] > 0.95
    assert rows["TFLite int8"]["size"] < rows["TFLite float32"]["size"] / 3
    assert (tmp_path / "report.html").stat().st_size > 100_000
    for name in ("curves.png", "confusion.png", "predictions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "TFLite int8" in capsys.readouterr().out
