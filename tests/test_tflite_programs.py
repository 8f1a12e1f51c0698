"""tflite.convert and tflite.evaluate: the digits network as an int8 file, and one clear line for bad input."""

from pathlib import Path

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

from tflite import convert, evaluate


def test_int8_file_keeps_the_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "digits.tflite"
    options = [
        "--weights",
        "digits",
        "--quantization",
        "int8",
        "--calibration",
        "digits",
        "--calibration-images",
        "100",
    ]
    assert convert.main(["resnet20_cifar", str(file), *options]) == 0
    assert file.stat().st_size < 400_000  # a byte per weight, where float32 has four
    assert evaluate.main([str(file)]) == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if "100.00" in line]
    assert float(cells[-1][3]) >= 98.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet20_cifar", "--quantization", "int8", "--weights", "digits"], "--calibration goes with"),
        (["resnet20_cifar"], "--weights is needed"),
        (["resnet20_cifr", "--weights", "digits"], "did you mean 'resnet20_cifar'"),
        (["absent.keras"], "is not a file"),
        (["resnet20_cifar", "--weights", "digits", "--quantization", "int8", "--calibration", "absent"], "folder"),
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


def test_absent_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path / "absent.tflite")]) == 1
    assert "absent.tflite" in capsys.readouterr().err
