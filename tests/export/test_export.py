"""Exports, looked at from outside: by their own runtimes, in processes without Keras; and refusals, which leave nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import ArtifactError, ExportError, ExportReport, export, pipeline, run_artifact
from keras_resnets.export.onnx import OnnxExporter
from keras_resnets.export.saved_model import SavedModelExporter
from keras_resnets.export.tflite import TFLiteExporter

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)

GROUPS, CONVOLUTIONS = 8, 1 + 3 * 4  # stem; three blocks of three convolutions and a projection


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A little ResNeXt whose every variable matters."""
    keras.utils.set_random_seed(3)
    model = kr.create_model(
        "resnext29_8x64d_cifar",
        depth=1,
        base_width=8,
        widths=(16, 32, 64),
        drop_path_rate=0.1,
        classifier_activation=None,
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(7, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def logits(network: keras.Model, images: np.ndarray) -> np.ndarray:
    return network.predict(images, verbose=0)


@pytest.fixture
def no_keras(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started from here find a `keras` and a `keras_resnets` that end them."""
    folder = tmp_path_factory.mktemp("no_keras")
    for package in ("keras", "keras_resnets"):
        (folder / f"{package}.py").write_text("import os; os._exit(99)")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def relative(outputs: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def check_report(report: ExportReport, path: Path, report_file: Path) -> None:
    assert json.loads(report_file.read_text())["operators"] == report.operators
    assert ExportReport.from_json(path) == report
    assert report.network == "resnext29_8x64d_cifar" and report.path == str(path)
    assert (report.real_images, report.random_images, report.images_compared) == (7, 6, 13)
    assert 0 <= report.relative_difference < 1e-5 and report.top1_agreement == 1
    assert report.latency_ms > 0 and report.compared == "outputs"


def test_tolerances_are_those_of_the_guide() -> None:
    assert SavedModelExporter().tolerance == TFLiteExporter().tolerance == 1e-4
    assert OnnxExporter().tolerance == 1e-5 and TFLiteExporter(quantization="float16").tolerance == 1e-2
    guide = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    assert "| `tolerance` | all | 1e-4; ONNX 1e-5; TFLite float16 1e-2; none for 8 bits |" in guide


def test_mixed_precision_becomes_float32(images: np.ndarray, tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = kr.create_model("resnet20_cifar", depth=1)
    report = export(model, tmp_path / "net.tflite", "tflite")
    assert set(report.operators) <= {"CONV_2D", "ADD", "PAD", "STRIDED_SLICE", "DEPTHWISE_CONV_2D", "MEAN",
                                     "FULLY_CONNECTED", "SOFTMAX"}  # fmt: skip
    outputs, _ = run_artifact(tmp_path / "net.tflite", images)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(images, training=False), "float32"))
    np.testing.assert_allclose(outputs, expected, atol=0.05)


def test_overwrite(network: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"net\.tflite' exists"):
        export(network, path, "tflite")
    assert path.read_text() == "mine"
    export(network, path, "tflite", overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "net.tflite",
        "net.tflite.proof.npz",
        "net.tflite.report.json",
    ]
    assert path.stat().st_size > 10_000


def refused(tmp_path: Path, message: str, *arguments: Any, **options: Any) -> None:
    """Exporting fails with `message`, and nothing is on disk afterwards."""
    with pytest.raises(ValueError, match=message):
        export(*arguments, **options)
    assert not list(tmp_path.iterdir())


def test_refuses_a_wrong_artifact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel that is off by 1 % is found, also behind a softmax that has saturated."""
    model = kr.create_model("resnet20_cifar", depth=1)
    model.layers[-1].kernel.assign(100 * model.layers[-1].kernel)

    def corrupted(model: keras.Model) -> keras.Model:
        fused = kr.fuse(model)
        kernel = next(v for v in fused.variables if v.path.endswith("conv1/conv/kernel"))
        kernel.assign(1.01 * kernel)
        return fused

    monkeypatch.setattr(pipeline, "fuse", corrupted)
    refused(tmp_path, "differs from the model by .* more than tolerance=0.0001", model, tmp_path / "a.tflite", "tflite")


def test_refuses_what_is_not_a_number(monkeypatch: pytest.MonkeyPatch, network: keras.Model, tmp_path: Path) -> None:
    def broken(model: keras.Model) -> keras.Model:
        fused = kr.fuse(model)
        fused.layers[-1].bias.assign(np.full(10, np.nan))
        return fused

    monkeypatch.setattr(pipeline, "fuse", broken)
    refused(tmp_path, "differs from the model by nan", network, tmp_path / "a.tflite", "tflite")


@pytest.mark.parametrize(
    "path, format, message",
    [("a", "saved_model", "compiled by XLA"), ("a.onnx", "onnx", "no operator for PartitionedCall")],
)
def test_refuses_stock_grouped_convolution(path: str, format: str, message: str, tmp_path: Path) -> None:
    """Keras' own grouped convolution is a function compiled by XLA, which only TensorFlow could run, and slowly."""
    image = keras.Input((8, 8, 8), name="image")
    model = keras.Model(image, keras.layers.Conv2D(8, 3, groups=4)(image))
    refused(tmp_path, message, model, tmp_path / path, format)


@keras.saving.register_keras_serializable("tests")
class Determinant(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.ops.det(x[..., 0])


def test_refuses_operators_outside_tflite(tmp_path: Path) -> None:
    import tensorflow as tf

    image = keras.Input((4, 4, 1), name="image")
    model = keras.Model(image, Determinant()(image))
    refused(tmp_path, "cannot be converted to tflite", model, tmp_path / "a.tflite", "tflite")

    export(model, tmp_path / "saved_model")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved_model"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (tmp_path / "flex.tflite").write_bytes(converter.convert())
    with pytest.raises(ArtifactError, match="CUSTOM:FlexMatrixDeterminant is not built into TFLite"):
        run_artifact(tmp_path / "flex.tflite", np.zeros((1, 4, 4, 1), "float32"))


def test_failing_conversion_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, network: keras.Model, tmp_path: Path
) -> None:
    def half_written(self: Any, model: keras.Model, path: Path) -> None:
        path.write_bytes(b"TFL3")
        raise RuntimeError("no space in the converter")

    monkeypatch.setattr(TFLiteExporter, "convert", half_written)
    refused(tmp_path, "no space in the converter", network, tmp_path / "a.tflite", "tflite")


CALIBRATION = np.zeros((1, 32, 32, 3), "float32")


@pytest.mark.parametrize(
    "path, format, options, message",
    [
        ("a.onnx", "onx", {}, "unknown format 'onx': did you mean 'onnx'"),
        ("a.onnx", "onnx", {"opsets": 17}, "unknown option 'opsets': did you mean 'opset'"),
        ("a.onnx", "tflite", {}, "path must end in '.tflite'"),
        ("a.onnx", "saved_model", {}, "name it without '.onnx'"),
        ("a.onx", "saved_model", {}, "name it without '.onx', or for a file end it in '.onnx'"),
        ("no/a.onnx", "onnx", {}, "in a directory that does not exist"),
        ("a", "saved_model", {"tolerance": 0}, "tolerance must be above 0"),
        ("a", "saved_model", {"tolerance": None}, "tolerance must be a number"),
        ("a", "saved_model", {"min_agreement": 95}, "min_agreement must be from 0 to 1"),
        ("a", "saved_model", {"images": np.zeros((2, 16, 16, 3))}, r"images must be .* not of shape \(2, 16, 16, 3\)"),
        ("a", "saved_model", {"images": np.full((1, 32, 32, 3), np.inf)}, "images must be finite"),
        ("a.tflite", "tflite", {"quantization": "int8", "calibration": CALIBRATION[:, 1:]}, "calibration must be|images must"),
    ],
)  # fmt: skip
def test_bad_arguments(
    network: keras.Model, tmp_path: Path, path: str, format: str, options: dict[str, Any], message: str
) -> None:
    refused(tmp_path, message, network, tmp_path / path, format, **options)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_more_than_a_file_holds(
    monkeypatch: pytest.MonkeyPatch, network: keras.Model, tmp_path: Path, suffix: str
) -> None:
    monkeypatch.setattr(pipeline, "FILE_LIMIT", 4 * network.count_params())
    refused(tmp_path, f"a {suffix} file holds less than .* GiB", network, tmp_path / f"a{suffix}", suffix[1:])
    monkeypatch.setattr(pipeline, "FILE_LIMIT", 4 * network.count_params() + 1)
    assert export(network, tmp_path / f"a{suffix}", suffix[1:]).top1_agreement == 1


def test_bad_models(network: keras.Model, tmp_path: Path) -> None:
    image, mask = keras.Input((8, 8, 3)), keras.Input((8, 8, 1))
    refused(tmp_path, "one input, not Functional with 2", keras.Model([image, mask], image * mask), tmp_path / "a")
    refused(tmp_path, "one input, not str with 0", "resnet18", tmp_path / "a")
    anysize = kr.create_model("resnet20_cifar", depth=1, input_shape=(None, None, 3))
    refused(tmp_path, "known height and width", anysize, tmp_path / "a.tflite", "tflite")
    features = keras.Model(network.input, network.get_layer("C2").output)
    refused(tmp_path, "needs a classifier's output", features, tmp_path / "a.tflite", "tflite", quantization="int8",
            calibration=CALIBRATION)  # fmt: skip


def test_missing_package(monkeypatch: pytest.MonkeyPatch, network: keras.Model, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    refused(tmp_path, r"needs tf2onnx: pip install 'keras-resnets\[export\]'", network, tmp_path / "a.onnx", "onnx")


def test_other_backend(monkeypatch: pytest.MonkeyPatch, network: keras.Model, tmp_path: Path) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refused(tmp_path, "needs Keras on the TensorFlow backend, not 'jax'", network, tmp_path / "a")


def test_unwritable_directory(network: keras.Model) -> None:
    with pytest.raises(ExportError, match="path '/proc/self/artifact' cannot be written"):
        export(network, "/proc/self/artifact")


def test_run_artifact_says_what_is_wrong(tmp_path: Path) -> None:
    images = np.zeros((1, 32, 32, 3), "float32")
    with pytest.raises(ArtifactError, match="does not exist"):
        run_artifact(tmp_path / "absent.onnx", images)
    (tmp_path / "net.txt").write_text("")
    with pytest.raises(ArtifactError, match=r"not a SavedModel directory, a \.tflite file or an \.onnx file"):
        run_artifact(tmp_path / "net.txt", images)
    (tmp_path / "net.onnx").write_text("not a network")
    with pytest.raises(ArtifactError, match="does not run in its own runtime"):
        run_artifact(tmp_path / "net.onnx", images)
    with pytest.raises(ValueError, match="at least one image"):
        run_artifact(tmp_path / "net.onnx", images[:0])


@pytest.mark.parametrize("file, format", [("net", "saved_model"), ("net.onnx", "onnx"), ("net.tflite", "tflite")])
def test_model_of_other_layers(file: str, format: str, tmp_path: Path) -> None:
    """Not of this package, not even for images."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)])
    report = export(model, tmp_path / file, format)
    assert (report.real_images, report.random_images) == (0, 6) and report.network == model.name
    x = np.random.default_rng(1).normal(size=(3, 20)).astype("float32")
    first, second = model.layers
    expected = np.tanh(x @ first.kernel.numpy() + first.bias.numpy()) @ second.kernel.numpy() + second.bias.numpy()
    assert relative(run_artifact(tmp_path / file, x)[0], expected) < 1e-5


DISK_FULL = """
import resource, signal
import keras_resnets as kr
from keras_resnets.export import ExportError
import tensorflow, tf2onnx
model = kr.create_model("resnet20_cifar", depth=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
for name, format in (("net", "saved_model"), ("net.tflite", "tflite"), ("net.onnx", "onnx")):
    try:
        kr.export(model, name, format)
    except ExportError as error:
        print(format, error)
"""


def test_disk_full(tmp_path: Path) -> None:
    """Files may not grow beyond 50 kB here: as on a full disk, writing fails half-way."""
    run = subprocess.run([sys.executable, "-c", DISK_FULL], cwd=tmp_path, capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": str(Path(kr.__file__).parents[1])})  # fmt: skip
    lines = run.stdout.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["saved_model", "tflite", "onnx"]
    assert all("cannot be written" in line and "File too large" in line for line in lines)
    assert not list(tmp_path.iterdir())
