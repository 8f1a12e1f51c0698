"""The benchmark of the training loop: whose time is measured, and what its page says."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="the loop is TensorFlow's")

from benchmarks import train_loop
from benchmarks.harness import Comparison, Plan, environment
from benchmarks.train_loop import BARE, FIT, LOOP, PROCESSOR, STEP, Done, Turns


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps each, after one that does not count; the first round does not count either."""
    now = [0.0, 0.0]
    monkeypatch.setattr(train_loop, "clock", lambda: tuple(now))
    monkeypatch.setattr(train_loop, "settle", lambda: None)

    def bare() -> tuple[train_loop.Clock, train_loop.Clock]:
        now[0] += 100  # of the step that does not count
        before = tuple(now)
        now[0] += 2
        now[1] += 4
        return before, tuple(now)

    turns = Turns({BARE: bare}, steps=2, rounds=2)
    with pytest.raises(Done):
        for done in range(1, 100):
            now[0] += 50 if done % 3 == 1 else 3
            now[1] += 5
            turns.after_step(done)
    assert done == 9
    assert turns.times == {
        LOOP: {STEP: [[3000.0], [3000.0]], PROCESSOR: [[5000.0], [5000.0]]},
        BARE: {STEP: [[1000.0], [1000.0]], PROCESSOR: [[2000.0], [2000.0]]},
    }


def test_page(tmp_path: Path) -> None:
    times = {
        LOOP: {STEP: [[110.0], [110.0]], PROCESSOR: [[105.0], [104.0]]},
        BARE: {STEP: [[100.0], [100.0]], PROCESSOR: [[100.0], [100.0]]},
        FIT: {STEP: [[120.0], [120.0]], PROCESSOR: [[120.0], [118.0]]},
    }
    measured = {"resnet50": Comparison(times, {LOOP: {"keras": "3.0"}}, environment(Plan(2)))}
    train_loop.write_results(measured, tmp_path)
    lines = (tmp_path / "train_loop.md").read_text("utf-8").splitlines()
    assert (
        "| resnet50 | 224, 4 | training.train | 110 (110–110) | 1.1 (1.1–1.1) | 104 (104–105) | 1.04 (1.04–1.05) |"
        in lines
    )
    assert lines[-1] == "* resnet50, processor time of training.train ÷ bare step: 1.04 (target: at most 1.05; met)"
    picture = (tmp_path / "train_loop.svg").read_text("utf-8")
    assert all(text in picture for text in ("resnet50", LOOP, FIT))
    record = json.loads((tmp_path / "train_loop.json").read_text("utf-8"))
    assert record["networks"]["resnet50"]["milliseconds"] == times
    assert record["targets"][0]["measured"] == pytest.approx(1.045) and record["targets"][0]["met"]
