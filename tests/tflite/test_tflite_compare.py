"""tflite.compare finds the layer that was made bad."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

from files_of_digits import Files, commands

from tflite import compare
from tflite.graph import Graph, Operator
from tflite.layer_errors import layer_errors, worst_first
from tflite.matching import matched

LAYERS, BAD = 6, 3


def written(folder: Path, outlier: float, images: np.ndarray) -> tuple[Path, Path]:
    """A chain of convolutions as float32 and int8, made by TensorFlow's converter alone; one channel of layer BAD is larger."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    kernels = [generator.normal(0, (2 / 72) ** 0.5, (3, 3, 8, 8)).astype("float32") for _ in range(LAYERS)]
    kernels[BAD][..., 5] *= outlier
    kernels[BAD + 1][:, :, 5] /= outlier  # so that the network computes the same

    @tf.function(input_signature=[tf.TensorSpec((1, 12, 12, 8), name="image")])
    def chain(x):  # type: ignore[no-untyped-def]
        for number, kernel in enumerate(kernels):
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME", name=f"layer{number}"))
        return tf.reduce_mean(x, axis=(1, 2))

    files = folder / "float32.tflite", folder / "int8.tflite"
    for file, quantised in zip(files, (False, True), strict=True):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([chain.get_concrete_function()])
        if quantised:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        file.write_bytes(converter.convert())
    return files


def test_the_bad_layer_comes_first(tmp_path: Path) -> None:
    images = np.random.default_rng(1).normal(size=(16, 12, 12, 8)).astype("float32")
    lost = {}
    for outlier in (1.0, 300.0):
        folder = tmp_path / str(outlier)
        folder.mkdir()
        errors = layer_errors(*map(Graph, written(folder, outlier, images)), images)
        convolutions = [error for error in errors if error.kind == "CONV_2D"]
        assert len(convolutions) == LAYERS
        lost[outlier] = [error.lost or 0 for error in convolutions]
        if outlier > 1:
            assert worst_first(errors)[0] is convolutions[BAD]
            assert convolutions[BAD].own < 0.05  # which the large channel hides
    assert max(lost[1.0]) < 0.05
    assert lost[300.0][BAD] > 0.5  # seven of eight channels have one step of the scale left
    assert lost[300.0][BAD] > 5 * lost[1.0][BAD]
    for place in range(BAD):  # what comes before is not blamed
        assert lost[300.0][place] == pytest.approx(lost[1.0][place], rel=0.05)


def test_program(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files.int8.parent)
    (command,) = commands("compare")
    assert compare.main([*command, "--out", str(tmp_path / "out"), "--images", "4", "--top", "3"]) == 0
    assert "worst 3 of" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "compare.json", "compare.png"]
    layers = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))["layers"]
    with (tmp_path / "out" / "compare.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [layer["name"] for layer in layers]
    convolutions = [layer for layer in layers if layer["kind"] == "CONV_2D"]
    assert len(convolutions) == 19  # of ResNet-20, whose last layer is dense
    assert all(layer["lost"] is not None and 0 < layer["lost"] < 0.1 for layer in convolutions)
    assert all(layer["sqnr_db"] > 20 for layer in convolutions)


def test_a_file_does_not_differ_from_itself(files: Files) -> None:
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    graph = Graph(files.float32)
    assert all(
        error.accumulated == 0 and error.own < 1e-5 for error in layer_errors(graph, Graph(files.float32), images)
    )


def test_matching_does_without_names() -> None:
    """A quantiser that renames everything and puts casts between is followed by the order of the operators."""
    kinds = ("CONV_2D", "CONV_2D", "ADD", "MEAN")
    ours = [
        Operator(place, place, kind, f"ours{place}", (1, 8), (place,), place + 1) for place, kind in enumerate(kinds)
    ]
    theirs = [Operator(0, 0, "QUANTIZE", "q", (1, 8), (0,), 1)]
    theirs += [
        Operator(place + 1, place + 1, kind, f"theirs{place}", (1, 8), (), place + 9)
        for place, kind in enumerate(kinds)
    ]
    assert {place: op.name for place, op in matched(ours, theirs).items()} == {
        place: f"theirs{place}" for place in range(4)
    }


def test_files_of_different_networks(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.zeros((2, 12, 12, 8), "float32")
    other, _ = written(tmp_path, 1.0, images + np.linspace(0, 1, 8, dtype="float32"))
    assert compare.main([str(files.float32), str(other), "--out", str(tmp_path / "out")]) == 1
    assert "different images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
