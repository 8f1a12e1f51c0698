"""Weights by tag, by file and from a hub: what loads is what was saved, and nothing else loads."""

import errno
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_server
import keras
import numpy as np
import pytest
import safetensors.numpy

import keras_resnets as kr
from keras_resnets.assembly import Network

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")


def randomised(network: Network, seed: int = 1) -> Network:
    """`network` with its random kernels, and with random values where batch normalisations and biases start at 0 and 1."""
    generator = np.random.default_rng(seed)
    for variable in network.variables:
        if len(variable.shape) == 1:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return network


def state_of(network: Network) -> dict[str, np.ndarray]:
    """The network's PyTorch state dictionary."""
    return {
        name: np.ascontiguousarray(to_torch(variable.value))
        for name, (variable, to_torch) in kr.pytorch_parameters(network).items()
    }


def predict(network: Network) -> np.ndarray:
    return keras.ops.convert_to_numpy(network(IMAGES, training=False))


@pytest.fixture(scope="module")
def trained() -> Network:
    return randomised(kr.create_model("resnet20_cifar", classifier_activation=None))


@pytest.fixture(scope="module", params=[".safetensors", ".weights.h5"])
def checkpoint(request: pytest.FixtureRequest, trained: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `trained`'s weights."""
    path = tmp_path_factory.mktemp("weights") / f"trained{request.param}"
    if request.param == ".safetensors":
        safetensors.numpy.save_file(state_of(trained), path)
    else:
        trained.save_weights(path)
    return path


def test_file(trained: Network, checkpoint: Path) -> None:
    for weights in (checkpoint, str(checkpoint)):
        loaded = kr.create_model("resnet20_cifar", weights=weights, classifier_activation=None)
        assert loaded.weights_tag is None
        np.testing.assert_array_equal(predict(loaded), predict(trained))


def test_file_without_classifier(trained: Network, checkpoint: Path) -> None:
    """The pooled features, put through the classifier by hand, are the logits of the whole."""
    features = predict(kr.create_model("resnet20_cifar", weights=checkpoint, include_top=False, pooling="avg"))
    kernel, bias = trained.get_layer("predictions").get_weights()
    np.testing.assert_allclose(features @ kernel + bias, predict(trained), rtol=1e-4)


def test_file_of_a_shallower_network(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"trained.*fit 'resnet32_cifar'"):
        kr.create_model("resnet32_cifar", weights=checkpoint)


@pytest.mark.parametrize("suffix", [".safetensors", ".weights.h5"])
def test_file_of_a_deeper_network(tmp_path: Path, suffix: str) -> None:
    deeper, path = kr.create_model("resnet32_cifar"), tmp_path / f"deeper{suffix}"
    deeper.save_weights(path) if suffix == ".weights.h5" else safetensors.numpy.save_file(state_of(deeper), path)
    with pytest.raises(ValueError, match=r"deeper.*fit 'resnet20_cifar'"):
        kr.create_model("resnet20_cifar", weights=path)


def test_file_that_lacks_the_classifier(tmp_path: Path, trained: Network) -> None:
    headless = kr.create_model("resnet20_cifar", include_top=False)
    headless.save_weights(tmp_path / "headless.weights.h5")
    state = {name: array for name, array in state_of(trained).items() if not name.startswith(("fc.", "linear."))}
    safetensors.numpy.save_file(state, tmp_path / "headless.safetensors")
    for name in ("headless.weights.h5", "headless.safetensors"):
        with pytest.raises(ValueError, match=name):
            kr.create_model("resnet20_cifar", weights=tmp_path / name)
        assert kr.create_model("resnet20_cifar", weights=tmp_path / name, include_top=False).output_shape[-1] == 64


def test_damaged_file(tmp_path: Path, checkpoint: Path) -> None:
    suffix = checkpoint.name.removeprefix("trained")
    for name, body in {
        "cut": checkpoint.read_bytes()[:-5000],
        "empty": b"",
        "text": b"this is a text about weights, not a file of them",
    }.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(body)
        with pytest.raises(ValueError, match=f"{name}.*is not a whole"):
            kr.create_model("resnet20_cifar", weights=path)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("resnet50", {"weights": "imagenat"}, "unknown weights 'imagenat' of 'resnet50': did you mean 'imagenet'"),
        ("resnet50", {"weights": "tv2_in1k_"}, "did you mean .*'tv2_in1k'"),
        ("plain18", {"weights": "imagenet"}, "'plain18' has no published weights: weights must be None or the path"),
        ("resnet20_cifar", {"weights": "imagenet"}, "unknown weights 'imagenet'.*'digits'"),
        ("resnet50", {"weights": "absent.safetensors"}, "'absent.safetensors' is not a file"),
        ("resnet50", {"weights": Path("model.bin")}, "must be a .safetensors, .pth, .pt or .weights.h5 file"),
        ("resnet50", {"weights": "model.bin"}, "or the path of a .safetensors, .pth, .pt or .weights.h5 file"),
        ("resnet50", {"weights": True}, "must be None, a tag or a path, not True"),
    ],
)
def test_bad_weights(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kr.create_model(name, **arguments)


def test_imagenet_is_the_first_of_a_thousand_classes() -> None:
    """It is found like a tag, and not listed beside the tags."""
    weights = kr.model_info("resnet50").weights
    assert weights["imagenet"] is next(iter(weights.values())) and weights["imagenet"].classes == 1000
    assert "imagenet" in weights and "imagenet" not in list(weights) and "imagenat" not in weights
    with pytest.raises(KeyError):
        kr.model_info("resnet20_cifar").weights["imagenet"]
    assert "imagenet" not in kr.model_info("plain18").weights


def test_builders_default_to_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not to be had must not become random ones, whatever the number of classes."""
    monkeypatch.setenv("KERAS_RESNETS_OFFLINE", "1")
    for classes in (1000, 5):
        with pytest.raises(OSError, match="forbids downloads"):
            kr.ResNet50(classes=classes)
    assert kr.Plain18(input_shape=(32, 32, 3)).weights_tag is None


def test_digits_network_is_in_the_package(tmp_path: Path) -> None:
    """It knows scanned digits that scikit-learn ships, and remembers its weights through a `.keras` file."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the images")
    digits = datasets.load_digits()
    small = keras.ops.convert_to_tensor(np.repeat(digits.images[..., None], 3, -1) * (255 / 16), dtype="float32")
    images = keras.ops.image.resize(small, (32, 32), interpolation="bilinear")
    network = kr.create_model("resnet20_cifar", weights="digits")
    assert network.weights_tag == "digits"
    network.save(tmp_path / "digits.keras")
    network = keras.saving.load_model(tmp_path / "digits.keras")
    assert network.weights_tag == "digits"
    from keras_resnets.preprocessing import preprocess_input

    probabilities = network.predict(preprocess_input(images, network), batch_size=256, verbose=0)
    assert (probabilities.argmax(-1) == digits.target).mean() > 0.98


@pytest.fixture(scope="module")
def small_resnet() -> tuple[Network, np.ndarray]:
    """A ResNet-18 of random weights, and its logits of `ONES`."""
    network = randomised(kr.create_model("resnet18", input_shape=(64, 64, 3), classifier_activation=None))
    return network, logits(network)


ONES = np.ones((1, 64, 64, 3), "float32")


def logits(network: Network) -> np.ndarray:
    return keras.ops.convert_to_numpy(network(ONES, training=False))


def published(tag: str, **arguments: Any) -> Network:
    return kr.create_model("resnet18", tag, input_shape=(64, 64, 3), classifier_activation=None, **arguments)


def hub_path(tag: str) -> str:
    return f"/timm/resnet18.{tag}/resolve/main/model.safetensors"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_RESNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


@needs_hub
def test_published_weights(small_resnet: tuple[Network, np.ndarray], home: Path, monkeypatch: pytest.MonkeyPatch,
                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """From the hub into the network: converted once, used from then on; anything wrong is no network."""
    network, expected = small_resnet
    body = safetensors.numpy.save(state_of(network))
    other = safetensors.numpy.save(state_of(kr.create_model("resnet34", input_shape=(64, 64, 3))))
    files = {
        hub_path("a1_in1k"): body,
        hub_path("fb_swsl_ig1b_ft_in1k"): body,
        hub_path("tv_in1k"): hub_server.File(body, corrupted=True),
        hub_path("a2_in1k"): other,
        hub_path("a3_in1k"): body[: len(body) // 2],
    }
    with hub_server.serve(files) as (address, requests):
        monkeypatch.setenv("KERAS_RESNETS_MIRROR", address)
        loaded = published("imagenet")
        assert loaded.weights_tag == "a1_in1k"
        np.testing.assert_allclose(logits(loaded), expected, rtol=1e-5)
        assert not capsys.readouterr().err, "complete weights need no word"
        for tag, message in {
            "tv_in1k": "arrived corrupted twice",
            "a2_in1k": "resnet18.a2_in1k.*: source does not fit 'resnet18'",
            "a3_in1k": "resnet18.a3_in1k.*is not a whole safetensors file",
            "gluon_in1k": "the hub has no model.safetensors there",
        }.items():
            with pytest.raises((OSError, ValueError), match=message):
                published(tag)
        assert {path.name for path in (home / "converted").glob("*.h5")} == {"resnet18.a1_in1k.h5"}
        for _ in range(2):
            published("fb_swsl_ig1b_ft_in1k")
        assert capsys.readouterr().err.count("are licensed cc-by-nc-4.0: not for commercial use") == 1
        asked = len(requests)
        (home / "downloads" / "timm--resnet18.a1_in1k.safetensors").unlink()
        np.testing.assert_allclose(logits(published("a1_in1k")), expected, rtol=1e-5)
        assert len(requests) == asked, "converted weights need no checkpoint"
        (home / "converted" / "resnet18.a1_in1k.h5").write_bytes(b"damaged")
        np.testing.assert_allclose(logits(published("a1_in1k")), expected, rtol=1e-5)
        assert len(requests) > asked


def test_folder_of_checkpoints(small_resnet: tuple[Network, np.ndarray], home: Path, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    network, expected = small_resnet
    safetensors.numpy.save_file(state_of(network), tmp_path / "resnet18.a1_in1k.safetensors")
    monkeypatch.setenv("KERAS_RESNETS_MIRROR", str(tmp_path))
    np.testing.assert_allclose(logits(published("imagenet")), expected, rtol=1e-5)
    with pytest.raises(OSError, match="holds no file for 'hub:timm/resnet18.a2_in1k'"):
        published("a2_in1k")


def test_conversion_on_a_full_disk(
    small_resnet: tuple[Network, np.ndarray], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a converted file is none."""
    import h5py

    state = state_of(small_resnet[0])
    checkpoint = home / "checkpoint.safetensors"
    home.mkdir()
    safetensors.numpy.save_file(state, checkpoint)
    monkeypatch.setattr("keras_resnets.weights.hub.fetch", lambda entry: checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "__setitem__", full_after(100, h5py.File.__setitem__))
        with pytest.raises(OSError, match="cannot write .*No space left on device.* set KERAS_RESNETS_HOME"):
            published("a1_in1k")
    assert [path.name for path in (home / "converted").iterdir() if path.suffix != ".lock"] == []
    published("a1_in1k")


def full_after(count: int, write: Any) -> Any:
    """`write` that finds no space left on the device from the `count`-th call on."""
    calls = iter(range(count))

    def limited(*arguments: Any) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    return limited


HUB_CLIENT = """
import numpy as np
import keras_resnets as kr
network = kr.create_model("resnet18", weights="imagenet", input_shape=(64, 64, 3), classifier_activation=None)
print(np.asarray(network(np.ones((1, 64, 64, 3), "float32"), training=False)).ravel().tolist())
"""


@needs_hub
def test_settings_of_the_hubs_client(small_resnet: tuple[Network, np.ndarray], home: Path) -> None:
    """Its mirror is used as well; its client reads the setting when it is imported."""
    network, expected = small_resnet
    with hub_server.serve({hub_path("a1_in1k"): safetensors.numpy.save(state_of(network))}) as (address, _):
        environment = {**os.environ, "HF_ENDPOINT": address}
        command = [sys.executable, "-c", HUB_CLIENT]
        client = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    np.testing.assert_allclose(json.loads(client.stdout), expected.ravel(), rtol=1e-5)


def test_hub_client_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it fails
    with pytest.raises(ImportError, match=r"pip install 'keras-resnets\[hub\]'"):
        kr.create_model("resnet18", weights="imagenet")
