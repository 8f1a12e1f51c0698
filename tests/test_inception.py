"""Inception networks: tables of sizes, the auxiliary classifier, residual units, options, bad input, exports."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import reference
import safetensors.numpy

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.equivalence import carry_keras_inception
from keras_resnets.features import without_auxiliary
from keras_resnets.layers import BatchNorm, ConvNorm, InceptionModule
from keras_resnets.models.inception_resnet_v2 import InceptionResidual

NORM = {"epsilon": 1e-3, "momentum": 0.9}
# Networks with one module or unit of each kind.
SMALL: dict[str, dict[str, Any]] = {
    "inception_v3": {"pooled": (8,), "widths": (16,)},
    "inception_v4": {"depths": (1, 1, 1)},
    "inception_resnet_v2": {"depths": (1, 1, 2)},
}


def with_rule_weights(name: str, **options: Any) -> keras.Model:
    model = kr.create_model(name, weights=None, **{"classifier_activation": None, **SMALL[name], **options})
    parameters = kr.pytorch_parameters(model).items()
    kr.load_pytorch_weights(model, {key: reference.weight(key, to_torch(v).shape) for key, (v, to_torch) in parameters})
    return model


def images(count: int, height: int, width: int) -> np.ndarray:
    return reference.generator("inception").standard_normal((count, height, width, 3), dtype=np.float32)


def numpy(x: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_numpy, x)


# Height (and width) and channels of layers for an image of 299 pixels: table 1 of arXiv 1512.00567, figures 3 to 19 of
# arXiv 1602.07261, and the widths of the released code where they differ.
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "inception_v3": {
        "stem": (147, 64), "stem_pool": (73, 64), "stage1_block1": (73, 80), "stage1_block2": (71, 192),
        "stage1_pool": (35, 192), "stage2_block1": (35, 256), "stage2_block2": (35, 288), "stage2_block3": (35, 288),
        **{f"stage3_block{block}": (17, 768) for block in range(1, 6)},
        "stage4_block1": (8, 1280), "stage4_block2": (8, 2048), "stage4_block3": (8, 2048),
    },
    "inception_v4": {
        "stem": (147, 64), "stage1_block1": (73, 160), "stage2_block1": (71, 192),
        **{f"stage2_block{block}": (35, 384) for block in range(2, 7)},
        **{f"stage3_block{block}": (17, 1024) for block in range(1, 9)},
        **{f"stage4_block{block}": (8, 1536) for block in range(1, 5)},
    },
    "inception_resnet_v2": {
        "stem": (147, 64), "stem_pool": (73, 64), "stage1_block1": (73, 80), "stage1_block2": (71, 192),
        "stage1_pool": (35, 192), **{f"stage2_block{block}": (35, 320) for block in range(1, 12)},
        **{f"stage3_block{block}": (17, 1088) for block in range(1, 22)},
        **{f"stage4_block{block}": (8, 2080) for block in range(1, 12)}, "stage4_conv": (8, 1536),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    with without_values():
        model = kr.create_model(name, weights=None)
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers if layer.name.startswith("st")}
    assert shapes == {layer: (size, size, channels) for layer, (size, channels) in SIZES[name].items()}
    features = kr.feature_extractor(model, ("C1", "C2", "C3", "C4", "C5")).output
    assert [tensor.shape[1] for tensor in features.values()] == [147, 73 if name == "inception_v4" else 71, 35, 17, 8]


@pytest.mark.parametrize("name", SMALL)
def test_smallest_image(name: str, tmp_path: pathlib.Path) -> None:
    """75 pixels leave a map of one. A network for any size gives the same; so does it folded, and out of a file."""
    model = with_rule_weights(name, input_shape=(75, 107, 3), classes=7)
    assert model.get_layer("C5").output.shape[1:3] == (1, 2)
    any_size = with_rule_weights(name, input_shape=(None, None, 3), classes=7)
    x = images(2, 75, 107)
    outputs = numpy(model(x, training=False))
    assert outputs.shape == (2, 7) and np.isfinite(outputs).all()
    assert reference.distance(numpy(any_size(x, training=False)), outputs) < 1e-5
    fused = kr.fuse(model)
    assert not [layer for layer in fused._flatten_layers() if isinstance(layer, BatchNorm)]
    assert reference.distance(numpy(fused(x, training=False)), outputs) < 1e-5
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert loaded.variant == name
    np.testing.assert_array_equal(numpy(loaded(x, training=False)), outputs)


def test_module() -> None:
    """Names, order and nesting: the branches' convolutions applied by hand."""
    branches = {"one": [(3, (1, 3)), (5, 3, 2, "valid")], "two": ["max", {"a": [(2, 1)], "b": [(3, 3)]}]}
    module = InceptionModule(branches, norm=NORM)
    x = images(2, 9, 11)
    outputs = numpy(module(x))
    assert outputs.shape == module.compute_output_shape(x.shape) == (2, 4, 5, 10)
    layers = {layer.path.partition("/")[2]: layer for layer in module._flatten_layers() if isinstance(layer, ConvNorm)}
    assert sorted(layers) == ["one_1", "one_2", "two/a", "two/b"]
    pooled = keras.ops.max_pool(x, 3, 2, "valid")
    parts = [layers["one_2"](layers["one_1"](x)), layers["two/a"](pooled), layers["two/b"](pooled)]
    np.testing.assert_array_equal(outputs, np.concatenate([numpy(part) for part in parts], axis=-1))


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ({}, "branches must hold at least one branch"),
        ({"a": ["average"]}, "a step of branches must be .* not 'average'"),
        ({"a": [(3,)]}, r"a step of branches must be .* not \(3,\)"),
        ({"a": [7]}, "a step of branches must be .* not 7"),
        ({"a": [(3, 1)], "b": ["max"]}, r"branches of 'm' make maps of different sizes"),
    ],
)
def test_bad_modules(branches: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InceptionModule(branches, norm=NORM, name="m").build((None, 9, 9, 4))


def test_residual_unit() -> None:
    """`ReLU(x + scale · 1x1(branches))`, and without the ReLU; a unit that starts as its shortcut."""
    x = images(2, 5, 6)
    for activation, after in (("relu", lambda y: np.maximum(y, 0)), (None, lambda y: y)):
        unit = InceptionResidual({"a": [(4, 1)], "b": [(4, 1), (2, 3)]}, 0.17, activation, norm=NORM)
        outputs = numpy(unit(x, training=False))
        inner = numpy(unit.residual[0](x, training=False))
        kernel, bias = (numpy(weight) for weight in unit.residual[1].weights)
        assert inner.shape[-1] == 6 and bias.shape == (3,)
        np.testing.assert_allclose(outputs, after(x + 0.17 * (inner @ kernel[0, 0] + bias)), rtol=1e-4, atol=1e-5)
    start = InceptionResidual({"a": [(4, 1)]}, 0.1, None, norm=NORM, zero_gamma=True)
    np.testing.assert_array_equal(numpy(start(x)), x)


def test_residual_options() -> None:
    """The last unit has scale 1 and no ReLU; stochastic depth grows from the first unit to it."""
    with without_values():
        model = kr.create_model("inception_resnet_v2", weights=None, drop_path_rate=0.3, depths=(2, 2, 3))
    units = [layer for layer in model.layers if isinstance(layer, InceptionResidual)]
    assert [unit.scale for unit in units] == [0.17, 0.17, 0.10, 0.10, 0.20, 0.20, 1.0]
    assert [unit.activation is keras.activations.relu for unit in units] == [True] * 6 + [False]
    np.testing.assert_allclose([unit.drop_path.rate for unit in units], np.linspace(0, 0.3, 7))


def test_transform_input() -> None:
    """With torchvision's constants: per channel `x · deviation / 0.5 + (mean - 0.5) / 0.5`."""
    options: dict[str, Any] = {"input_shape": (75, 75, 3), "classes": 5}
    x = images(2, 75, 75)
    shown = x * np.array([0.229, 0.224, 0.225]) / 0.5 + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    expected = numpy(with_rule_weights("inception_v3", **options)(shown.astype("float32"), training=False))
    outputs = numpy(with_rule_weights("inception_v3", transform_input=True, **options)(x, training=False))
    assert reference.distance(outputs, expected) < 1e-5


@pytest.fixture(scope="module")
def auxiliary() -> keras.Model:
    return with_rule_weights("inception_v3", aux_logits=True, classes=5, classifier_activation="softmax")


def test_auxiliary_logits(auxiliary: keras.Model, tmp_path: pathlib.Path) -> None:
    """Both outputs in both modes, both after the activation; through a file, folded, and without."""
    x = images(2, 299, 299)
    for training in (True, False):
        outputs = numpy(auxiliary(x, training=training))
        assert set(outputs) == {"logits", "aux_logits"}
        for probabilities in outputs.values():
            assert probabilities.shape == (2, 5)
            np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert np.abs(outputs["logits"] - outputs["aux_logits"]).max() > 1e-3
    auxiliary.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert loaded.variant == "inception_v3"
    for name, probabilities in numpy(loaded(x, training=False)).items():
        np.testing.assert_array_equal(probabilities, outputs[name])
    for name, probabilities in numpy(kr.fuse(auxiliary)(x, training=False)).items():
        np.testing.assert_allclose(probabilities, outputs[name], rtol=1e-3, atol=1e-5)
    plain = without_auxiliary(auxiliary)
    assert plain.variant == "inception_v3" and not [layer.name for layer in plain.layers if "aux" in layer.name]
    np.testing.assert_array_equal(numpy(plain(x, training=False)), outputs["logits"])


def test_auxiliary_logits_are_exported(auxiliary: keras.Model, tmp_path: pathlib.Path) -> None:
    """A caller who does not want them exports `without_auxiliary`."""
    report = kr.export(auxiliary, tmp_path / "net.onnx", "onnx")
    assert set(report.signatures["predict"]) == {"logits", "aux_logits"}
    report = kr.export(without_auxiliary(auxiliary), tmp_path / "plain.onnx", "onnx")
    assert len(report.signatures["predict"]) == 1


def test_checkpoints_with_the_auxiliary_classifier(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torchvision's hold it. A network without takes the rest, one with it is not left half random."""
    options: dict[str, Any] = {**SMALL["inception_v3"], "classes": 5}
    full = kr.create_model("inception_v3", weights=None, aux_logits=True, **options)
    state = {name: np.ascontiguousarray(to_torch(v)) for name, (v, to_torch) in kr.pytorch_parameters(full).items()}
    path = tmp_path / "full.safetensors"
    safetensors.numpy.save_file(state, path)
    for arguments in ({}, {"include_top": False}, {"aux_logits": True}):
        loaded = kr.create_model("inception_v3", weights=path, **options, **arguments)
        for name, (variable, to_torch) in kr.pytorch_parameters(loaded).items():
            np.testing.assert_array_equal(to_torch(variable), state[name])
    without = tmp_path / "without.safetensors"
    safetensors.numpy.save_file({name: v for name, v in state.items() if not name.startswith("AuxLogits.")}, without)
    with pytest.raises(ValueError, match=r"\(AuxLogits\.\S+\): missing"):
        kr.create_model("inception_v3", weights=without, aux_logits=True, **options)
    kr.create_model("inception_v3", weights=path, aux_logits=True, **{**options, "classes": 6})
    assert "260/264 tensors loaded, aux_predictions 5→6 new, head 5→6 new" in capsys.readouterr().err


BAD = [
    ("inception_v3", {"input_shape": (74, 100, 3)}, r"at least 75 x 75 pixels, not \(74, 100, 3\)"),
    ("inception_v4", {"input_shape": (100, 74, 3)}, r"at least 75 x 75 pixels, not \(100, 74, 3\)"),
    ("inception_resnet_v2", {"input_shape": (32, 32, 3)}, "at least 75 x 75 pixels"),
    ("inception_v3", {"input_shape": (298, 400, 3), "aux_logits": True}, r"at least 299 x 299 pixels, not \(298, 400, 3\)"),
    ("inception_v3", {"aux_logits": True, "include_top": False}, "include_top must be True with aux_logits=True"),
    ("inception_v3", {"aux_logits": True, "include_top": False, "pooling": "avg"}, "include_top must be True with aux_logits"),
    ("inception_v3", {"aux_logits": 1}, "aux_logits must be True or False, not 1"),
    ("inception_v3", {"aux_logit": True}, "unknown option 'aux_logit': did you mean 'aux_logits'"),
    ("inception_v4", {"aux_logits": True}, "unknown option 'aux_logits'"),
    ("inception_v3", {"transform_input": True, "input_shape": (75, 75, 4)}, "transform_input is for images of 3 channels, not 4"),
    ("inception_v3", {"widths": (128, 0)}, "widths must be some whole numbers above 0"),
    ("inception_v3", {"pooled": ()}, "pooled must be some whole numbers above 0"),
    ("inception_v4", {"depths": (4, 7)}, "depths must be 3 whole numbers above 0"),
    ("inception_resnet_v2", {"depths": (10, 20, 0)}, "depths must be 3 whole numbers above 0"),
    ("inception_v3", {"drop_path_rate": 0.1}, "drop_path_rate must be 0.0: there are no residual branches"),
    ("inception_v4", {"zero_gamma": True}, "zero_gamma must be False: there are no residual branches"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_input(name: str, options: dict[str, Any], message: str) -> None:
    with without_values(), pytest.raises(ValueError, match=message):
        kr.create_model(name, weights=None, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "name"), [("InceptionV3", "inception_v3"), ("InceptionResNetV2", "inception_resnet_v2")]
)
def test_keras_applications_agree(application: str, name: str) -> None:
    """Which do not count padded zeros and have no scale in their normalisations."""
    arguments: dict[str, Any] = {
        "weights": None,
        "input_shape": (96, 128, 3),
        "classes": 11,
        "classifier_activation": None,
    }
    source = getattr(keras.applications, application)(**arguments)
    target = kr.create_model(name, count_include_pad=False, **arguments)
    rng = np.random.default_rng(0)
    for variable in source.variables:
        noise = 0.1 * rng.standard_normal(variable.shape)
        variable.assign(np.abs(numpy(variable) + noise) if "variance" in variable.path else numpy(variable) + noise)
    carry_keras_inception(source, target)
    x = images(3, 96, 128)
    assert reference.distance(numpy(target(x, training=False)), numpy(source(x, training=False))) < 1e-5
    assert reference.distance(numpy(target(x, training=True)), numpy(source(x, training=True))) < 2e-3
    with pytest.raises(ValueError, match="not forms of one network"):
        carry_keras_inception(source, kr.create_model("inception_v4", weights=None))


@pytest.mark.parametrize(("policy", "rounding"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
def test_mixed_precision(policy: str, rounding: float) -> None:
    """As in test_mixed_precision.py, on an image with more than one pixel in the last map."""
    x = images(4, 139, 139)
    expected = numpy(with_rule_weights("inception_v3", input_shape=(139, 139, 3), classes=5)(x, training=False))
    keras.config.set_dtype_policy(policy)
    model = with_rule_weights("inception_v3", input_shape=(139, 139, 3), classes=5)
    assert model.get_layer("C3").output.dtype == policy.removeprefix("mixed_")
    logits = model(x, training=False)
    assert logits.dtype == "float32" and {variable.dtype for variable in model.variables} == {"float32"}
    assert reference.distance(numpy(logits), expected) <= rounding
    step = reference.train_step(model, x, np.full((4, 5), 0.25, "float32"))
    assert all(np.isfinite(array).all() for array in step.gradients.values())
