"""The code of docs/mobile.md: Python's runs as it stands, Kotlin's and Swift's read what the files have."""

import json
import re
import zipfile
from pathlib import Path

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

PAGE = (Path(__file__).parents[2] / "docs" / "mobile.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the scanned digits")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks("python")), "mobile.md", "exec"), {})
    assert "top-1 agreement 100.00%" in capsys.readouterr().out
    with zipfile.ZipFile("digits_int8.tflite") as archive:
        facts = json.loads(archive.read("preprocessing.json"))
        (kotlin,), (swift,) = blocks("kotlin"), blocks("swift")
        assert set(re.findall(r'getAssociatedFile\("(.+?)"\)', kotlin)) == set(archive.namelist())
        assert set(re.findall(r'contents\("(.+?)"\)', swift)) == set(archive.namelist())
    used = re.findall(r'facts\.get\w+\("(\w+)"\)', kotlin)
    (struct,) = re.findall(r"struct Facts: Decodable \{\n\s+let (.+)\n", swift)
    decoded = re.findall(r"(\w+): ", struct)
    assert len(used) == 1 and len(decoded) == 4 and set(used + decoded) <= set(facts)
