"""tflite.benchmark: settings take turns, each in a process of its own."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

from files_of_digits import Files, commands

from tflite import benchmark
from tflite.benchmark import Setting, Timing


def test_program(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files.int8.parent)
    (command,) = commands("benchmark")
    short = ["--threads", "1", "--runs", "4", "--warmup", "1", "--turns", "2", "--out", str(tmp_path / "out")]
    assert benchmark.main([*command, *short]) == 0
    assert "digits_int8.tflite" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["benchmark.json", "benchmark.png"]
    settings = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))["settings"]
    assert [(row["file"], row["xnnpack"]) for row in settings] == [
        (file.name, on) for on in (True, False) for file in (files.float32, files.int8)]  # fmt: skip
    for row in settings:
        assert row["calls"] == 8
        assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert (row["partitions"] > 0) == row["xnnpack"]
        assert 0 < row["own_bytes"] < row["peak_bytes"]


def test_files_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def turn(setting: Setting, *numbers: int) -> dict[str, object]:
        asked.append(setting.file.name)
        return {"milliseconds": [float(len(asked))], "peak_bytes": 10 - len(asked), "own_bytes": 1, "partitions": 1}

    monkeypatch.setattr(benchmark, "_turn", turn)
    chosen = [Setting(Path(name), 1, True) for name in ("a", "b")]
    timings = benchmark.measure(chosen, batch=1, warmup=1, runs=1, turns=3)
    assert asked == ["a", "b", "a", "b", "a", "b"]
    assert [list(timing.milliseconds) for timing in timings] == [[1, 3, 5], [2, 4, 6]]
    assert [timing.peak_bytes for timing in timings] == [5, 4]


def test_percentiles() -> None:
    timing = Timing(Setting(Path("a"), 1, True), np.arange(1.0, 102.0), 1, 1, 1)
    assert (timing.percentile(50), timing.percentile(90), timing.percentile(99)) == (51, 91, 100)


def test_batch_that_the_file_does_not_take(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([str(files.int8), "--batch", "3", "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "batch of 1, not 3" in line
    assert not (tmp_path / "out").exists()
