"""The matrix of exports: what a table is read from and written to, and what is left to do after an interruption."""

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

import keras_resnets as kr
from benchmarks import exports
from benchmarks.exports import FORMATS, Row, pending, read_table, small_size, write_table
from keras_resnets.export import ExportError

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are made on the TensorFlow backend", allow_module_level=True)


def row(network: str, format: str, size: int | None = None, error: str = "") -> Row:
    return Row(network, kr.model_info(network).family, size or small_size(network), format, error=error)


def test_sizes() -> None:
    assert small_size("resnet50") == 64 and small_size("resnet20_cifar") == 32 and small_size("inception_v3") == 160


def test_pending_is_what_has_no_row_of_its_size() -> None:
    assert pending([], "resnet[12][08]") == {"resnet18": list(FORMATS)}
    done = [row("resnet18", format) for format in FORMATS]
    assert pending(done, "resnet18") == {}
    assert pending([*done[1:], row("resnet18", "saved_model", size=96)], "resnet18") == {"resnet18": ["saved_model"]}
    refused = [row("resnet18", format, error="differs") for format in FORMATS]
    assert pending(refused, "resnet18") == {}


def test_small_networks_first() -> None:
    names = list(pending([], "resnet*"))
    assert names[0].endswith("_cifar")
    assert names.index("resnet18") < names.index("resnet50") < names.index("resnet152")


def test_table(tmp_path: Path) -> None:
    file = tmp_path / "exports.csv"
    assert read_table(file) == []
    rows = [row("resnet50", "onnx", error='refused: "a, b"'), row("resnet50", "saved_model"), row("resnet18", "tflite")]
    write_table(rows, file)
    read = read_table(file)
    assert [(r.network, r.format) for r in read] == [
        ("resnet18", "tflite"), ("resnet50", "saved_model"), ("resnet50", "onnx")
    ]  # fmt: skip
    assert read[2].error == 'refused: "a, b"' and [f.name for f in tmp_path.iterdir()] == ["exports.csv"]


def test_refusals_become_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: keras.Model, path: Path, format: str) -> None:
        raise ExportError(f"the {format} file\ndiffers by 3")

    monkeypatch.setattr(exports.kr, "export", refuse)
    (found,) = exports.measure("resnet20_cifar", ["onnx"])
    assert found.error == "the onnx file differs by 3" and found.relative_difference == ""
    assert (found.network, found.family, found.input_size) == ("resnet20_cifar", "ResNet-CIFAR", 32)


def test_what_a_killed_process_has_measured_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(name: str, formats: list[str]) -> Iterator[Row]:
        yield row(name, formats[0])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(exports, "FRESH", multiprocessing.get_context("fork"))
    monkeypatch.setattr(exports, "measure", measured)
    rows = exports.measure_in_process("resnet18", ["onnx", "tflite"], tmp_path)
    assert [(r.format, r.error) for r in rows] == [
        ("onnx", ""), ("tflite", "killed, as a process is that takes more memory than there is")
    ]  # fmt: skip


def test_interrupted_runs_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows of another size are replaced, others kept, and the page follows the table."""
    table = tmp_path / "exports.csv"
    monkeypatch.setattr(exports, "read_table", lambda: read_table(table))
    monkeypatch.setattr(exports, "write_table", lambda rows: write_table(rows, table))
    written: list[int] = []
    monkeypatch.setattr(exports.exports_page, "write", lambda rows: written.append(len(rows)))
    asked: list[tuple[str, list[str]]] = []

    def measured(name: str, formats: list[str], folder: Path) -> list[Row]:
        asked.append((name, list(formats)))
        return [row(name, format) for format in formats]

    monkeypatch.setattr(exports, "measure_in_process", measured)
    write_table([row("resnet18", "onnx"), row("resnet18", "tflite", size=96), row("resnet34", "onnx")], table)
    assert exports.main(["resnet18", "--jobs", "1"]) == 0
    assert asked == [("resnet18", ["saved_model", "tflite", "tflite int8"])] and written == [5]
    sizes = {(r.network, r.format): int(r.input_size) for r in read_table(table)}
    assert sizes == {("resnet34", "onnx"): 64, **{("resnet18", format): 64 for format in FORMATS}}


def test_page() -> None:
    def measured(network: str, format: str, size_mb: str) -> Row:
        return dataclasses.replace(
            row(network, format), relative_difference="1e-6", top1_agreement="1.0", size_mb=size_mb
        )

    sizes = {"resnet18": "10.0", "resnet34": "27.6"}
    rows = [measured(name, "tflite", "40.0") for name in sizes]
    rows += [measured(name, "tflite int8", size) for name, size in sizes.items()]
    rows.append(row("resnet50", "onnx", error="differs"))
    text = exports.exports_page.page(rows)
    assert "| `resnet50` | ONNX | differs |" in text
    assert (
        "0.470 of the float32 files in the median, and at most 0.27 for 1 of 2 networks. More: `resnet34` 0.69." in text
    )


def test_unknown_network(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        exports.main(["resnot*"])
    assert "no network is called 'resnot*'" in capsys.readouterr().err
