"""`predict` of networks: what Keras gives, without its input pipeline where that is not needed."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr

IMAGES = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return kr.create_model("resnet20_cifar", weights=None)


def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one whenever Keras' own `predict` is called."""
    made: list[Any] = []
    original = keras.Model.predict

    def predict(self: keras.Model, x: Any, *arguments: Any, **options: Any) -> Any:
        made.append(x)
        return original(self, x, *arguments, **options)

    monkeypatch.setattr(keras.Model, "predict", predict)
    return made


def test_one_batch_needs_no_pipeline(network: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.asarray(network(IMAGES, training=False))
    made = pipelines(monkeypatch)
    outputs = network.predict(IMAGES, verbose=0)
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    np.testing.assert_allclose(network.predict(IMAGES[:1], verbose=0), expected[:1], atol=1e-6)
    assert len(made) == (0 if keras.backend.backend() == "tensorflow" else 2)


@pytest.mark.parametrize(
    "x, options",
    [
        (IMAGES, {"batch_size": 2}),
        (IMAGES, {"callbacks": [keras.callbacks.Callback()]}),
        (IMAGES.astype("float64"), {}),
        (IMAGES, {"verbose": 2}),
    ],
    ids=["batches", "callbacks", "other type", "progress"],
)
def test_anything_else_is_keras_own(
    network: keras.Model, x: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.asarray(network(IMAGES, training=False))
    made = pipelines(monkeypatch)
    outputs = network.predict(x, **{"verbose": 0, **options})
    assert len(made) == 1 and outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_fused_and_loaded_networks_have_it(
    network: keras.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    network.save(tmp_path / "network.keras")
    made = pipelines(monkeypatch)
    for other in (kr.fuse(network), keras.models.load_model(tmp_path / "network.keras")):
        np.testing.assert_allclose(other.predict(IMAGES, verbose=0), network.predict(IMAGES, verbose=0), atol=1e-5)
    assert len(made) == (0 if keras.backend.backend() == "tensorflow" else 4)
