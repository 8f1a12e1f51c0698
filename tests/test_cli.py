"""The command line: what it prints for people and for machines, and one line and exit code 1 for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import keras_resnets as kr
from keras_resnets.assembly import Network
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


def test_bars(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A network that always gives 7/8, 1/8 and next to nothing."""
    network = kr.create_model("resnet20_cifar", classes=3)
    network.get_layer("predictions").kernel.assign(np.zeros((64, 3)))
    network.get_layer("predictions").bias.assign(np.log([0.125, 0.875, 1e-9]))
    network.save(tmp_path / "three.keras")
    Image.new("RGB", (50, 40)).save(tmp_path / "image.png")
    table = succeed(capsys, "predict", str(tmp_path / "image.png"), "--model", str(tmp_path / "three.keras"))
    rows = [line.split() for line in table.splitlines() if "%" in line]
    assert [row[-2:] for row in rows[:2]] == [["█" * 17 + "▌", "87.5%"], ["██▌", "12.5%"]]
    assert rows[2][-3:] == ["class", "2", "0.0%"]


def test_weights_list(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in succeed(capsys, "weights", "list", "resnet18").splitlines()]
    assert ["resnet18", "tv_in1k", "69.75", "89.08", "224", "47", "bsd-3-clause"] in rows
    digits = [line.split() for line in succeed(capsys, "weights", "list", "resnet20*").splitlines()]
    assert any(row[:2] == ["resnet20_cifar", "digits"] and row[-1] == "yes" for row in digits)
    (entry,) = (
        e for e in json.loads(succeed(capsys, "weights", "list", "resnet18", "--json")) if e["tag"] == "tv_in1k"
    )
    assert (entry["network"], entry["top1"], entry["interpolation"]) == ("resnet18", 69.752, "bilinear")


def checkpoint_of(network: Network, path: Path) -> Path:
    """A PyTorch checkpoint of `network`."""
    parameters = kr.pytorch_parameters(network).items()
    safetensors.numpy.save_file({n: np.ascontiguousarray(to_torch(v.value)) for n, (v, to_torch) in parameters}, path)
    return path


def test_download(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the weights are here without the place that they came from."""
    network = kr.create_model("resnet18", input_shape=(32, 32, 3))
    checkpoint = checkpoint_of(network, tmp_path / "resnet18.tv_in1k.safetensors")
    monkeypatch.setenv("KERAS_RESNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_RESNETS_MIRROR", str(tmp_path))
    (answer,) = json.loads(succeed(capsys, "download", "resnet18:tv_in1k", "--json"))
    assert answer["network"] == "resnet18" and Path(answer["file"]).is_relative_to(tmp_path / "home")
    checkpoint.unlink()
    monkeypatch.setenv("KERAS_RESNETS_OFFLINE", "1")
    loaded = kr.create_model("resnet18", "tv_in1k", input_shape=(32, 32, 3))
    for given, wanted in zip(loaded.variables, network.variables, strict=True):
        np.testing.assert_array_equal(given.numpy(), wanted.numpy())
    listed = succeed(capsys, "weights", "list", "resnet18")
    assert [line.split()[1] for line in listed.splitlines() if line.rstrip().endswith("yes")] == ["tv_in1k"]
    assert "resnet20_cifar" in succeed(capsys, "download", "resnet20_cifar:digits", "resnet18:tv_in1k")


@pytest.mark.parametrize("classes", [10, 3, None])
def test_convert(capsys: pytest.CaptureFixture[str], tmp_path: Path, classes: int | None) -> None:
    """A checkpoint of any number of classes, or without a classifier, becomes the model that it is of."""
    network = kr.create_model("resnet20_cifar", include_top=classes is not None, classes=classes)
    checkpoint = checkpoint_of(network, tmp_path / "net.safetensors")
    out = tmp_path / "net.keras"
    facts = json.loads(succeed(capsys, "convert", str(checkpoint), "resnet20_cifar", str(out), "--json"))
    assert facts["classes"] == classes and facts["size_bytes"] == out.stat().st_size
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(keras.saving.load_model(out)(image), network(image))
    assert "exists: give --overwrite" in fail(capsys, "convert", str(checkpoint), "resnet20_cifar", str(out))
    assert "written" in succeed(capsys, "convert", str(checkpoint), "resnet20_cifar", str(out), "--overwrite")
    assert {path.name for path in tmp_path.iterdir()} == {"net.safetensors", "net.keras"}


def test_convert_of_another_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoint = str(checkpoint_of(kr.create_model("resnet32_cifar"), tmp_path / "net.safetensors"))
    assert "does not fit 'resnet20_cifar'" in fail(
        capsys, "convert", checkpoint, "resnet20_cifar", str(tmp_path / "x.keras")
    )
    assert {path.name for path in tmp_path.iterdir()} == {"net.safetensors"}


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
        (("predict", "absent.png", "--model", "resnet20_cifar:digit"), "unknown weights 'digit' of 'resnet20_cifar'"),
        (("predict", "absent.png", "--model", "resnet18:tv_in1k", "--weights", "a1_in1k"), "beside the tag 'tv_in1k'"),
        (("weights",), "COMMAND"),
        (("weights", "list", "plain*"), "no network called 'plain*' has published weights"),
        (("download",), "NAME[:TAG]"),
        (("download", "resnet_50"), "unknown network 'resnet_50': did you mean 'resnet50'"),
        (("download", "resnet50:a1_in1"), "unknown weights 'a1_in1' of 'resnet50': did you mean"),
        (("download", "plain18"), "'plain18' has no published weights"),
        (("convert", "absent.safetensors", "resnet18", "net.keras"), "'absent.safetensors' is not a file"),
        (("convert", "net.onnx", "resnet18", "net.keras"), "'net.onnx' must be a .safetensors, .pth, .pt file"),
        (("convert", "absent.safetensors", "resnet18", "net.h5"), "'net.h5' must end in .keras"),
        (("convert", "absent.safetensors", "resnet18", "no/net.keras"), "in a folder that does not exist"),
        (("convert", "absent.safetensors", "resnet_18", "net.keras"), "did you mean 'resnet18'"),
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
