"""Every published checkpoint fits its network: by the names and shapes of the code that it was published with.

tests/data/state_dicts.json.gz holds the state dictionaries of the publishers' own implementations, made without values: timm
1.0.31, torchvision 0.29.2 (for DenseNet under the names in its files), and the repositories of WSL, FixRes, ResNeSt, HarDNet
and Res2Net. By origin and network: "name:shape name:shape …", or "=" and where the same stands.
"""

import functools
import gzip
import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from test_torch_archive import Write, mapping, number, tensor, write_archive, write_stream

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.registry import WeightsEntry
from keras_resnets.weights.keras_applications import APPLICATIONS
from keras_resnets.weights.pytorch import reference_state

PUBLISHED = {name: kr.model_info(name).weights for name in kr.list_models(pretrained=True)}
ORIGINS = {  # how a source begins
    "hub:timm/": "timm",
    "https://github.com/rwightman/pytorch-image-models/": "timm",
    "https://download.pytorch.org/models/ig_": "wsl",
    "https://download.pytorch.org/models/": "torchvision",
    "https://dl.fbaipublicfiles.com/FixRes_data/": "fixres",
    "https://github.com/zhanghang1989/ResNeSt/": "resnest",
    "https://github.com/PingoLH/Pytorch-HarDNet/": "hardnet",
    "https://ping-chao.com/hardnet/": "hardnet",
    "https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net/": "res2net",
    "https://storage.googleapis.com/tensorflow/keras-applications/": "keras",
}
Shapes = dict[str, tuple[int, ...]]


@functools.cache
def state_dicts() -> dict[str, str]:
    packed = Path(__file__).with_name("data") / "state_dicts.json.gz"
    return json.loads(gzip.decompress(packed.read_bytes()))


def origin(entry: WeightsEntry) -> str:
    return next(name for start, name in ORIGINS.items() if entry.source.startswith(start))


def published_shapes(network: str, entry: WeightsEntry) -> Shapes:
    """The shapes in an entry's file by the names there."""
    key = f"{origin(entry)}/{network}"
    text = state_dicts().get(f"{key}.{entry.tag}") or state_dicts()[key]
    if text.startswith("="):
        text = state_dicts()[text[1:]]
    named = (item.rpartition(":") for item in text.split())
    return {name.removeprefix("module."): tuple(map(int, filter(None, shape.split("x")))) for name, _, shape in named}


def of_pytorch(network: str) -> dict[str, WeightsEntry]:
    """The entries that are PyTorch's state dictionaries, published elsewhere."""
    entries = PUBLISHED[network].items()
    return {tag: e for tag, e in entries if not e.source.startswith("package:") and origin(e) != "keras"}


def tensors(network: str) -> int:
    return len(published_shapes(network, next(iter(of_pytorch(network).values()))))


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[pytest.mark.slow] if tensors(name) > 350 else []) for name in PUBLISHED if of_pytorch(name)],
)  # fmt: skip
def test_state_dictionaries_fit(network: str) -> None:
    with without_values():
        model = kr.create_model(network)
    wanted = {
        name: to_torch(np.broadcast_to(np.float32(0), variable.shape)).shape
        for name, (variable, to_torch) in kr.pytorch_parameters(model).items()
    }
    for tag, entry in of_pytorch(network).items():
        assert entry.classes == 1000
        state = {n: np.broadcast_to(np.float32(0), s) for n, s in published_shapes(network, entry).items()}
        given = {name: array.shape for name, array in reference_state(state, model).items()}
        assert given == wanted, tag


def test_no_state_dictionary_is_left_over() -> None:
    """Each is some entry's; each entry of another kind is of keras.applications, whose files test_keras_applications.py tests."""
    used = {f"{origin(entry)}/{name}" for name in PUBLISHED for entry in of_pytorch(name).values()}
    assert used == {key.partition(".")[0] for key in state_dicts()}
    for name, entries in PUBLISHED.items():
        for entry in entries.values():
            if entry.source.startswith("https://storage.googleapis.com/"):
                file = entry.source.rpartition("/")[2].removesuffix("_weights_tf_dim_ordering_tf_kernels.h5")
                assert file.replace("_", "") == APPLICATIONS[name].lower()


def test_integrity_and_licences() -> None:
    """Every PyTorch file that is named by a digest has that digest. Weights under another licence than their code are marked."""
    for name, entries in PUBLISHED.items():
        for entry in entries.values():
            stem, _, suffix = entry.source.rpartition("/")[2].rpartition(".")
            named = stem.rpartition("-")[2]
            if suffix == "pth" and len(named) in (8, 9) and set(named) <= set("0123456789abcdef"):
                assert entry.digest == f"sha256:{named}", name
            elif suffix == "h5":
                assert entry.digest.startswith("md5:") and len(entry.digest) == 4 + 32, name
            elif not entry.source.startswith(("hub:", "package:")):
                assert origin(entry) in ("fixres", "hardnet") and not entry.digest, name
            if origin_is_not_commercial(entry):
                assert entry.licence.startswith("cc-by-nc"), name


def origin_is_not_commercial(entry: WeightsEntry) -> bool:
    published_by = "" if entry.source.startswith("package:") else origin(entry)
    return published_by in ("wsl", "fixres", "res2net") or any(part in entry.tag for part in ("wsl", "swsl", "ssl"))


@pytest.mark.parametrize(
    "name, write, prefix",
    [
        ("hardnet39ds", write_archive, None),
        ("resnet18", write_archive, "module."),
        ("resnet18", write_stream, "module."),
        ("densenet121", write_stream, None),
    ],
)
def test_files_load(tmp_path: Path, name: str, write: Write, prefix: str | None) -> None:
    """A `.pth` file with the names and shapes of a published one; every value arrives at its place."""
    entry = next(entry for entry in PUBLISHED[name].values() if entry.source.endswith(".pth"))
    shapes = published_shapes(name, entry)
    rng = np.random.default_rng(0)
    storages = {str(i): rng.uniform(0.1, 0.9, shape).astype("float32") for i, shape in enumerate(shapes.values())}
    saved = mapping(**{
        (prefix or "") + path: tensor(key, array.size, array.shape, contiguous(array.shape))
        for path, (key, array) in zip(shapes, storages.items(), strict=True)
    })  # fmt: skip
    write(tmp_path / "net.pth", mapping(epoch=number(5), model=saved) if prefix else saved, storages)
    model = kr.create_model(name, weights=tmp_path / "net.pth")
    expected = dict(zip(shapes, storages.values(), strict=True))
    for path, (variable, to_torch) in kr.pytorch_parameters(model).items():
        if "denselayer" in path:  # whose files have dots in the names of their layers
            path = re.sub(r"(norm|conv)([12])\.", r"\1.\2.", path)
        np.testing.assert_array_equal(to_torch(keras.ops.convert_to_numpy(variable)), expected[path], path)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
