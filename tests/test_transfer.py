"""A trained network for other classes, other images, other tasks: what is taken over is taken over exactly."""

from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.weights.fit import adapted_kernel

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
DIGITS = {"weights": "digits", "classifier_activation": None}


def predict(network: keras.Model, images: np.ndarray = IMAGES) -> np.ndarray:
    return keras.ops.convert_to_numpy(network(images, training=False))


def body_of(network: Network) -> dict[str, np.ndarray]:
    """Values of everything but the classifier, by path."""
    return {v.path: v.numpy() for v in network.variables if not v.path.startswith("predictions/")}


@pytest.fixture(scope="module")
def digits() -> Network:
    """The ten-class network of the package: 95 variables of 19 convolutions and normalisations, two of its classifier."""
    return kr.create_model("resnet20_cifar", **DIGITS)


def assert_same(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert given.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_array_equal(given[path], wanted[path], path)


@pytest.fixture(scope="module", params=["tag", ".safetensors", ".weights.h5"])
def weights(request: pytest.FixtureRequest, digits: Network, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits weights as each kind of source."""
    if request.param == "tag":
        return "digits"
    path = str(tmp_path_factory.mktemp("weights") / f"digits{request.param}")
    if request.param == ".weights.h5":
        digits.save_weights(path)
    else:
        parameters = kr.pytorch_parameters(digits).items()
        safetensors.numpy.save_file(
            {n: np.ascontiguousarray(to_torch(v.value)) for n, (v, to_torch) in parameters}, path
        )
    return path


def test_other_classes(digits: Network, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = kr.create_model("resnet20_cifar", weights, classes=3)
    line = capsys.readouterr().err
    total = len(digits.variables)
    assert line == f"keras_resnets: weights {weights!r}" + (" of 'resnet20_cifar'" if weights == "digits" else "") + (
        f": {total - 2}/{total} tensors loaded, head 10→3 new\n"
    )
    assert_same(body_of(network), body_of(digits))
    assert network.output_shape == (None, 3)
    np.testing.assert_allclose(predict(network).sum(-1), 1, rtol=1e-5)
    assert network.get_layer("predictions").kernel.numpy().std() > 0


def test_same_classes_need_no_word(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    kr.create_model("resnet20_cifar", weights)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("pooling, shape", [(None, (3, 8, 8, 64)), ("avg", (3, 64)), ("max", (3, 64))])
def test_without_top(digits: Network, weights: str, pooling: str | None, shape: tuple[int, ...]) -> None:
    network = kr.create_model("resnet20_cifar", weights, include_top=False, pooling=pooling, classes=7)
    assert_same(body_of(network), body_of(digits))
    features = predict(network)
    assert features.shape == shape
    if pooling == "avg":
        kernel, bias = digits.get_layer("predictions").get_weights()
        np.testing.assert_allclose(features @ kernel + bias, predict(digits), rtol=1e-4, atol=1e-5)


def test_other_sizes(digits: Network) -> None:
    """A translation-invariant network of another size: the middle of a large map is that of the small one's larger image."""
    network = kr.create_model("resnet20_cifar", input_shape=(48, 64, 3), **DIGITS)
    assert_same(body_of(network), body_of(digits))
    flexible = kr.create_model("resnet20_cifar", input_shape=(None, None, 3), **DIGITS)
    wide = np.random.default_rng(1).normal(size=(1, 48, 64, 3)).astype("float32")
    np.testing.assert_allclose(predict(flexible, wide), predict(network, wide), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predict(flexible), predict(digits), rtol=1e-4, atol=1e-5)


def test_grey_images(digits: Network, capsys: pytest.CaptureFixture[str]) -> None:
    """One channel gives what the same picture gave in three equal ones."""
    network = kr.create_model("resnet20_cifar", input_shape=(32, 32, 1), **DIGITS)
    assert "97/97 tensors loaded, input channels 3→1 adapted" in capsys.readouterr().err
    grey = IMAGES[..., :1]
    np.testing.assert_allclose(predict(network, grey), predict(digits, np.repeat(grey, 3, -1)), rtol=1e-4, atol=1e-5)


def test_more_channels(digits: Network, capsys: pytest.CaptureFixture[str]) -> None:
    """Six channels, RGB twice, give what RGB gave."""
    network = kr.create_model("resnet20_cifar", input_shape=(32, 32, 6), classes=4, weights="digits")
    assert "95/97 tensors loaded, head 10→4 new, input channels 3→6 adapted" in capsys.readouterr().err
    stem, twice = (net.get_layer("stem").conv.kernel.numpy() for net in (digits, network))
    np.testing.assert_allclose(twice, np.concatenate([stem, stem], 2) / 2, rtol=1e-6)


def test_adapted_kernel() -> None:
    kernel = np.arange(6, dtype="float32").reshape(1, 1, 3, 2)  # red (0, 1), green (2, 3), blue (4, 5)
    np.testing.assert_array_equal(adapted_kernel(kernel, 1), [[[[6, 9]]]])
    np.testing.assert_array_equal(adapted_kernel(kernel, 2), [[[[0, 1.5], [3, 4.5]]]])
    np.testing.assert_array_equal(adapted_kernel(kernel, 4), [[[[0, 0.75], [1.5, 2.25], [3, 3.75], [0, 0.75]]]])
    assert adapted_kernel(kernel, 4).dtype == np.float32


def test_replaced_head(digits: Network, tmp_path: Path) -> None:
    network = kr.replace_head(digits, 5)
    assert network.output_shape == (None, 5) and network.variant == "resnet20_cifar" and network.weights_tag == "digits"
    assert network.get_layer("stem") is digits.get_layer("stem")
    assert digits.output_shape == (None, 10), "the network that it was made of stays"
    np.testing.assert_allclose(predict(network).sum(-1), 1, rtol=1e-5)
    network.save(tmp_path / "five.keras")
    np.testing.assert_array_equal(predict(keras.saving.load_model(tmp_path / "five.keras")), predict(network))
    logits = kr.replace_head(digits, 5, activation=None)
    assert np.abs(predict(logits).sum(-1) - 1).max() > 0.1


def test_replaced_head_of_every_kind() -> None:
    for name in ("densenet40_k12_cifar", "preresnet164_cifar", "dmrn32_cifar", "res2next29_6c24w4s_cifar"):
        assert kr.replace_head(kr.create_model(name), 3).output_shape == (None, 3)
    with pytest.raises(ValueError, match="must end with a classifier 'predictions'.*include_top=True"):
        kr.replace_head(kr.create_model("resnet20_cifar", include_top=False), 3)
    with pytest.raises(ValueError, match="without auxiliary logits"):
        kr.replace_head(kr.create_model("inception_v3", aux_logits=True), 3)


def trained_names(network: keras.Model) -> set[str]:
    return {layer.name for layer in network.layers if layer.trainable_weights}


def test_frozen_parts() -> None:
    network = kr.create_model("resnet20_cifar")
    everything = {"stem", "predictions"} | {f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2, 3)}
    assert trained_names(network) == everything
    assert kr.freeze(network, "stem") == ["stem"]
    assert trained_names(network) == everything - {"stem"}
    frozen = kr.freeze(network, "stage2")
    assert set(frozen) == {"stem"} | {f"stage{s}_block{b}" for s in (1, 2) for b in (1, 2, 3)}
    assert trained_names(network) == everything - set(frozen)
    kr.freeze(network, "stage1")
    assert "stage2_block1" in trained_names(network), "a later call says all"
    kr.freeze(network, "all")
    assert not trained_names(network)
    kr.freeze(network, "stage3")
    assert trained_names(network) == {"predictions"}
    kr.freeze(network, "none")
    assert trained_names(network) == everything


@pytest.mark.parametrize("name, frozen, trained", [
    ("densenet121", "stage1", {"stage2_block1"}),
    ("resnetv2_50", "stage3", {"stage4_block1"}),
    ("inception_v3", "stage2", {"predictions"}),
])  # fmt: skip
def test_frozen_parts_of_other_families(name: str, frozen: str, trained: set[str]) -> None:
    network = kr.create_model(name, weights=None, include_top=True, input_shape=(96, 96, 3), classes=3)
    kr.freeze(network, frozen)
    assert trained <= trained_names(network)
    assert not any(name.startswith(("stem", "stage1_block")) for name in trained_names(network))


def test_frozen_normalisation_does_not_move() -> None:
    """Fitting with a frozen part changes nothing in it, statistics included; the rest learns."""
    network = kr.create_model("resnet20_cifar", "digits", classes=2)
    kr.freeze(network, "stage2")
    network.compile("sgd", "sparse_categorical_crossentropy")
    before = {v.path: v.numpy() for v in network.variables}
    network.fit(IMAGES * 5 + 2, np.array([0, 1, 1]), epochs=2, verbose=0)
    changed = {v.path.partition("/")[0] for v in network.variables if not np.array_equal(v.numpy(), before[v.path])}
    assert changed == {"stage3_block1", "stage3_block2", "stage3_block3", "predictions"}
    kr.freeze(network, "none")
    network.compile("sgd", "sparse_categorical_crossentropy")
    network.fit(IMAGES * 5 + 2, np.array([0, 1, 1]), verbose=0)
    assert not np.array_equal(network.get_layer("stem").norm.moving_mean.numpy(), before["stem/norm/moving_mean"])


def test_unknown_part() -> None:
    with pytest.raises(
        ValueError, match="through must name a part of 'resnet20_cifar', not 'stage4': did you mean 'stage3'"
    ):
        kr.freeze(kr.create_model("resnet20_cifar"), "stage4")
