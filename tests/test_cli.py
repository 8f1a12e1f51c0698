"""The command line: what it prints for people and for machines, and one line and exit code 1 for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_resnets as kr
from keras_resnets.cli import main

ROOT = Path(__file__).parents[1]


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints; it must not say anything on stderr."""
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must fail with exit code 1 and print nothing else."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    printed = capsys.readouterr()
    assert code == 1 and printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Scanned digits from scikit-learn as PNG files, and what they show."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the images")
    folder, digits = tmp_path_factory.mktemp("digits"), datasets.load_digits()
    files = {}
    for i in range(20):
        path = folder / f"{i}.png"
        Image.fromarray((digits.images[i] * (255 / 16)).astype("uint8")).save(path)
        files[str(path)] = int(digits.target[i])
    return files


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    lines = succeed(capsys, "list", "resnet1*d").splitlines()
    rows = [line.split() for line in lines]
    # Millions of parameters as timm counts them.
    assert ["resnet101d", "ResNet", "44.57"] in [row[:3] for row in rows]
    assert ["resnet18d", "ResNet", "11.71"] in [row[:3] for row in rows]
    assert not any(row and row[0] == "resnet18" for row in rows)


def test_list_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    infos = json.loads(succeed(capsys, "list", "--json", "--family", "ResNet", "--pretrained"))
    assert [info["name"] for info in infos] == kr.list_models(family="ResNet", pretrained=True)
    (resnet50,) = (info for info in infos if info["name"] == "resnet50")
    assert resnet50["params"] == 25_557_032
    assert resnet50["weights"]["tv_in1k"]["mean"] == [0.485, 0.456, 0.406]
    assert "plain18" not in {info["name"] for info in infos}


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeed(capsys, "info", "resnet18")
    for fact in ("11,689,512", "keras_resnets.ResNet18", "224 x 224", "arXiv 1512.03385", "tv_in1k", "bsd-3-clause"):
        assert fact in text
    assert "none published" in succeed(capsys, "info", "plain18")
    assert json.loads(succeed(capsys, "info", "resnet18", "--json"))["params"] == 11_689_512


def test_predict_digits(capsys: pytest.CaptureFixture[str], digit_files: dict[str, int]) -> None:
    answers = json.loads(succeed(capsys, "predict", *digit_files, "--json", "--top", "2"))
    assert [answer["image"] for answer in answers] == list(digit_files)
    best = [answer["predictions"][0]["label"] for answer in answers]
    assert np.mean([label == str(digit) for label, digit in zip(best, digit_files.values(), strict=True)]) >= 0.9
    assert all(len(answer["predictions"]) == 2 for answer in answers)
    table = succeed(capsys, "predict", next(iter(digit_files)))
    assert next(iter(digit_files)) in table and best[0] in table


def test_predict_with_own_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A network of three classes that always answers the middle one: the classes have numbers for names."""
    network = kr.create_model("resnet20_cifar", classes=3)
    network.get_layer("predictions").bias.assign([0.0, 100.0, 0.0])
    network.save(tmp_path / "three.keras")
    Image.new("RGB", (50, 40)).save(tmp_path / "image.png")
    answer = json.loads(
        succeed(capsys, "predict", str(tmp_path / "image.png"), "--model", str(tmp_path / "three.keras"), "--json")
    )
    assert answer[0]["predictions"][0]["label"] == "class 1"
    assert len(answer[0]["predictions"]) == 3


def test_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime runs the exported file")
    path = tmp_path / "net.onnx"
    report = json.loads(succeed(capsys, "export", "resnet20_cifar", str(path), "--weights", "none", "--json"))
    assert report["format"] == "onnx" and report["size_bytes"] == path.stat().st_size
    session = onnxruntime.InferenceSession(str(path))
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 32, 32, 3), "float32")})
    np.testing.assert_allclose(probabilities.sum(-1), [1, 1], rtol=1e-5)
    assert "exists" in fail(capsys, "export", "resnet20_cifar", str(path), "--weights", "none")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "COMMAND"),
        (("lst",), "invalid choice: 'lst'"),
        (("list", "nothing*"), "no network called 'nothing*'"),
        (("list", "--family", "ResNets"), "unknown family 'ResNets': did you mean 'ResNet'"),
        (("info",), "name"),
        (("info", "resnet_50"), "unknown network 'resnet_50': did you mean 'resnet50'"),
        (("predict",), "IMAGE"),
        (("predict", "absent.png", "--model", "resnet51"), "did you mean 'resnet50'"),
        (("predict", "absent.png", "--model", "plain18"), "no published weights: give --weights"),
        (("predict", "absent.png", "--model", "absent.keras"), "'absent.keras' is not a file"),
        (("predict", "absent.png", "--model", "a.keras", "--weights", "digits"), "cannot be chosen for 'a.keras'"),
        (("predict", "absent.png", "--weights", "digit"), "unknown weights 'digit' of 'resnet20_cifar': did you mean"),
        (("predict", "absent.png"), "image 'absent.png' is not a file"),
        (("predict", "absent.png", "--top", "many"), "invalid int value: 'many'"),
        (("export", "resnet20_cifar"), "path"),
        (("export", "resnet18", "net", "--format", "caffe"), "invalid choice: 'caffe'"),
        (("export", "plain18", "net.onnx"), "'plain18' has no published weights"),
        (("export", "resnet20_cifar", "no/such/folder/net.onnx", "--weights", "none"), "does not exist"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fail(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_bad_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    no_image, no_model, image = tmp_path / "text.png", tmp_path / "text.keras", tmp_path / "image.png"
    no_image.write_text("no image")
    no_model.write_text("no model")
    Image.new("RGB", (9, 9)).save(image)
    assert "text.png' cannot be decoded" in fail(capsys, "predict", str(image), str(no_image))
    assert "text.keras" in fail(capsys, "predict", str(image), "--model", str(no_model))
    assert "top must be from 1 to the 10 classes, not 11" in fail(capsys, "predict", str(image), "--top", "11")
    assert "top must be from 1 to the 10 classes, not 0" in fail(capsys, "predict", str(image), "--top", "0")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "keras_resnets.cli", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_as_a_process() -> None:
    """Even TensorFlow's start-up is silent: the one line is all there is."""
    bad = run("info", "resnet_50")
    assert bad.returncode == 1 and bad.stdout == ""
    assert bad.stderr.startswith("keras-resnets: error: unknown network 'resnet_50'") and bad.stderr.count("\n") == 1


def test_without_a_backend(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no tensorflow here')")
    bad = run("list", PYTHONPATH=str(tmp_path), KERAS_BACKEND="tensorflow")
    assert bad.returncode == 1 and bad.stdout == ""
    assert "no tensorflow here. Keras needs a backend: pip install" in bad.stderr and bad.stderr.count("\n") == 1
