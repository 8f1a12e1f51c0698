"""ONNX files: what is in them, read with the onnx package, and what ONNX Runtime makes of them."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.export import export, run_artifact

if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs Keras on the TensorFlow backend", allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="the onnx package reads the files")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the files")


def trained_looking(name: str, size: int | None = 32, **options: Any) -> keras.Model:
    """A network whose every variable matters."""
    keras.utils.set_random_seed(1)
    options = {"input_shape": (size, size, 3), "classes": 10, "classifier_activation": None, **options}
    model = kr.create_model(name, **options)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(generator.uniform(0.7, 1.3, variable.shape))
        elif variable.path.endswith(("beta", "moving_mean", "bias")):
            variable.assign(generator.normal(0, 0.1, variable.shape))
    return model


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return trained_looking("resnext29_8x64d_cifar", depth=1, base_width=8, widths=(16, 32, 64))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(5, 32, 32, 3)).astype("float32")


def converted(model: keras.Model, opset: int = 17, nchw: bool = False) -> Any:
    """The model that `export` would prove."""
    from keras_resnets.export.onnx_convert import converted

    proto = converted(kr.fuse(model), opset, nchw).model()
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: Any, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"image": images})
    return outputs


def relative(outputs: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def test_zeros_that_take_part_in_a_maximum(tmp_path: Path) -> None:
    """keras.applications pads with zeros before the stem's pool, whose values may all be negative."""
    model = trained_looking("resnet50_v2", depths=(1, 1, 1, 1))
    model.get_layer("stem").bias.assign(keras.ops.full((64,), -5.0))
    for path in ("network.onnx", "network.tflite"):
        assert kr.export(model, tmp_path / path, path.split(".")[1]).relative_difference < 1e-5
    assert [node.op_type for node in converted(model).graph.node].count("Transpose") == 1


def first(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2)


def kinds(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_file(network: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    report = export(network, tmp_path / "net.onnx", "onnx", images=images)
    assert report.tolerance == 1e-5 and report.relative_difference < 1e-5
    model = onnx.load(tmp_path / "net.onnx")
    groups = [a.i for node in model.graph.node if node.op_type == "Conv" for a in node.attribute if a.name == "group"]
    assert len(groups) == 1 + 3 * 4 and groups.count(8) == 3
    assert report.operators == {
        "Transpose": 1,
        "Conv": 13,
        "Relu": 10,
        "Add": 3,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    assert model.opset_import[0].version == 17
    sides = [{v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in side}
             for side in (model.graph.input, model.graph.output)]  # fmt: skip
    assert sides == [{"image": ["batch", 32, 32, 3]}, {"predictions": ["batch", 10]}]
    outputs, _ = run_artifact(tmp_path / "net.onnx", images, batch_size=5)
    assert relative(outputs, network.predict(images, verbose=0)) < 1e-5


def test_names_are_the_models(network: keras.Model) -> None:
    """Weights have their variables' names, and the same model gives the same bytes."""
    proto = converted(network)
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer if len(tensor.dims) == 4}
    fused = {
        v.path: tuple(v.shape[i] for i in (3, 2, 0, 1))
        for v in kr.fuse(network).variables
        if v.path.endswith("conv/kernel")
    }
    assert weights == fused
    assert {"stem/conv", "stage1_block1/conv2/conv", "predictions"} <= {node.output[0] for node in proto.graph.node}
    assert converted(network).SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


DIFFICULT = {
    "resnet20_cifar": {"depth": 1},  # a shortcut of strided slices and zero channels
    "preresnet110_cifar": {"depth": 1},  # normalisations without a convolution before them
    "densenet40_k12_cifar": {"depths": (2, 2, 2)},
    "resnest50d_4s2x40d": {"depths": (1, 1, 1, 1)},  # softmax over four splits of two groups
    "ecaresnet26t": {"depths": (1, 1, 1, 1)},  # a convolution along the channels
    "resnetblur18": {"depths": (1, 1, 1, 1)},  # mirrored borders
    "dpn68": {"depths": (1, 1, 1, 1)},
    "legacy_seresnet18": {"depths": (1, 1, 1, 1)},  # pools that round up
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFICULT)
def test_channels_first_throughout(name: str) -> None:
    options = DIFFICULT[name]
    size = 32 if name.endswith("_cifar") else 36  # 36 becomes odd on its way down
    model = trained_looking(name, size, **options)
    images = np.random.default_rng(0).normal(size=(3, size, size, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    nhwc, nchw = converted(model), converted(model, nchw=True)
    assert relative(run(nhwc, images), expected) < 1e-5 and relative(run(nchw, first(images)), expected) < 1e-5
    transposes = [node for node in nhwc.graph.node if node.op_type == "Transpose"]
    assert [list(node.input) for node in transposes] == [["image"]] and "Transpose" not in kinds(nchw)
    assert kinds(nhwc)[1:] == kinds(nchw)  # and that is the only difference
    assert not {"BatchNormalization", "Identity", "Cast", "Shape", "Gather", "Squeeze"} & set(kinds(nhwc))


def test_windows_pad_by_themselves() -> None:
    proto = converted(trained_looking("resnet18", 64, depths=(1, 1, 1, 1)))
    pads = {
        node.op_type: list(a.ints)
        for node in proto.graph.node
        for a in node.attribute
        if a.name == "pads" and any(a.ints)
    }
    assert "Pad" not in kinds(proto) and pads == {"Conv": [1, 1, 1, 1], "MaxPool": [1, 1, 1, 1]}


def test_unknown_size_runs_at_any() -> None:
    model = trained_looking("resnet18", None, depths=(1, 1, 1, 1))
    images = np.random.default_rng(0).normal(size=(2, 50, 70, 3)).astype("float32")
    assert relative(run(converted(model), images), model.predict(images, verbose=0)) < 1e-5


@pytest.mark.parametrize("opset", [13, 16, 18, 21, 23])
def test_opsets(opset: int, images: np.ndarray) -> None:
    """Gates, sums over axes, splits and pads are spelled differently in some of them."""
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same")(image)
    x = x * keras.ops.max(x, axis=-1, keepdims=True) + keras.ops.mean(x, axis=1, keepdims=True)
    x = keras.layers.ZeroPadding2D(((1, 2), (0, 1)))(
        keras.ops.concatenate(keras.ops.split(x, 2, axis=-1)[::-1], axis=-1)
    )
    model = keras.Model(image, keras.ops.sum(x, axis=(1, 2)))
    proto = converted(model, opset)
    assert [entry.version for entry in proto.opset_import] == [opset] and kinds(proto).count("Transpose") == 1
    assert relative(run(proto, images), model.predict(images, verbose=0)) < 1e-5


def test_maps_as_outputs(network: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    """Outputs with height and width are the model's, channels last, whatever the input is."""
    model = keras.Model(network.input, network.get_layer("C2").output)
    expected = model.predict(images, verbose=0)
    for layout, inputs in (("nhwc", images), ("nchw", first(images))):
        export(model, tmp_path / "c2.onnx", "onnx", layout=layout, images=images, overwrite=True)
        outputs, _ = run_artifact(tmp_path / "c2.onnx", inputs, batch_size=2)
        assert outputs.shape == expected.shape and relative(outputs, expected) < 1e-5


def test_a_model_of_somebody_else(images: np.ndarray, tmp_path: Path) -> None:
    """Layers that reshape maps need them channels last: the answer is right, with the Transposes that it takes."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    x = keras.layers.Dense(6)(keras.layers.Flatten()(keras.layers.BatchNormalization()(x)))
    report = export(keras.Model(image, x), tmp_path / "net.onnx", "onnx", images=images)
    assert report.relative_difference < 1e-5 and report.operators["Transpose"] == 2


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_int8(digits: tuple[keras.Model, np.ndarray, np.ndarray], layout: str, tmp_path: Path) -> None:
    model, inputs, classes = digits
    path = tmp_path / "digits.onnx"
    report = export(
        model, path, "onnx", quantization="int8", calibration=inputs[:60], images=inputs[60:], layout=layout
    )
    assert report.top1_agreement >= 0.95 and (report.real_images, report.random_images) == (240, 0)
    assert report.tolerance is None and report.min_agreement == 0.95
    assert report.size_bytes < 0.3 * 4 * model.count_params()
    probabilities, _ = run_artifact(path, inputs if layout == "nhwc" else first(inputs), batch_size=50)
    assert np.mean(probabilities.argmax(-1) == classes) > 0.98
    proto = onnx.load(path)
    kernels = [tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4]
    assert len(kernels) == 19 and {tensor.data_type for tensor in kernels} == {onnx.TensorProto.INT8}
    scales = [
        len(t.float_data) or len(t.raw_data) // 4 for t in proto.graph.initializer if t.name == "stem/conv/kernel_scale"
    ]
    assert scales == [16]  # one per channel
    known = {entry.key: entry.value for entry in proto.metadata_props}
    assert (known["network"], known["weights"], known["layout"]) == ("resnet20_cifar", "digits", layout)
    assert json.loads(known["labels"]) == list("0123456789") and json.loads(known["input_size"]) == [32, 32]
    assert json.loads(known["mean"]) == json.loads(known["std"]) == [0.5, 0.5, 0.5]


def test_metadata_of_ones_own_classes(network: keras.Model, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(10)]
    preprocessing = kr.preprocessing.Preprocess((0.1, 0.2, 0.3), (1, 1, 1))
    export(network, tmp_path / "net.onnx", "onnx", labels=names, preprocessing=preprocessing)
    known = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert json.loads(known["labels"]) == names and json.loads(known["mean"]) == [0.1, 0.2, 0.3]
    assert "weights" not in known and known["network"] == "resnext29_8x64d_cifar"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"opset": 12}, "opset must be from 13 to 23, not 12"),
        ({"opset": "17"}, "opset must be from 13 to 23, not '17'"),
        ({"layout": "ncwh"}, "unknown layout 'ncwh': did you mean 'nchw'"),
        ({"quantization": "int4"}, "unknown quantization 'int4' for onnx: did you mean 'int8'"),
        ({"quantization": "float16"}, "unknown quantization 'float16' for onnx"),
        ({"quantization": "int8"}, "int8' needs calibration=: a hundred or more real inputs"),
        ({"calibration": np.zeros((1, 32, 32, 3))}, "calibration is for quantization='int8', not for None"),
        ({"quantization": "int8", "calibration": np.zeros((20, 3, 32, 32))}, "(calibration|images) must be one or more"),
        ({"quantization": "int8", "calibration": np.random.default_rng(0).normal(size=(20, 32, 32, 3))}, "not random numbers"),
        ({"interface": "int8"}, "option 'interface' is for format 'tflite', not for 'onnx'"),
        ({"labels": ["a"]}, "labels must name each of the model's 10 classes, not 1"),
    ],
)  # fmt: skip
def test_refusals(network: keras.Model, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(network, tmp_path / "net.onnx", "onnx", **options)
    assert not list(tmp_path.iterdir())


def test_refuses_int8_that_lost_the_classes(digits: tuple[keras.Model, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Calibrated on all but black images, every activation saturates."""
    model, inputs, _ = digits
    with pytest.raises(ValueError, match="top-1 class on"):
        export(
            model,
            tmp_path / "net.onnx",
            "onnx",
            quantization="int8",
            calibration=inputs[:20] * 1e-3,
            images=inputs[:50],
        )
    assert not list(tmp_path.iterdir())
