"""What a user's `pip install` gets: one package with its data files, few dependencies, a command."""

import configparser
import email
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import keras_resnets as kr

ROOT = Path(__file__).parents[1]
DATA = ROOT / "keras_resnets" / "data"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of this tree, built without a network."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for folder in ("keras_resnets", "training", "tflite", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "tests").mkdir()
    (tree / "tests" / "__init__.py").touch()
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / file, tree)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(build, cwd=tree, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def content(wheel: zipfile.ZipFile, name: str) -> str:
    """The text of a file of the wheel's metadata."""
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_wheel_holds_the_package_alone(wheel: zipfile.ZipFile) -> None:
    folders = {path.split("/")[0] for path in wheel.namelist()}
    assert folders == {"keras_resnets", f"keras_resnets-{kr.__version__}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "keras_resnets").rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_wheel_holds_the_data_whole(wheel: zipfile.ZipFile) -> None:
    assert {"imagenet1k_classes.json", "sizes.json", "weights.csv"} <= {path.name for path in DATA.iterdir()}
    for path in DATA.iterdir():
        assert wheel.read(f"keras_resnets/data/{path.name}") == path.read_bytes()
    assert sum(entry.compress_size for entry in wheel.infolist()) < 4e6


def test_metadata(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_string(content(wheel, "METADATA"))
    assert metadata["Version"] == kr.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert not any(line.startswith("tensorflow") for line in required), "Keras has other backends"
    assert all(">=" in line for line in required)
    assert {"tensorflow", "train", "export", "hub", "images", "dev"} <= set(metadata.get_all("Provides-Extra") or [])
    commands = configparser.ConfigParser()
    commands.read_string(content(wheel, "entry_points.txt"))
    assert commands["console_scripts"]["keras-resnets"] == "keras_resnets.cli:main"


def test_package_from_the_wheel_works(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked elsewhere it finds its data, and importing it loads no heavy package that Keras has not loaded."""
    wheel.extractall(tmp_path)
    script = (
        "import sys, keras; before = set(sys.modules); import keras_resnets as kr;"
        "assert kr.__file__.startswith(sys.argv[1]), kr.__file__;"
        "print(kr.model_info('resnet50').params, kr.decode_predictions([[0.0] * 999 + [1.0]], 1)[0][0][1]);"
        "print({'PIL', 'huggingface_hub', 'onnx', 'rich', 'safetensors', 'sklearn'} & (set(sys.modules) - before) or 'light')"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.stdout.splitlines() == ["25557032 toilet tissue", "light"], run.stderr
