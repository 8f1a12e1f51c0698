"""What the fixture `files` gives, and the commands of the guide."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

GUIDE = Path(__file__).parents[2] / "docs" / "tflite.md"


class Files(NamedTuple):
    """Two files of one network, and what `tflite.quantize` said."""

    float32: Path
    int8: Path
    said: str


def commands(program: str) -> list[list[str]]:
    """Arguments of the guide's commands that run `tflite.<program>`."""
    lines = re.findall(rf"^    python -m tflite\.{program}\b(.*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines]
