"""Feature maps: the right shapes, and the very maps that the network's own prediction is made of."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_resnets as kr

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


def test_other_models() -> None:
    with pytest.raises(ValueError, match="it has none"):
        kr.feature_extractor(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()], name="other"))
