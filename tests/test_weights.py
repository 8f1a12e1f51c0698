"""Weights by tag, by file and from a hub: what loads is what was saved, and nothing else loads."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import keras
import numpy as np
import pytest
import safetensors.numpy

import keras_resnets as kr
from keras_resnets.assembly import Network

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")


def randomised(network: Network, seed: int = 1) -> Network:
    """`network` with every weight random, the batch normalisation's too, which otherwise start at 0 and 1."""
    generator = np.random.default_rng(seed)
    for variable in network.variables:
        variable.assign(generator.uniform(0.1, 0.9, variable.shape))
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


def test_file_of_another_class_count(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="have 10 classes, not 7: pass classes=10, or include_top=False"):
        kr.create_model("resnet20_cifar", weights=checkpoint, classes=7)


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
        ("resnet50", {"weights": "imagenet", "classes": 10}, "have 1000 classes, not 10: pass classes=1000"),
        ("plain18", {"weights": "imagenet"}, "'plain18' has no published weights: weights must be None or the path"),
        ("resnet20_cifar", {"weights": "imagenet"}, "unknown weights 'imagenet'.*'digits'"),
        ("resnet50", {"weights": "absent.safetensors"}, "'absent.safetensors' is not a file"),
        ("resnet50", {"weights": Path("model.pth")}, "must be a .safetensors or .weights.h5 file"),
        ("resnet50", {"weights": "model.pth"}, "or the path of a .safetensors or .weights.h5 file"),
        ("resnet50", {"weights": True}, "must be None, a tag or a path, not True"),
    ],
)
def test_bad_weights(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kr.create_model(name, **arguments)


def test_builders_default_to_published_weights() -> None:
    """Asking for another number of classes without a word about weights must not give random ones."""
    with pytest.raises(ValueError, match="weights=None to train from scratch"):
        kr.ResNet50(classes=5)
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


HUB_CLIENT = """
import json, sys
import numpy as np
import keras_resnets as kr
answers = {}
for name in sys.argv[1:]:
    network_name, tag = name.split(":")
    try:
        network = kr.create_model(network_name, weights=tag, input_shape=(64, 64, 3), classifier_activation=None)
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
    else:
        output = network(np.ones((1, 64, 64, 3), "float32"), training=False)
        answers[name] = [network.weights_tag, np.asarray(output).tolist()]
print(json.dumps(answers))
"""

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


def ask_hub(home: Path, *names: str, **environment: str) -> tuple[dict, str]:
    """What `create_model` makes of each network:tag in a process with its own cache, and what it said on stderr."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    client = subprocess.run(
        [sys.executable, "-c", HUB_CLIENT, *names], capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(client.stdout), client.stderr


def hub_path(repository: str) -> str:
    return f"/timm/{repository}/resolve/main/model.safetensors"


@needs_hub
def test_hub(tmp_path: Path) -> None:
    reference = randomised(kr.create_model("resnet18", input_shape=(64, 64, 3), classifier_activation=None))
    logits = keras.ops.convert_to_numpy(reference(np.ones((1, 64, 64, 3), "float32"), training=False))
    body = safetensors.numpy.save(state_of(reference))
    good, licensed = hub_path("resnet18.a1_in1k"), hub_path("resnet18.fb_swsl_ig1b_ft_in1k")
    corrupted = hub_path("resnet18.tv_in1k")
    files = {good: body, licensed: body, corrupted: body}
    names = ["resnet18:imagenet", "resnet18:fb_swsl_ig1b_ft_in1k", "resnet18:tv_in1k", "resnet18:gluon_in1k"]
    with hub_server.serve(files, frozenset({corrupted})) as (address, requests):
        answers, stderr = ask_hub(tmp_path, *names, names[1], HF_ENDPOINT=address)
        downloads = [request for request in requests if request.startswith("GET")]
    assert answers[names[0]][0] == "a1_in1k"
    np.testing.assert_allclose(answers[names[0]][1], logits, rtol=1e-5)
    assert downloads.count(f"GET {good}") == 1 and downloads.count(f"GET {licensed}") == 1, "cached files came again"
    assert stderr.count("licensed cc-by-nc-4.0: not for commercial use") == 1
    assert downloads.count(f"GET {corrupted}") == 2, "a corrupted file is worth one more try"
    assert "OSError: 'timm/resnet18.tv_in1k' arrived corrupted twice" in answers[names[2]]
    assert "OSError: the hub has no model.safetensors in 'timm/resnet18.gluon_in1k'" in answers[names[3]]

    # The server is gone: what was cached is used, what was corrupted still is not, nothing is random.
    answers, _ = ask_hub(tmp_path, names[0], *names[2:], HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    np.testing.assert_allclose(answers[names[0]][1], logits, rtol=1e-5)
    for name in names[2:]:
        assert answers[name].startswith("OSError: cannot download") and "pass the path of a copy" in answers[name]


def test_hub_client_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it fails
    with pytest.raises(ImportError, match=r"pip install 'keras-resnets\[hub\]'"):
        kr.create_model("resnet18", weights="imagenet")
