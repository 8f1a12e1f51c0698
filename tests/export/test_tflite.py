"""TFLite files of every kind, looked at from outside: by LiteRT, and by reading their bytes by the published schemas."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import export, photos, read_metadata, run_artifact, tflite_quantization
from keras_resnets.preprocessing import Preprocess

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)
Digits = tuple[keras.Model, np.ndarray, np.ndarray]
schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT runs the files")

needs_litert = pytest.mark.skipif(
    not tflite_quantization.installed("litert"), reason="litert-quantizer is not installed"
)


@pytest.fixture(scope="module")
def grouped() -> keras.Model:
    """A little ResNeXt for logits whose every variable matters."""
    keras.utils.set_random_seed(3)
    model = kr.create_model(
        "resnext29_8x64d_cifar", depth=1, base_width=8, widths=(16, 32, 64), classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def parsed(path: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))


def check_integers(path: Path, activation: int, kernels: int) -> None:
    """Every convolution has a scale per channel, 8-bit weights, and activations of one type; nothing is computed in floats."""
    model = parsed(path)
    (graph,) = model.subgraphs
    found = 0
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
        if code in (schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE):
            continue
        assert schema.TensorType.FLOAT32 not in {tensor.type for tensor in tensors}
        if code == schema.BuiltinOperator.CONV_2D:
            image, kernel, *_, output = tensors
            found += 1
            assert (image.type, output.type, kernel.type) == (activation, activation, schema.TensorType.INT8)
            assert kernel.quantization.quantizedDimension == 0
            assert len(kernel.quantization.scale) == len(kernel.quantization.zeroPoint) == kernel.shape[0]
            assert (
                len(set(kernel.quantization.scale.tolist())) > kernel.shape[0] / 2
                and not kernel.quantization.zeroPoint.any()
            )
    assert found == kernels


@pytest.fixture(scope="module")
def float32_size(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = tmp_path_factory.mktemp("float32") / "net.tflite"
    report = export(digits[0], path, "tflite", images=digits[1])
    outputs, _ = run_artifact(path, digits[1][:8], batch_size=3)
    expected = digits[0].predict(digits[1][:8], verbose=0)
    assert np.abs(outputs - expected).max() < 1e-5 and report.relative_difference < 1e-5 and report.partitions == 1
    return report.size_bytes


@pytest.mark.parametrize("quantization, size", [("float16", 0.53), ("dynamic", 0.27)])
def test_float_interfaces(quantization: str, size: float, digits: Digits, float32_size: int, tmp_path: Path) -> None:
    model, inputs, classes = digits
    report = export(model, tmp_path / "net.tflite", "tflite", quantization=quantization, batch_size=None, images=inputs)
    assert report.size_bytes < size * float32_size and 1e-5 < report.relative_difference < 0.05
    outputs, _ = run_artifact(tmp_path / "net.tflite", inputs, batch_size=7)
    assert np.mean(outputs.argmax(-1) == classes) >= 0.995
    if quantization == "dynamic":
        figures = report.options["quantizers"]
        assert figures[report.options["quantizer_kept"]]["top1_agreement"] >= 0.995


@pytest.mark.parametrize(
    "quantization, interface, quantizer",
    [
        ("int8", None, "best"),
        pytest.param("int8", "uint8", "converter", marks=pytest.mark.slow),
        pytest.param("int8", "float32", "converter", marks=pytest.mark.slow),
        pytest.param("int8", "uint8", "litert", marks=needs_litert),
        ("int16x8", None, "converter"),
        pytest.param("int16x8", "int16", "litert", marks=[needs_litert, pytest.mark.slow]),
    ],
)
def test_integers(quantization: str, interface: str | None, quantizer: str, digits: Digits, float32_size: int,
                  tmp_path: Path) -> None:  # fmt: skip
    from ai_edge_litert.interpreter import Interpreter

    model, inputs, classes = digits
    images = 300 if quantization == "int8" else 24  # in 16 bits there are no fast kernels
    path = tmp_path / "net.tflite"
    report = export(model, path, "tflite", quantization=quantization, calibration=inputs[:60][:images], images=inputs[:images],
                    interface=interface, quantizer=quantizer)  # fmt: skip
    details = Interpreter(str(path))
    ends = [*details.get_input_details(), *details.get_output_details()]
    expected = interface or {"int8": "int8", "int16x8": "float32"}[quantization]
    assert [tensor["dtype"] for tensor in ends] == [np.dtype(expected).type] * 2
    check_integers(path, schema.TensorType.INT8 if quantization == "int8" else schema.TensorType.INT16, kernels=19)
    assert report.size_bytes <= 0.27 * float32_size + 1000 * (quantization != "int8")
    outputs, _ = run_artifact(path, inputs[:images])
    assert np.mean(outputs.argmax(-1) == classes[:images]) >= 0.995
    assert report.relative_difference < (0.05 if quantization == "int8" else 0.025)
    assert (report.real_images, report.random_images) == (images, 0)
    assert report.options["calibration"] == min(images, 60)
    if quantizer != "best":
        assert list(report.options["quantizers"]) == [quantizer] == [report.options["quantizer_kept"]]


def test_a_grouped_convolution_is_one_operator(grouped: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    report = export(grouped, path, "tflite")
    assert report.operators["CONV_2D"] == 13 and report.partitions == 1 and report.relative_difference < 1e-5
    assert set(report.operators) <= {"CONV_2D", "ADD", "PAD", "MEAN", "FULLY_CONNECTED"}
    assert report.size_bytes == path.stat().st_size
    # The grouped kernel is (filters, height, width, channels / groups).
    shapes = [tuple(tensor.shape) for tensor in parsed(path).subgraphs[0].tensors]
    assert {(16, 3, 3, 2), (32, 3, 3, 4), (64, 3, 3, 8)} <= set(shapes)


@needs_litert
def test_the_more_accurate_quantiser_is_kept(grouped: keras.Model, tmp_path: Path) -> None:
    images = photos.real_images(grouped, 32)
    path = tmp_path / "net.tflite"
    report = export(grouped, path, "tflite", quantization="int8", calibration=images, tolerance=0.5, min_agreement=0)
    tried = report.options["quantizers"]
    kept = report.options["quantizer_kept"]
    assert set(tried) == {"converter", "litert"} and report.options["quantizer"] == "best"
    ranks = {name: (-found["top1_agreement"], found["mean_difference"]) for name, found in tried.items()}
    assert ranks[kept] == min(ranks.values())
    check_integers(path, schema.TensorType.INT8, kernels=13)


def test_narrow_groups_are_joined_in_8_bits(grouped: keras.Model, tmp_path: Path) -> None:
    """As fast as one of them in XNNPACK; the file still has one operator, and the same function."""
    images = photos.real_images(grouped, 32)
    options = {"quantization": "int8", "quantizer": "converter", "calibration": images, "min_agreement": 0}
    report = export(grouped, tmp_path / "net.tflite", "tflite", tolerance=0.1, **options)
    assert report.operators["CONV_2D"] == 13 and report.partitions == 1
    shapes = [tuple(tensor.shape) for tensor in parsed(tmp_path / "net.tflite").subgraphs[0].tensors]
    assert {(16, 3, 3, 16), (32, 3, 3, 16), (64, 3, 3, 16)} <= set(shapes)


def test_an_absent_quantiser_is_reported(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, _ = digits
    monkeypatch.setitem(tflite_quantization.QUANTIZERS, "litert", "a_package_that_nobody_has")
    options = {"quantization": "int8", "calibration": inputs[:20]}
    with pytest.raises(ValueError, match="quantizer='litert' needs litert-quantizer: pip install"):
        export(model, tmp_path / "net.tflite", "tflite", quantizer="litert", **options)
    report = export(model, tmp_path / "net.tflite", "tflite", **options)
    assert report.options["quantizer_kept"] == "converter"
    assert report.options["quantizers"]["litert"] == "not tried: not installed"
    assert json.loads((tmp_path / "net.tflite.report.json").read_text())["options"] == report.options


def vtable_field(data: bytes, table: int, field: int) -> int:
    """Where a field of a flatbuffer's table is, by the format's own description; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    length = struct.unpack_from("<H", data, vtable)[0]
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * field)[0] if 4 + 2 * field < length else 0
    return table + offset if offset else 0


def follow(data: bytes, at: int) -> int:
    return at + struct.unpack_from("<I", data, at)[0]


def vector(data: bytes, table: int, field: int) -> tuple[int, int]:
    start = follow(data, vtable_field(data, table, field))
    return start + 4, struct.unpack_from("<I", data, start)[0]


def text(data: bytes, table: int, field: int) -> str:
    start, length = vector(data, table, field)
    return data[start : start + length].decode()


def test_metadata_in_the_standard_form(digits: Digits, tmp_path: Path) -> None:
    """Read as the public metadata_schema.fbs says, field number by field number."""
    path = tmp_path / "net.tflite"
    export(digits[0], path, "tflite", labels=[f"the {i}" for i in range(10)])
    (entry,) = [item for item in parsed(path).metadata if item.name == b"TFLITE_METADATA"]
    data = bytes(parsed(path).buffers[entry.buffer].data)
    assert data[4:8] == b"M001"
    model = follow(data, 0)
    assert text(data, model, 0) == "resnet20_cifar" and text(data, model, 2) == "digits"
    assert text(data, model, 5) == "apache-2.0" and text(data, model, 7) == "1.0.0"
    graph = follow(data, vector(data, model, 3)[0])
    image, output = (follow(data, vector(data, graph, field)[0]) for field in (2, 3))
    content = follow(data, vtable_field(data, image, 3))
    assert data[vtable_field(data, content, 0)] == 2  # ImageProperties
    properties = follow(data, vtable_field(data, content, 1))
    assert data[vtable_field(data, properties, 0)] == 1  # RGB
    size = follow(data, vtable_field(data, properties, 1))
    assert [struct.unpack_from("<I", data, vtable_field(data, size, field))[0] for field in (0, 1)] == [32, 32]
    unit = follow(data, vector(data, image, 4)[0])
    assert data[vtable_field(data, unit, 0)] == 1  # NormalizationOptions
    normalisation = follow(data, vtable_field(data, unit, 1))
    for field in (0, 1):
        start, length = vector(data, normalisation, field)
        assert struct.unpack_from(f"<{length}f", data, start) == (127.5, 127.5, 127.5)
    assert text(data, output, 0) == "predictions"
    labels = follow(data, vector(data, output, 6)[0])
    assert data[vtable_field(data, labels, 2)] == 2  # TENSOR_AXIS_LABELS
    with zipfile.ZipFile(path) as archive:
        assert archive.read(text(data, labels, 0)).decode().splitlines() == [f"the {i}" for i in range(10)]
        assert all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())
        assert json.loads(archive.read("preprocessing.json"))["crop"] == 1.0


def test_metadata_is_read_back(digits: Digits, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    model = digits[0]
    export(model, path, "tflite", input_size=(40, 48), preprocessing=Preprocess(mean, std, None, 0.9, "bicubic"))
    found = read_metadata(path)
    assert found["labels"] == list("0123456789") and found["input_size"] == (40, 48) and found["colour"] == "RGB"
    np.testing.assert_allclose(found["mean"], 255 * np.array(mean), rtol=1e-6)
    np.testing.assert_allclose(found["std"], 255 * np.array(std), rtol=1e-6)
    assert (found["crop"], found["interpolation"], found["weights"]) == (0.9, "bicubic", "digits")
    wider = np.random.default_rng(0).normal(size=(2, 40, 48, 3)).astype("float32")
    anysize = kr.create_model("resnet20_cifar", weights="digits", input_shape=(40, 48, 3))
    outputs, _ = run_artifact(path, wider)
    np.testing.assert_allclose(outputs, anysize.predict(wider, verbose=0), atol=1e-5)


def test_a_model_that_is_not_ours(tmp_path: Path) -> None:
    """It gets the metadata that are known; and the weights in the file lie at multiples of 16 bytes."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(5, 3, activation="relu")(image)
    model = keras.Model(image, keras.layers.Dense(3, name="answer")(keras.layers.Flatten()(x)), name="mine")
    path = tmp_path / "net.tflite"
    export(model, path, "tflite", labels=["a", "b", "c"])
    found = read_metadata(path)
    assert found["network"] == "mine" and found["labels"] == ["a", "b", "c"] and found["colour"] == "GRAYSCALE"
    assert found["mean"] is found["crop"] is found["weights"] is None and found["input_size"] == (8, 8)
    data = path.read_bytes()
    root = schema.Model.GetRootAs(data)
    starts = [follow(data, vtable_field(data, root.Buffers(i)._tab.Pos, 0)) + 4 for i in range(1, root.BuffersLength())]
    assert len(starts) > 3 and all(start % 16 == 0 for start in starts)


def test_reading_metadata_that_is_not_there(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"not a network"), ("cut", b"\x1c\0\0\0TFL3" + bytes(40))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"metadata of .*{name}' cannot be read: it "):
            read_metadata(tmp_path / name)
    with pytest.raises(ValueError, match="metadata of 'absent' cannot be read"):
        read_metadata("absent")
