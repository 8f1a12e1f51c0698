"""Exports, looked at from outside: by their own runtimes, in processes without Keras; and refusals, which leave nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import ArtifactError, ExportError, ExportReport, export, pipeline, run_artifact
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


BOTH_LOADERS = """
import sys
import numpy as np, tensorflow as tf
path, images, session_file, tf2_file = sys.argv[1:]
images = np.load(images)
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def["predict"]
    (output,) = signature.outputs.values()
    np.save(session_file, session.run(output.name, {signature.inputs["image"].name: images}))
(output,) = tf.saved_model.load(path).signatures["serving_default"](image=tf.constant(images)).values()
np.save(tf2_file, output.numpy())
assert sys.modules["keras"] is sys.modules["keras_resnets"] is None
"""


def test_saved_model(network: keras.Model, images: np.ndarray, logits: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "net"
    report = export(network, path, images=images)
    check_report(report, path, path / "report.json")
    assert report.operators["Conv2D"] == CONVOLUTIONS
    assert not {"FusedBatchNormV3", "Conv2DBackpropInput"} & set(report.operators)
    weights = 4 * kr.fuse(network).count_params()
    assert (path / "variables" / "variables.data-00000-of-00001").stat().st_size < 1.05 * weights  # each variable once
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net"]

    np.save(tmp_path / "images.npy", images)
    program = "import sys; sys.modules.update(keras=None, keras_resnets=None)" + BOTH_LOADERS
    files = [str(tmp_path / name) for name in ("images.npy", "session.npy", "tf2.npy")]
    subprocess.run([sys.executable, "-c", program, str(path), *files], check=True, cwd=tmp_path)
    for file in files[1:]:
        assert relative(np.load(file), logits) < 1e-5


def test_tflite(network: keras.Model, images: np.ndarray, logits: np.ndarray, tmp_path: Path, no_keras: None) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "net.tflite"
    report = export(network, path, "tflite", images=images)
    check_report(report, path, tmp_path / "net.tflite.report.json")
    assert report.operators["CONV_2D"] == CONVOLUTIONS and report.partitions == 1
    assert set(report.operators) <= {"CONV_2D", "ADD", "PAD", "MEAN", "FULLY_CONNECTED"}
    assert report.size_bytes == path.stat().st_size

    # Every grouped convolution is one operator with the grouped kernel (filters, height, width, channels / groups).
    kernels = [tuple(t["shape"]) for t in Interpreter(str(path)).get_tensor_details() if len(t["shape"]) == 4]
    for width in (16, 32, 64):
        assert (width, 3, 3, width // GROUPS) in kernels

    outputs, latency = run_artifact(path, images, batch_size=3)
    assert relative(outputs, logits) < 1e-5 and latency > 0


def test_tflite_float16_and_any_batch(
    network: keras.Model, images: np.ndarray, logits: np.ndarray, tmp_path: Path
) -> None:
    report = export(network, tmp_path / "half.tflite", "tflite", quantization="float16", batch_size=None)
    assert report.tolerance == 1e-2 and report.size_bytes < 0.6 * 4 * network.count_params()
    outputs, _ = run_artifact(tmp_path / "half.tflite", images, batch_size=5)
    assert 1e-7 < relative(outputs, logits) < 1e-2


def test_onnx(network: keras.Model, images: np.ndarray, logits: np.ndarray, tmp_path: Path, no_keras: None) -> None:
    import onnx

    path = tmp_path / "net.onnx"
    report = export(network, path, "onnx", images=images)
    check_report(report, path, tmp_path / "net.onnx.report.json")
    model = onnx.load(path)
    groups = [a.i for node in model.graph.node if node.op_type == "Conv" for a in node.attribute if a.name == "group"]
    assert len(groups) == CONVOLUTIONS and groups.count(GROUPS) == 3
    assert "BatchNormalization" not in report.operators and report.operators["GlobalAveragePool"] == 1
    assert model.opset_import[0].version == 17
    assert [i.name for i in model.graph.input] == ["image"] and [o.name for o in model.graph.output] == ["predictions"]
    outputs, _ = run_artifact(path, images, batch_size=5)
    assert relative(outputs, logits) < 1e-5


@pytest.fixture(scope="module")
def digits() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The trained network, its inputs and their classes."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the scanned digits")
    model = kr.create_model("resnet20_cifar", weights="digits")
    source = datasets.load_digits()
    grey = keras.ops.image.resize(source.images[:200, ..., None] * (255 / 16), (32, 32), "bilinear")
    pixels = np.repeat(np.rint(keras.ops.convert_to_numpy(grey)), 3, axis=-1).astype("uint8")
    inputs = np.asarray(kr.preprocess_input(pixels, model))
    return model, inputs, source.target[:200]


@pytest.mark.parametrize("interface", ["int8", "float32"])
def test_int8(digits: tuple[keras.Model, np.ndarray, np.ndarray], interface: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model, inputs, classes = digits
    path = tmp_path / "digits.tflite"
    report = export(
        model, path, "tflite", quantization="int8", calibration=inputs[:50], images=inputs, interface=interface
    )
    assert report.top1_agreement >= 0.95 and (report.real_images, report.random_images) == (200, 0)
    assert report.tolerance is None and report.options["calibration"] == 50
    interpreter = Interpreter(str(path))
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert [tensor["dtype"] for tensor in ends] == [np.dtype(interface).type] * 2
    assert report.size_bytes < 0.35 * 4 * model.count_params()
    probabilities, _ = run_artifact(path, inputs)
    assert np.mean(probabilities.argmax(-1) == classes) > 0.97
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=0.05)


def test_mixed_precision_becomes_float32(images: np.ndarray, tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = kr.create_model("resnet20_cifar", depth=1)
    report = export(model, tmp_path / "net.tflite", "tflite")
    assert set(report.operators) <= {"CONV_2D", "ADD", "PAD", "STRIDED_SLICE", "DEPTHWISE_CONV_2D", "MEAN",
                                     "FULLY_CONNECTED", "SOFTMAX"}  # fmt: skip
    outputs, _ = run_artifact(tmp_path / "net.tflite", images)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(images, training=False), "float32"))
    np.testing.assert_allclose(outputs, expected, atol=0.05)


def test_unknown_size_runs_at_any(tmp_path: Path) -> None:
    model = kr.create_model("resnet20_cifar", depth=1, input_shape=(None, None, 3), classifier_activation=None)
    report = export(model, tmp_path / "net.onnx", "onnx")
    assert report.random_images == 6 and report.input_shape == (None, None, None, 3)
    images = np.random.default_rng(0).normal(size=(2, 48, 40, 3)).astype("float32")
    outputs, _ = run_artifact(tmp_path / "net.onnx", images)
    assert relative(outputs, keras.ops.convert_to_numpy(model(images, training=False))) < 1e-5


def test_overwrite(network: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"net\.tflite' exists"):
        export(network, path, "tflite")
    assert path.read_text() == "mine"
    export(network, path, "tflite", overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.tflite", "net.tflite.report.json"]
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


def test_refuses_int8_that_lost_the_classes(digits: Any, tmp_path: Path) -> None:
    """Calibrated on all but black images, every activation saturates."""
    model, inputs, _ = digits
    refused(tmp_path, "top-1 class on 0", model, tmp_path / "a.tflite", "tflite", quantization="int8",
            calibration=np.full((4, 32, 32, 3), 1e-3), images=inputs[:100])  # fmt: skip


@pytest.mark.parametrize(
    "path, format, message", [("a", "saved_model", "compiled by XLA"), ("a.onnx", "onnx", "StatefulPartitionedCall")]
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
        ("a.onnx", "onnx", {"quantization": "int8"}, "option 'quantization' is for format 'tflite', not for 'onnx'"),
        ("a.onnx", "onnx", {"opset": 9}, "opset must be from 13 to 18, not 9"),
        ("a.onnx", "tflite", {}, "path must end in '.tflite'"),
        ("a.onnx", "saved_model", {}, "name it without '.onnx'"),
        ("no/a.onnx", "onnx", {}, "in a directory that does not exist"),
        ("a", "saved_model", {"tolerance": 0}, "tolerance must be above 0"),
        ("a", "saved_model", {"tolerance": None}, "tolerance must be a number"),
        ("a", "saved_model", {"min_agreement": 95}, "min_agreement must be from 0 to 1"),
        ("a", "saved_model", {"images": np.zeros((2, 16, 16, 3))}, r"images must be .* not of shape \(2, 16, 16, 3\)"),
        ("a", "saved_model", {"images": np.full((1, 32, 32, 3), np.inf)}, "images must be finite"),
        ("a.tflite", "tflite", {"quantization": "int4"}, "unknown quantization 'int4': did you mean 'int8'"),
        ("a.tflite", "tflite", {"quantization": "int8"}, "int8' needs calibration=: a hundred or more real inputs"),
        ("a.tflite", "tflite", {"calibration": CALIBRATION}, "calibration is for quantization='int8', not for None"),
        ("a.tflite", "tflite", {"quantization": "int8", "calibration": CALIBRATION[:, 1:]}, "calibration must be|images must"),
        ("a.tflite", "tflite", {"quantization": "int8", "calibration": CALIBRATION, "interface": "int"}, "did you mean 'int8'"),
        ("a.tflite", "tflite", {"batch_size": 0}, "batch_size must be a positive whole number"),
    ],
)  # fmt: skip
def test_bad_arguments(
    network: keras.Model, tmp_path: Path, path: str, format: str, options: dict[str, Any], message: str
) -> None:
    refused(tmp_path, message, network, tmp_path / path, format, **options)


def test_bad_models(network: keras.Model, tmp_path: Path) -> None:
    levels = keras.Model(network.input, [network.get_layer("C1").output, network.get_layer("C2").output])
    refused(tmp_path, "one input and one output", levels, tmp_path / "a")
    refused(tmp_path, "one input and one output", "resnet18", tmp_path / "a")
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
