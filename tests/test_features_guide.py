"""The code of docs/features.md runs as it stands."""

import importlib.util
import pathlib
import re

import pytest

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "features.md").read_text("utf-8")
CHAPTERS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def _code(*chapters: str) -> str:
    return "\n".join(
        block for chapter in chapters for block in re.findall(r"```python\n(.*?)```", CHAPTERS[chapter], re.DOTALL)
    )


def test_code_runs() -> None:
    exec(compile(_code("Levels", "Output stride", "Feature pyramid", "DeepLabV3"), "features.md", "exec"), {})


@pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="KerasHub is not installed: pip install keras-hub"
)
def test_code_for_keras_hub_runs() -> None:
    exec(compile("import keras_resnets as kr\n" + _code("KerasHub"), "features.md", "exec"), {})
