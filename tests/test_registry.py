"""Every registered network: counts, shapes and layer names; and the functions that find networks by name."""

import inspect
import json
import math
import pathlib
import re

import keras
import pytest

import keras_resnets as kr
from keras_resnets import costs, registry
from keras_resnets.assembly import Network

COUNTS = json.loads((pathlib.Path(__file__).parent / "data" / "counts.json").read_text("utf-8"))["networks"]
SIZES = json.loads((pathlib.Path(kr.__file__).parent / "data" / "sizes.json").read_text("utf-8"))
TOY = "resnet20_cifar"


def test_every_network_has_an_independent_count() -> None:
    assert sorted(COUNTS) == kr.list_models()


@pytest.mark.parametrize("name", kr.list_models())
def test_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts equal those of other sources, and the model is laid out as documented."""
    built: list[Network] = []
    monkeypatch.setattr(registry, "create_model", lambda name: built.append(kr.create_model(name)) or built[-1])
    measured = registry.measure(name)
    params, gmacs, _ = measured
    expected = COUNTS[name]
    assert params == expected["params"]
    # Other sources state three decimals or more, and timm's count holds the few taps of efficient channel attention.
    assert gmacs == pytest.approx(expected["gmacs"], abs=min(6e-4, 2e-3 * expected["gmacs"]))
    assert SIZES[name] == list(measured)

    model, cifar = built[0], name.endswith("_cifar")
    assert model.name == model.variant == name and model.weights_tag is None
    assert [tensor.name for tensor in model.inputs] == ["image"]
    assert model.input_shape == (None, expected["size"], expected["size"], 3)
    assert model.output_shape == (None, 10 if cifar else 1000)
    names = [layer.name for layer in model.layers]
    assert names[0] == "image" and names[1].startswith("stem") and names[-1] == "predictions"
    assert {"stage1_block1", "stage2_block1", "stage3_block1", "avg_pool"} <= set(names)
    levels = [layer for layer in model.layers if re.fullmatch(r"C\d", layer.name)]
    assert [level.name for level in levels] == [f"C{i}" for i in range(1, 5 if cifar else 6)]
    strides = [expected["size"] / level.output.shape[1] for level in levels]
    if name.startswith("inception"):  # without padding maps are a little smaller; their sizes are in test_inception.py
        strides = [2 ** round(math.log2(stride)) for stride in strides]
    assert strides == ([1, 1, 2, 4] if cifar else [2, 4, 8, 16, 32])


def test_measuring_allocates_nothing() -> None:
    """3.3 GB of weights, neither while measuring nor when a later scope ends."""
    with costs.without_values():
        model = kr.create_model("resnext101_32x48d")
    with keras.StatelessScope():
        kr.create_model(TOY)
    assert all(variable._value is None for variable in model.variables)


def test_list_models_patterns() -> None:
    assert kr.list_models("resnet50*_32x4d") == []
    assert kr.list_models("resnet?8") == ["resnet18"]
    assert kr.list_models("resnext50_[36]*") == ["resnext50_32x4d", "resnext50_32x8d", "resnext50_64x4d"]
    assert kr.list_models() == sorted(set(kr.list_models()))
    assert kr.list_models("*", family="WideResNet") == ["wide_resnet101_2", "wide_resnet50_2"]
    assert kr.list_models("*101*", family="WideResNet") == ["wide_resnet101_2"]


def test_list_models_pretrained() -> None:
    pretrained = kr.list_models(pretrained=True)
    assert {"resnet50", "resnext50_32x4d", TOY} <= set(pretrained)
    assert "plain34" not in pretrained


def test_list_models_names_the_nearest_family() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'SEResNet'.*'SE-ResNet'"):
        kr.list_models(family="SEResNet")


def test_model_info() -> None:
    info = kr.model_info("resnet50")
    assert (info.name, info.family, info.builder) == ("resnet50", "ResNet", "ResNet50")
    assert (info.params, info.input_size) == (25557032, 224)
    assert info.gmacs == pytest.approx(4.08918, abs=1e-5)
    assert "1512.03385" in info.paper
    entry = info.weights["a1_in1k"]
    assert (entry.source, entry.classes, entry.input_size) == ("hub:timm/resnet50.a1_in1k", 1000, 224)
    assert (entry.crop, entry.interpolation, entry.licence) == (0.95, "bicubic", "apache-2.0")


@pytest.mark.parametrize("function", [kr.model_info, kr.create_model])
def test_unknown_names_get_the_nearest(function) -> None:
    with pytest.raises(ValueError, match=r"unknown network 'resnext50_32x4'.*'resnext50_32x4d'"):
        function("resnext50_32x4")


def test_builders_are_public_and_documented() -> None:
    for name in kr.list_models():
        info = kr.model_info(name)
        builder = getattr(kr, info.builder)
        assert info.builder in kr.__all__
        assert builder.__name__ == info.builder
        assert builder.__doc__.startswith(name)


def test_builder_signature_follows_keras_applications() -> None:
    parameters = list(inspect.signature(kr.ResNet50).parameters)
    theirs = list(inspect.signature(keras.applications.ResNet50).parameters)
    assert parameters[:7] == theirs[:7] == [
        "include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation"
    ]  # fmt: skip
    defaults = {key: value.default for key, value in inspect.signature(kr.ResNet50).parameters.items()}
    assert (defaults["include_top"], defaults["weights"], defaults["classes"]) == (True, "imagenet", 1000)
    assert inspect.signature(kr.Plain34).parameters["weights"].default is None
    assert inspect.signature(kr.ResNet20Cifar).parameters["classes"].default == 10


def test_builder_and_create_model_make_the_same_network() -> None:
    by_builder = kr.ResNet20Cifar(classes=7, classifier_activation=None)
    by_name = kr.create_model(TOY, classes=7, classifier_activation=None)
    assert by_builder.variant == by_name.variant == TOY
    assert [v.path for v in by_builder.variables] == [v.path for v in by_name.variables]
    assert by_builder.output_shape == (None, 7)
    assert kr.ResNet20Cifar(name="mine").name == "mine"


def test_tops() -> None:
    assert kr.create_model(TOY, include_top=False).output_shape == (None, 8, 8, 64)
    assert kr.create_model(TOY, include_top=False, pooling="avg").output_shape == (None, 64)
    assert kr.create_model(TOY, include_top=False, pooling="max").output_shape == (None, 64)
    assert kr.create_model(TOY, include_top=False, input_shape=(None, None, 3)).output_shape == (None, None, None, 64)
    assert kr.create_model(TOY, input_shape=(48, 40, 1)).input_shape == (None, 48, 40, 1)


def test_input_tensor() -> None:
    inputs = keras.Input((32, 32, 3), name="pixels")
    model = kr.create_model(TOY, input_tensor=inputs)
    assert model.input is inputs


@pytest.mark.parametrize("output_stride, size", [(32, 2), (16, 4), (8, 8)])
def test_output_stride_keeps_weights(output_stride: int, size: int) -> None:
    with costs.without_values():
        model = kr.create_model("resnet50", output_stride=output_stride, input_shape=(64, 64, 3), include_top=False)
        plain = kr.create_model("resnet50", include_top=False)
    assert model.output_shape == (None, size, size, 2048)
    assert [(v.path, v.shape) for v in model.variables] == [(v.path, v.shape) for v in plain.variables]


def test_drop_path_grows_linearly() -> None:
    model = kr.create_model(TOY, drop_path_rate=0.4)
    rates = [layer.drop_path.rate for layer in model.layers if "_block" in layer.name]
    assert rates == pytest.approx([0.4 * i / 8 for i in range(9)])


def test_zero_gamma_makes_every_block_its_shortcut() -> None:
    gammas = {
        v.path: keras.ops.convert_to_numpy(v)
        for v in kr.create_model(TOY, zero_gamma=True).variables
        if "gamma" in v.path
    }
    assert len(gammas) == 19
    assert {path for path, gamma in gammas.items() if (gamma == 0).all()} == {p for p in gammas if "conv2" in p}


# Parameters with another shortcut than the row's, from the counts of the reference architectures.
SHORTCUT_COUNTS = [
    ("resnet18", "C", 12_043_816),
    ("resnet34", "A", 21_623_848),
    ("resnet34", "C", 22_716_840),
    ("resnet50", "A", 22_780_456),
    ("resnet50", "C", 40_128_552),
    ("resnet20_cifar", "B", 272_474),
    ("preresnet110_cifar", "A", 1_727_962),
]


@pytest.mark.parametrize(("name", "shortcut", "params"), SHORTCUT_COUNTS)
def test_shortcut_options_have_the_counts_of_the_paper(name: str, shortcut: str, params: int) -> None:
    with costs.without_values():
        model = kr.create_model(name, shortcut=shortcut)
        assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == params
