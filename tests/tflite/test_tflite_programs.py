"""tflite.convert, tflite.quantize and tflite.evaluate: the digits network as files, and one clear line for bad input."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

from files_of_digits import Files, commands

from tflite import benchmark, compare, convert, evaluate, families, program, quantize
from tflite.sources import Pictures, batches, open_pictures
from training.data import load_data
from training.recipe import DataRecipe


def test_accuracy_report(files: Files) -> None:
    report = json.loads(files.int8.with_name(files.int8.name + ".accuracy.json").read_text("utf-8"))
    plain, small = report["results"]
    assert plain["images"] == small["images"] == 360  # a fifth of 1,797 is held out
    assert plain["top1"] >= 0.99
    assert plain["top1"] - small["top1"] <= 0.005
    assert small["agreement"] >= 0.99
    assert report["size_ratio"] == pytest.approx(files.int8.stat().st_size / files.float32.stat().st_size, abs=1e-5)
    assert report["size_ratio"] < 0.275  # a byte per weight, where float32 has four
    assert "100.00" in files.said
    assert files.said.count("(kept)") == 1  # of two quantisers


def test_evaluate_as_in_the_guide(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files.int8.parent)
    (command,) = commands("evaluate")
    assert evaluate.main(command) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│ digits")]
    assert [int(row[3]) for row in rows] == [360, 360]
    assert all(float(row[4]) >= 98.5 for row in rows)


def test_evaluate_side_by_side_with_the_network(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, picture = tmp_path / "result.json", tmp_path / "confusion.png"
    options = ["--keras", "resnet20_cifar:digits", "--json", str(result), "--confusion", str(picture), "--images", "90"]
    assert evaluate.main([str(files.float32), str(files.int8), *options]) == 0
    assert "digits_int8.tflite" in capsys.readouterr().out
    content = json.loads(result.read_text("utf-8"))
    assert [row["file"] for row in content["results"]] == [
        "resnet20_cifar:digits (Keras)",
        "digits.tflite",
        "digits_int8.tflite",
    ]
    for row in content["results"]:
        assert row["images"] == 90
        assert row["agreement"] >= 0.98
        assert 0.97 <= row["top1"] <= row["top5"]
    assert Image.open(picture).size[0] > 300


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two held-out digits of every class as PNG files; among the threes also a seven, and a broken file."""
    folder = tmp_path_factory.mktemp("photos")
    test = load_data(DataRecipe(source="digits", image_size=64)).test
    for label in range(10):
        (folder / "named" / str(label)).mkdir(parents=True)
        for number in np.flatnonzero(test.labels == label)[:2]:
            Image.fromarray(test.images[number]).save(folder / "named" / str(label) / f"{number}.png")
    wrong = int(np.flatnonzero(test.labels == 7)[5])
    Image.fromarray(test.images[wrong]).save(folder / "named" / "3" / "wrong.png")
    (folder / "named" / "3" / "broken.png").write_bytes(b"no picture")
    return folder / "named"


def test_evaluate_a_folder(files: Files, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    assert evaluate.main([str(files.int8), "--data", f"folder:{photos}", "--json", str(result)]) == 0
    assert "1 images cannot be read" in capsys.readouterr().out
    (row,) = json.loads(result.read_text("utf-8"))["results"]
    assert (row["images"], row["skipped"]) == (21, 1)
    assert row["top1"] == pytest.approx(20 / 21, abs=1e-5)  # the seven among the threes


def test_convert_float16_without_labels_of_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half the size of float32; and images whose classes are not known still show how far files agree."""
    file, loose = tmp_path / "digits_float16.tflite", tmp_path / "loose"
    loose.mkdir()
    for number, path in enumerate(sorted(photos.rglob("[0-9]*.png"))[:6]):
        (loose / f"{number}.png").write_bytes(path.read_bytes())
    assert convert.main(["resnet20_cifar:digits", str(file), "--quantization", "float16"]) == 0
    assert file.stat().st_size < 600_000
    assert evaluate.main([str(file), "--data", str(loose)]) == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if "float16.tflite │" in line]
    assert [cell.strip() for cell in cells[0][3:7]] == ["6", "–", "–", "100.00"]


def test_calibration_images_are_spread_over_the_classes(photos: Path) -> None:
    pictures = open_pictures(str(photos), "train", 32)
    assert pictures.class_names == tuple("0123456789")
    numbers = pictures.spread(11)
    assert len(numbers) == 11
    assert len({label for _, label in pictures.contents(numbers)}) >= 9


def test_images_are_prepared_as_the_evaluation_of_the_weights_does(photos: Path) -> None:
    from keras_resnets.preprocessing import expected_input, load_image, preprocess_input

    entry = expected_input("resnet18", "tv_in1k")
    pictures = open_pictures(str(photos), "test", entry.input_size)
    (batch,) = batches(pictures, entry, [0, 1])
    paths = [path for path, _ in pictures.contents([0, 1])]
    truth = preprocess_input(np.stack([load_image(str(path), entry) for path in paths]), "resnet18", "tv_in1k")
    np.testing.assert_allclose(batch.inputs, truth, atol=1e-6)


def test_tfds_split() -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    with tfds.testing.mock_data(num_examples=5):
        pictures: Pictures = open_pictures("tfds:cifar10/train", "test", 32)
        contents = list(pictures.contents([1, 3]))
    assert (pictures.count, len(pictures.class_names or ())) == (5, 10)
    assert [np.shape(image) for image, _ in contents] == [(32, 32, 3)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet20_cifar:digits", "--quantization", "int8"], "needs --calibration"),
        (["resnet20_cifar:digits", "--calibration", "digits"], "--calibration goes with"),
        (["resnet20_cifr:digits"], "did you mean 'resnet20_cifar'"),
        (["absent.keras"], "is not a file"),
        (["resnet20_cifar:digits", "--quantization", "int8", "--calibration", "absent"], "folder"),
        (["resnet20_cifar:digits", "--quantization", "int8", "--calibration", "folder:absent"], "does not exist"),
        (["resnet20_cifar:digits", "--quantization", "int4"], "int4"),
        (["resnet20_cifar:digits", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = arguments
    assert convert.main([name, str(tmp_path / "file.tflite"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [evaluate.main, benchmark.main, lambda files: compare.main([*files, *files])])
@pytest.mark.parametrize(
    ("name", "message"), [("absent.tflite", "does not exist"), ("model.keras", ".tflite"), ("broken.tflite", "TFLite")]
)
def test_files_that_will_not_do(main, name: str, message: str, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("broken.tflite").write_bytes(b"no file of that kind")
    assert main([name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line or "not run" in line
    assert [path.name for path in tmp_path.iterdir()] == ["broken.tflite"]


@pytest.mark.parametrize("data", ["digts", "tfds:", "folder:absent"])
def test_data_that_are_not_there(data: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(files.int8), "--data", data]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_existing_file_is_kept(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    before = files.int8.read_bytes()
    assert quantize.main(["resnet20_cifar:digits", str(files.int8), "--calibration", "digits"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert files.int8.read_bytes() == before


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tflite.conversion.open_network", interrupted)
    assert convert.main(["resnet20_cifar:digits", str(tmp_path / "file.tflite")]) == program.INTERRUPTED
    assert list(tmp_path.iterdir()) == []


def test_unknown_family_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert families.main(["ResNext", "--run-dir", str(tmp_path)]) == 1
    assert "ResNeXt" in capsys.readouterr().err
