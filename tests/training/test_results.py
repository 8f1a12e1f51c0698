"""What is made of a trained network: figures, pictures, the report, and the published weights file."""

import html.parser
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
from matplotlib.figure import Figure

import keras_resnets as kr
from training import plots, publish, report
from training.data import load_data
from training.evaluate import Evaluation, evaluate, load_network, main, per_class_table
from training.networks import build_network
from training.recipe import load_recipe
from training.run_folder import RunFolder

RECIPE = load_recipe("digits_resnet20")


@pytest.fixture
def evaluation() -> Evaluation:
    """Five images of three classes, of which the last two are taken for class 0 and class 1."""
    probabilities = [[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.05, 0.9, 0.05]]
    return Evaluation(np.array(probabilities), np.array([0, 0, 1, 1, 2]))


def test_figures(evaluation: Evaluation) -> None:
    assert evaluation.accuracy == pytest.approx(3 / 5)
    np.testing.assert_array_equal(evaluation.confusion, [[2, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_per_class_table(evaluation: Evaluation) -> None:
    columns = [list(column.cells) for column in per_class_table(evaluation, ("a", "b", "c")).columns]
    assert columns == [
        ["a", "b", "c"], ["2", "2", "1"], ["2", "1", "0"], ["100.0%", "50.0%", "0.0%"], ["66.7%", "50.0%", "-"],
    ]  # fmt: skip


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in (axes.title, *axes.texts)]


def test_worst_predictions_come_first(evaluation: Evaluation) -> None:
    images = np.zeros((5, 4, 4, 3), np.uint8)
    sheet = plots.predictions(images, evaluation.labels, evaluation.probabilities, ("a", "b", "c"), "title", count=3)
    assert texts(sheet)[:3] == ["c (5%)\ntaken for b (90%)", "b (30%)\ntaken for a (60%)", "a (50%)"]


def test_confusion_picture_counts_every_image(evaluation: Evaluation) -> None:
    picture = plots.confusion(evaluation.confusion, ("a", "b", "c"), "title")
    assert sorted(texts(picture)[1:]) == ["1", "1", "1", "2"]


def test_curves_show_the_log() -> None:
    rows = [
        {"epoch": epoch, "learning_rate": 0.1, "train_loss": 1 / epoch, "train_accuracy": 0.9, "test_loss": 2 / epoch,
         "test_accuracy": 1 - 0.1 / epoch}
        for epoch in (1, 2)
    ]  # fmt: skip
    loss, error, rate = plots.curves(rows, "title").axes
    np.testing.assert_allclose([line.get_ydata() for line in loss.lines], [[1, 0.5], [2, 1]])
    np.testing.assert_allclose([line.get_ydata() for line in error.lines], [[10, 10], [10, 5]])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [0.1, 0.1])
    for axes in (loss, error, rate):
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()


class _Page(html.parser.HTMLParser):
    """The addresses, table cells and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_self_contained(tmp_path: pathlib.Path) -> None:
    picture = tmp_path / "picture.png"
    plots.save(plots.confusion(np.eye(2, dtype=int), ("a", "b"), "title"), picture)
    names = ("title", "subtitle", "formats_text", "training_text", "confusion_text", "predictions_text", "repeat_text",
             "recipe", "environment")  # fmt: skip
    path = tmp_path / "report.html"
    report.write(path, texts={name: f"<{name}> $1 & more" for name in names}, facts=[("99.9%", "accuracy")],
                 formats=[("format", "size"), ("ONNX", "1 < 2")],
                 pictures={name: picture for name in ("curves", "confusion", "predictions")})  # fmt: skip
    page = _Page()
    page.feed(path.read_text("utf-8"))
    assert len(page.addresses) == 3
    assert all(address.startswith("data:image/png;base64,iVBOR") for address in page.addresses)
    for text in (*(f"<{name}> $1 & more" for name in names), "99.9%", "1 < 2"):
        assert text in page.text


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run folder with an untrained network in it, which for these tests is as good as a trained one."""
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    folder.open(RECIPE)
    network = build_network(RECIPE, load_data(RECIPE.data), "softmax")
    network.save(folder.final)
    return folder


def test_evaluate_program(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished.path)]) == 0
    results = json.loads((finished.path / "evaluation.json").read_text())
    assert results["images"] == 360 == np.sum(results["confusion"])
    assert results["accuracy"] == pytest.approx(np.trace(results["confusion"]) / 360)
    assert f"{results['accuracy']:.2%}" in capsys.readouterr().out
    for name in ("confusion.png", "predictions.png"):
        assert (finished.path / name).read_bytes().startswith(b"\x89PNG")


def test_evaluate_program_without_a_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "final.keras" in capsys.readouterr().err


def test_publish(finished: RunFolder, tmp_path: pathlib.Path) -> None:
    """The file holds the network under PyTorch's names; the table changes in one cell; a second time gives the same bytes."""
    before = (publish.DATA / "weights.csv").read_text("utf-8")
    shutil.copy(publish.DATA / "weights.csv", tmp_path)
    path, accuracy = publish.publish(finished, tmp_path)
    after = (tmp_path / "weights.csv").read_text("utf-8")
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [new.split(",")[8] for _, new in changed] == [f"{accuracy:.3f}"]
    assert all(new.startswith("resnet20_cifar,digits,") and old.count(",") == new.count(",") for old, new in changed)

    state = safetensors.numpy.load_file(path)
    assert state["conv1.weight"].shape == (16, 3, 3, 3) and state["bn1.running_var"].shape == (16,)
    loaded, images = kr.create_model("resnet20_cifar", weights=str(path)), np.ones((1, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(loaded(images), load_network(finished.final)(images))
    first = path.read_bytes()
    publish.publish(finished, tmp_path)
    assert path.read_bytes() == first


def test_shipped_digits_weights() -> None:
    """The accuracy in the table is that of the file beside it, on images that the recipe held out."""
    data = load_data(RECIPE.data)
    network = kr.create_model("resnet20_cifar", weights="digits")
    published = kr.model_info("resnet20_cifar").weights["digits"].top1
    assert published >= 98.5
    assert 100 * evaluate(network, data.test).accuracy == pytest.approx(published, abs=100 / len(data.test) + 1e-3)
