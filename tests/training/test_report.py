"""The report of a run: its figures are those of the log, and the page stands alone."""

import json
import pathlib
import re

import pytest
import tiny_run

from training import report
from training.run_folder import RunFolder, write_log

ROWS = [
    {"epoch": epoch, "learning_rate": 0.1 / epoch, "train_loss": 2 / epoch, "train_accuracy": 0.5, "test_loss": loss,
     "test_accuracy": accuracy, "images_per_second": 100.0 * epoch, "data_wait": 0.1 * epoch, "seconds": 40.0}
    for epoch, loss, accuracy in ((1, float("nan"), float("nan")), (2, 0.5, 0.75), (3, 0.25, 0.9))
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> RunFolder:
    place = RunFolder(tmp_path / "run")
    place.open(tiny_run.RECIPE)
    return place


def test_report(folder: RunFolder) -> None:
    write_log(folder.log, ROWS)
    classes = [
        {"name": f"<{digit}>", "images": 9, "recognised": digit, "recall": digit / 9} for digit in range(9, -1, -1)
    ]
    (folder.path / "evaluation.json").write_text(json.dumps({"classes": [*classes, {**classes[0], "name": "best"}]}))
    report.write_run_report(folder, tiny_run.RECIPE, [("a|b.jpg", "not an image")])
    text = (folder.path / "report.md").read_text("utf-8")
    for line in ("# tiny", "resnet20_cifar, 3 of 3 epochs, batches of 16.", "* test accuracy: 90.00%", "* training: 2 min 00 s",
                 "* images per second, median epoch: 200", "* of the time waiting for data: 20.0%",
                 "| 1 | 0.1 | 2.000 | 50.00% |  |  | 100 | 10% |", "| 3 | 0.0333 | 0.667 | 50.00% | 0.250 | 90.00% | 300 | 30% |",
                 "| <0> | 9 | 0 | 0.0% |", "| a\\|b.jpg | not an image |", "batch_size: 16"):  # fmt: skip
        assert line in text.splitlines(), line
    assert "best" not in text  # ten classes are listed, the lowest first
    page = (folder.path / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 1 and not re.search(r"https?://", page)
    assert "<b>90.00%</b><span>test accuracy</span>" in page and "&lt;0&gt;" in page and "<0>" not in page
    assert "$" not in page.split("data:image")[0]
    assert folder.curves.read_bytes().startswith(b"\x89PNG")
    assert not list(folder.path.glob(".partial-*"))


def test_run_without_tests_so_far(folder: RunFolder) -> None:
    write_log(folder.log, ROWS[:1])
    report.write_run_report(folder, tiny_run.RECIPE)
    text = (folder.path / "report.md").read_text("utf-8")
    assert "1 of 3 epochs" in text and "* test accuracy" not in text and "## Hardest" not in text


def test_run_without_a_log(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="no epoch of .* is logged yet"):
        report.write_run_report(folder, tiny_run.RECIPE)


def test_table_of_a_long_run() -> None:
    rows = [{**ROWS[1], "epoch": float(epoch)} for epoch in range(1, 301)]
    header, *lines = report.epoch_table(rows)
    assert header[0] == "epoch" and len(lines) == 12
    assert (lines[0][0], lines[-1][0]) == ("1", "300")
