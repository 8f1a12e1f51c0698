"""Feature maps: the right shapes, and the very maps that the network's own prediction is made of."""

import fnmatch
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.equivalence import carry_keras_applications
from tests.test_equivalence import randomise

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype("float32")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return kr.create_model("resnet18", input_shape=(64, 96, 3), classifier_activation=None, classes=7)


def test_default_levels(network: keras.Model) -> None:
    features = kr.feature_extractor(network)(IMAGES, training=False)
    assert {level: tuple(map_.shape) for level, map_ in features.items()} == {
        "C2": (2, 16, 24, 64),
        "C3": (2, 8, 12, 128),
        "C4": (2, 4, 6, 256),
        "C5": (2, 2, 3, 512),
    }


def test_last_level_explains_the_prediction(network: keras.Model) -> None:
    features = kr.feature_extractor(network, ["C5"])(IMAGES, training=False)
    kernel, bias = network.get_layer("predictions").get_weights()
    logits = keras.ops.convert_to_numpy(features["C5"]).mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(
        logits, keras.ops.convert_to_numpy(network(IMAGES, training=False)), rtol=1e-4, atol=1e-5
    )


def test_weights_are_shared(network: keras.Model) -> None:
    extractor = kr.feature_extractor(network, "C1")
    stem = network.get_layer("stem")
    assert len(extractor.variables) == len(stem.variables)
    assert all(own is theirs for own, theirs in zip(extractor.variables, stem.variables, strict=True))


def test_order_and_output_stride() -> None:
    network = kr.create_model("resnet26", input_shape=(64, 64, 3), include_top=False, output_stride=8)
    features = kr.feature_extractor(network, ("C5", "C1"))(IMAGES[:, :, :64], training=False)
    assert {level: tuple(map_.shape) for level, map_ in features.items()} == {
        "C5": (2, 8, 8, 2048),
        "C1": (2, 32, 32, 64),
    }


def test_unknown_height_and_width() -> None:
    network = kr.create_model("resnet18", input_shape=(None, None, 3), include_top=False)
    assert tuple(kr.feature_extractor(network)(IMAGES)["C5"].shape) == (2, 2, 3, 512)


def test_cifar_network_from_a_file(tmp_path: Path) -> None:
    kr.create_model("resnet20_cifar").save(tmp_path / "net.keras")
    extractor = kr.feature_extractor(keras.saving.load_model(tmp_path / "net.keras"), ("C1", "C2", "C3", "C4"))
    shapes = [tuple(map_.shape) for map_ in extractor(IMAGES[:, :32, :32]).values()]
    assert shapes == [(2, 32, 32, 16), (2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]


@pytest.mark.parametrize(
    "levels, message",
    [
        (("C2", "C6"), "no level 'C6': it has C1, C2, C3, C4, C5"),
        (("c2",), "no level 'c2'"),
        ((), "different names"),
        (("C2", "C2"), "different names"),
    ],
)
def test_bad_levels(network: keras.Model, levels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kr.feature_extractor(network, levels)


# Channels of C1 to C5 by network; bottleneck networks that are not here have 64, 256, 512, 1024, 2048.
BASIC = r"(plain|dcdc|(pre|se|sk|legacy_se)?resnet(blur|aa|v2_)?)(10t|18|34)d?"
CHANNELS = {
    "resnest101e": (128, 256, 512, 1024, 2048),
    "resnest200e": (128, 256, 512, 1024, 2048),
    "resnest269e": (128, 256, 512, 1024, 2048),
    "resnet*s": (128, 256, 512, 1024, 2048),
    "*senet154": (128, 256, 512, 1024, 2048),
    "densenet121": (64, 256, 512, 1024, 1024),
    "densenetblur121d": (64, 256, 512, 1024, 1024),
    "densenet169": (64, 256, 512, 1280, 1664),
    "densenet201": (64, 256, 512, 1792, 1920),
    "densenet264": (64, 256, 512, 2304, 2688),
    "densenet161": (96, 384, 768, 2112, 2208),
    "densenet232_k48": (96, 384, 768, 2688, 3648),
    "densenet264_k48": (96, 384, 768, 3456, 4032),
    "densenet264d": (96, 384, 768, 3456, 4032),
    "dpn48b": (10, 144, 320, 512, 832),
    "dpn68*": (10, 144, 320, 704, 832),
    "dpn92": (64, 336, 704, 1552, 2688),
    "dpn98": (96, 336, 768, 1728, 2688),
    "dpn107": (128, 376, 1152, 2432, 2688),
    "dpn131": (128, 352, 832, 1984, 2688),
    "hardnet39ds": (48, 96, 320, 640, 1024),
    "hardnet68*": (64, 128, 320, 640, 1024),
    "hardnet85": (96, 192, 320, 720, 1280),
    "inception_v3": (64, 192, 288, 768, 2048),
    "inception_v4": (64, 160, 384, 1024, 1536),
    "inception_resnet_v2": (64, 192, 320, 1088, 1536),
    "dfn_mr*": (64, 512, 1024, 2048, 4096),  # two streams
}
# Sizes of C1 to C5 of an image of 97 x 130 pixels: a map is halved upwards where it is padded …
UPWARDS = ((49, 65), (25, 33), (13, 17), (7, 9), (4, 5))
ODD_SIZES = {
    # … downwards by unpadded pools of 2x2, or of 3x3 that may hang over (Caffe's) …
    "densenet*": ((49, 65), (25, 33), (12, 16), (6, 8), (3, 4)),
    "hardnet68": ((49, 65), (25, 33), (12, 16), (6, 8), (3, 4)),
    "hardnet85": ((49, 65), (25, 33), (12, 16), (6, 8), (3, 4)),
    "legacy_se*": ((49, 65), (24, 32), (12, 16), (6, 8), (3, 4)),
    "sknet*": ((49, 65), (24, 32), (12, 16), (6, 8), (3, 4)),
    "*aa*": ((49, 65), (24, 32), (12, 16), (6, 8), (3, 4)),
    # … and loses its border to unpadded convolutions.
    "inception_v4": ((46, 62), (22, 30), (9, 13), (4, 6), (1, 2)),
    "inception_*": ((46, 62), (20, 28), (9, 13), (4, 6), (1, 2)),
}


def _of(table: dict[str, Any], name: str, default: Any) -> Any:
    return next((value for pattern, value in table.items() if fnmatch.fnmatch(name, pattern)), default)


def _marked(names: list[str]) -> list[Any]:
    """The smallest network of each family is in the short run."""
    least: dict[str, str] = {}
    for name in sorted(names, key=lambda name: kr.model_info(name).params):
        least.setdefault(kr.model_info(name).family, name)
    return [name if name in least.values() else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _marked([name for name in kr.list_models() if not name.endswith("_cifar")]))
def test_channels_and_odd_sizes(name: str) -> None:
    with without_values():
        model = kr.create_model(name, weights=None, include_top=False, input_shape=(97, 130, 3))
        features = kr.feature_extractor(model, ("C1", "C2", "C3", "C4", "C5")).output
    basic = re.fullmatch(BASIC, name)
    channels = _of(CHANNELS, name, (64, 64, 128, 256, 512) if basic else (64, 256, 512, 1024, 2048))
    sizes = _of(ODD_SIZES, name, UPWARDS)
    expected = [(None, *size, filters) for size, filters in zip(sizes, channels, strict=True)]
    assert [tuple(map_.shape) for map_ in features.values()] == expected


@pytest.mark.parametrize("name", _marked(kr.list_models("*_cifar")))
def test_levels_of_cifar_networks(name: str) -> None:
    with without_values():
        model = kr.create_model(name, weights=None, include_top=False, input_shape=(32, 40, 3))
        features = kr.feature_extractor(model, ("C1", "C2", "C3", "C4")).output
    assert [tuple(map_.shape[1:3]) for map_ in features.values()] == [(32, 40), (32, 40), (16, 20), (8, 10)]


PREACTIVATED: dict[str, dict[str, Any]] = {
    "resnetv2_18": {},
    "preresnet18": {},
    "resnet50_v2": {},
    "preresnet110_cifar": {"depth": 2},
    "identity_mappings110_cifar": {"depth": 2, "activation_order": "full"},
}


@pytest.mark.parametrize("name", PREACTIVATED)
def test_preactivated_levels_are_normalised(name: str) -> None:
    """Raw sums grow with depth and have both signs; what follows a normalisation and a ReLU does neither."""
    model = kr.create_model(name, include_top=False, input_shape=(64, 64, 3), **PREACTIVATED[name])
    levels = [layer.name for layer in model.layers if re.fullmatch(r"C[2-5]", layer.name)]
    for map_ in kr.feature_extractor(model, levels)(IMAGES[:, :, :64], training=True).values():
        values = keras.ops.convert_to_numpy(map_)
        assert values.min() == 0
        assert (values**2).mean() == pytest.approx(0.5, abs=0.05)  # half of a normal variable


def test_levels_of_keras_applications_v2() -> None:
    """Where segmenters take them from keras.applications: before the strided unit at the end of a stage."""
    source = keras.applications.ResNet50V2(weights=None, input_shape=(64, 96, 3), include_top=False)
    target = kr.create_model(
        "resnet50_v2", input_shape=(64, 96, 3), include_top=False, bn_epsilon=1.001e-5, weights=None
    )
    randomise(source)
    carry_keras_applications(source, target)
    layers = ("conv2_block3_preact_relu", "conv3_block4_preact_relu", "conv4_block6_preact_relu", "post_relu")
    theirs = keras.Model(source.input, [source.get_layer(layer).output for layer in layers])(IMAGES, training=False)
    ours = kr.feature_extractor(target)(IMAGES, training=False)
    assert [tuple(map_.shape) for map_ in ours.values()] == [
        (2, 16, 24, 256), (2, 8, 12, 512), (2, 4, 6, 1024), (2, 2, 3, 2048),
    ]  # fmt: skip
    for mine, their in zip(ours.values(), theirs, strict=True):
        mine, their = keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(their)
        np.testing.assert_allclose(mine, their, atol=1e-4 * np.abs(their).max())


def test_other_input_channels_and_unknown_size() -> None:
    options = {"weights": None, "include_top": False, "depths": (1, 1, 1, 1)}
    network = kr.create_model("densenet121", input_shape=(None, None, 5), **options)
    image = np.random.default_rng(0).normal(size=(1, 40, 64, 5)).astype("float32")
    shapes = [tuple(map_.shape[1:3]) for map_ in kr.feature_extractor(network)(image).values()]
    assert shapes == [(10, 16), (5, 8), (2, 4), (1, 2)]


def test_other_models() -> None:
    with pytest.raises(ValueError, match="it has none"):
        kr.feature_extractor(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()], name="other"))
