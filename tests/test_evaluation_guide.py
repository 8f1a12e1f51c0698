"""The guide to preprocessing and evaluation can be followed: its code runs, its commands are ones."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

GUIDE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def test_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow", reason="the guide shows tf.data and a SavedModel")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(load_sample_image("china.jpg")).save("photo.jpg")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "evaluation.md", "exec"), names)
    assert names["views"].shape == (144, 224, 224, 3)  # type: ignore[attr-defined]
    assert names["probabilities"].shape == (10,)  # type: ignore[attr-defined]
    assert "224 80.382 and 288 81.24" in capsys.readouterr().out  # as timm publishes them
    assert (tmp_path / "digits_of_photos" / "saved_model.pb").is_file()


def test_commands_are_understood() -> None:
    evaluate = pytest.importorskip("training.evaluate", reason="needs the extra train")
    (commands,) = blocks("console")
    for line in commands.splitlines():
        python, module, program, *arguments = shlex.split(line)
        assert (python, module, program) == ("python", "-m", "training.evaluate")
        assert evaluate.parser().parse_args(arguments).models
