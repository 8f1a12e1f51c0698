"""The guide to data can be followed: its commands run, in this order."""

import re
import shlex
from pathlib import Path

import photos
import pytest

from training import make_tfrecords, train

GUIDE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
PROGRAMS = {"training.train": train.main, "training.make_tfrecords": make_tfrecords.main}


def commands() -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^    (python -m training.*)$", GUIDE, flags=re.MULTILINE)]


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photos.make_folder(tmp_path / "photos", ["ant", "bee"], photos.numbered_photos(60))
    monkeypatch.chdir(tmp_path)
    assert [command[2] for command in commands()] == ["training.train", "training.make_tfrecords", "training.train"]
    for _, _, program, *arguments in commands():
        assert PROGRAMS[program](arguments) == 0, capsys.readouterr()
    assert len(list((tmp_path / "records").glob("train-*"))) == 4
    assert "96" in capsys.readouterr().out  # images to train on, of 120
