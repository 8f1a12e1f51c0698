"""What users get wrong with weights, and what networks, servers and disks do to them: an error that says what to do, no network,
and nothing in the cache that could be taken for weights."""

import dataclasses
import os
import socket
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
from hub_server import File, serve

import keras_resnets as kr
from keras_resnets.registry import find
from keras_resnets.weights import download, download_weights, published

TOY = "resnet20_cifar"
HUB = "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
PLAIN = "/download.pytorch.org/models/resnet18-f37072fd.pth"


def state_of(name: str, **arguments: Any) -> dict[str, np.ndarray]:
    """A random network's PyTorch state dictionary."""
    parameters = kr.pytorch_parameters(kr.create_model(name, **arguments)).items()
    return {key: np.ascontiguousarray(to_torch(variable.value)) for key, (variable, to_torch) in parameters}


@pytest.fixture(scope="module")
def toy_state() -> dict[str, np.ndarray]:
    return state_of(TOY)


@dataclasses.dataclass
class World:
    """What a case may spoil: files, the environment, a server."""

    folder: Path
    patch: pytest.MonkeyPatch
    state: dict[str, np.ndarray]

    def file(self, name: str, body: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(body.encode() if isinstance(body, str) else body)
        return path

    def checkpoint(self, name: str = "net.safetensors", **changes: Any) -> Path:
        """The toy's state with tensors replaced, or taken out (None)."""
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        state = {key: value for key, value in {**self.state, **changes}.items() if value is not None}
        return self.file(name, safetensors.numpy.save(state))

    def published(self, tag: str, *, setting: str = "", name: str = "resnet18", **files: Any) -> Any:
        """`name` with published weights, from a server of `hub=` and `plain=` or from what `setting` says instead."""
        places = {"hub": HUB, "plain": PLAIN}
        with serve({places[key]: value for key, value in files.items()}) as (address, _):
            self.patch.setenv("KERAS_RESNETS_MIRROR", setting or address)
            return kr.create_model(name, tag, input_shape=(64, 64, 3))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_state: dict[str, np.ndarray]) -> Iterator[World]:
    monkeypatch.setenv("KERAS_RESNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    (tmp_path / "files").mkdir()
    yield World(tmp_path / "files", monkeypatch, toy_state)
    kept = [path for path in (tmp_path / "home").rglob("*") if path.suffix in (".h5", ".safetensors", ".pth")]
    assert not [path for path in kept if path.parent.name == "converted"], "a file that may be taken for weights"


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def offline(w: World) -> Any:
    w.patch.setenv("KERAS_RESNETS_OFFLINE", "1")
    return kr.ResNet18(classes=7)


def full_disk(w: World) -> Any:
    w.patch.setattr(download.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
    return w.published("torchvision_v1", plain=b"x" * 1000)


def home_is_a_file(w: World) -> Any:
    w.patch.setenv("KERAS_RESNETS_HOME", str(w.file("home", "")))
    return w.published("torchvision_v1", plain=b"x")


def folder_without_rights(w: World) -> Any:
    """A device for a home: nothing can be made in it, whoever asks."""
    w.patch.setenv("KERAS_RESNETS_HOME", os.devnull)
    return w.published("torchvision_v1", plain=b"x")


def toy(weights: Any, **arguments: Any) -> Any:
    return kr.create_model(TOY, weights, **arguments)


def toy_model() -> Any:
    return kr.create_model(TOY)


V, O = ValueError, OSError  # noqa: E741
Case = tuple[Callable[[World], Any], type[Exception], str]
CASES: dict[str, Case] = {
    # what to load
    "weights as the first argument": (lambda w: kr.ResNet50("imagenet"), V, "include_top must be True or False, not"),
    "misspelt 'imagenet'": (lambda w: kr.ResNet50(weights="imagenat"), V, "unknown weights 'imagenat' .* 'imagenet'"),
    "tag of another network": (lambda w: kr.ResNet18(weights="ra_in1k"), V, "unknown weights 'ra_in1k' of 'resnet18'"),
    "network without weights": (lambda w: kr.Plain18(weights="imagenet"), V, "'plain18' has no published weights"),
    "imagenet of a CIFAR network": (lambda w: toy("imagenet"), V, "unknown weights 'imagenet'.*'digits'"),
    "misspelt network": (lambda w: kr.create_model("resnet5O", "imagenet"), V, "unknown network 'resnet5O': .*'resnet50'"),
    "weights=True": (lambda w: toy(True), V, "weights must be None, a tag or a path, not True"),
    "weights=''": (lambda w: toy(""), V, "unknown weights ''"),
    "a list": (lambda w: toy(["digits"]), V, r"must be None, a tag or a path, not \['digits'\]"),
    # files
    "absent file": (lambda w: toy("absent.pth"), V, "'absent.pth' is not a file"),
    "a folder": (lambda w: toy(w.folder), V, "must be a .safetensors, .pth, .pt or .weights.h5 file"),
    "a folder of that name": (lambda w: (w.folder / "a.pth").mkdir() or toy(w.folder / "a.pth"), V, "is not a file"),
    "another kind of file": (lambda w: toy(w.file("net.onnx", "x")), V, "must be a .safetensors, .pth, .pt or .weights.h5"),
    "empty safetensors": (lambda w: toy(w.file("a.safetensors", "")), V, "is not a whole safetensors file"),
    "empty pth": (lambda w: toy(w.file("a.pth", "")), V, "is not a whole PyTorch checkpoint"),
    "empty weights.h5": (lambda w: toy(w.file("a.weights.h5", "")), V, "is not a whole Keras weights file"),
    "a text as safetensors": (lambda w: toy(w.file("a.safetensors", "weights" * 99)), V, "is not a whole safetensors file"),
    "a text as pth": (lambda w: toy(w.file("a.pth", "weights" * 99)), V, "is not a whole PyTorch checkpoint"),
    "an error page as pth": (lambda w: toy(w.file("a.pt", "<html>404</html>")), V, "is not a whole PyTorch checkpoint"),
    "a pickle that runs code": (lambda w: toy(w.file("a.pth", b"cos\nsystem\n(S'echo'\ntR.")), V, "a.pth"),
    "cut safetensors": (
        lambda w: toy(w.file("a.safetensors", w.checkpoint().read_bytes()[:-9])), V, "is not a whole safetensors file"),
    "header beyond the file": (
        lambda w: toy(w.file("a.safetensors", (10**9).to_bytes(8, "little") + b"{}")), V, "is not a whole safetensors file"),
    # files of another network
    "missing tensor": (lambda w: toy(w.checkpoint(bn1__weight=None)), V, r"stem/norm/gamma \(bn1.weight\): missing"),
    "unexpected tensor": (lambda w: toy(w.checkpoint(more__weight=np.zeros(3))), V, "more.weight: unexpected"),
    "other shape": (lambda w: toy(w.checkpoint(bn1__weight=np.zeros(17))), V, r"gamma .*: shape \(17,\), expected \(16,\)"),
    "no tensors at all": (lambda w: toy(w.file("a.safetensors", safetensors.numpy.save({}))), V, "a.safetensors"),
    "a deeper network": (lambda w: kr.create_model("resnet32_cifar", w.checkpoint()), V, "does not fit 'resnet32_cifar'"),
    "another family": (lambda w: kr.create_model("preresnet164_cifar", w.checkpoint()), V, "does not fit 'preresnet164_cifar'"),
    "no head in the file": (lambda w: toy(w.checkpoint(linear__weight=None, linear__bias=None)), V, r"\(linear.weight\): missing"),
    "half a head": (lambda w: toy(w.checkpoint(linear__bias=None)), V, r"\(linear.bias\): missing"),
    "head of another width": (lambda w: toy(w.checkpoint(linear__weight=np.zeros((10, 65)))), V, r"\(linear.weight\): shape"),
    "direct and strict": (
        lambda w: kr.load_pytorch_weights(toy_model(), {"conv1.weight": np.zeros((16, 3, 3, 3))}), V, "bn1.weight: missing"),
    "direct, not a network of ours": (
        lambda w: kr.load_pytorch_weights(keras.Sequential(), {}), V, "must be a network made by keras_resnets"),
    # downloads
    "nothing there (hub)": (lambda w: w.published("a1_in1k"), O, "the hub has no model.safetensors there.* pass the path"),
    "nothing there (plain)": (lambda w: w.published("torchvision_v1"), O, r"no such file \(HTTP 404\).* pass the path"),
    "no connection (hub)": (lambda w: w.published("a1_in1k", setting=nobody()), O, "cannot download 'hub:timm/resnet18"),
    "no connection (plain)": (lambda w: w.published("torchvision_v1", setting=nobody()), O, "no connection .*5 times"),
    "server out of order": (
        lambda w: w.published("torchvision_v1", plain=File(b"x", status=500)), O, "the server answers HTTP 500, 5 times"),
    "not for everybody": (
        lambda w: w.published("torchvision_v1", plain=File(b"x", status=403)), O, r"access is denied \(HTTP 403\)"),
    "corrupted (hub)": (lambda w: w.published("a1_in1k", hub=File(b"x" * 99, corrupted=True)), O, "arrived corrupted twice"),
    "corrupted (plain)": (lambda w: w.published("torchvision_v1", plain=b"x" * 99), O, "arrived corrupted twice: .* f37072fd"),
    "broken off": (
        lambda w: w.published("torchvision_v1", plain=File(b"x" * 99, cut=[9] * 5)), O, "broke off after 45 of 99 bytes"),
    "whole, but no checkpoint": (lambda w: w.published("a1_in1k", hub=b"x" * 99), V, "is not a whole safetensors file"),
    "whole, but another network's": (
        lambda w: w.published("a1_in1k", hub=w.checkpoint().read_bytes()), V, "does not fit 'resnet18'"),
    "offline": (offline, O, "forbids downloads: unset it"),
    "disk full": (full_disk, O, "MB are needed, 0.0 MB are free.* set KERAS_RESNETS_HOME to another folder"),
    "home is a file": (home_is_a_file, O, "cannot write .* set KERAS_RESNETS_HOME to another folder"),
    "home without rights": (folder_without_rights, O, "cannot write .* set KERAS_RESNETS_HOME to another folder"),
    "mirror that is no folder": (lambda w: w.published("a1_in1k", setting="/no/such"), O, "'/no/such' holds no file for"),
    "mirror that is no address": (lambda w: w.published("torchvision_v1", setting="gopher://a"), O, "unknown url type"),
    "download of no tag": (
        lambda w: download_weights(TOY, published(find(TOY), "digit")), V, "unknown weights 'digit'.*'digits'"),
    # transfer
    "no classes": (lambda w: toy("digits", classes=0), V, "classes must be a positive whole number, not 0"),
    "half a class": (lambda w: toy("digits", classes=2.5), V, "classes must be a positive whole number, not 2.5"),
    "no channels": (lambda w: toy("digits", input_shape=(32, 32, 0)), V, "input_shape must hold positive sizes"),
    "unknown pooling": (lambda w: toy("digits", include_top=False, pooling="mean"), V, "pooling must be None, 'avg' or 'max'"),
    "other architecture": (lambda w: toy("digits", shortcut="B"), V, "shortcut.*: missing"),
    "unknown part to freeze": (lambda w: kr.freeze(toy_model(), "layer1"), V, "through must name a part of .*, not 'layer1'"),
    "head of no classes": (lambda w: kr.replace_head(toy_model(), 0), V, "classes must be a positive whole number, not 0"),
    "replaced head without a head": (
        lambda w: kr.replace_head(kr.create_model(TOY, include_top=False), 3), V, "must end with a classifier"),
    # around
    "unknown level": (lambda w: kr.feature_extractor(toy_model(), ["C5"]), V, "has no level 'C5'"),
    "preprocessing of no network": (lambda w: kr.preprocess_input(np.zeros((1, 8, 8, 3)), "resnet"), V, "unknown network"),
    "grey images": (lambda w: kr.preprocess_input(np.zeros((1, 8, 8, 1)), "resnet50"), V, "must have 3 channels"),
    "predictions of nobody": (lambda w: kr.decode_predictions(np.zeros((1, 10))), V, "labels must name each of the 10"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(world: World, case: str) -> None:
    attempt, kind, message = CASES[case]
    with pytest.raises(kind, match=f"(?s){message}"):
        attempt(world)
