"""The study of blocks and paths: what is cut is what should be, and the program leaves whole files."""

import csv
import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

pytest.importorskip("tensorflow", reason="the programs in training/ need TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("the programs in training/ run on TensorFlow", allow_module_level=True)

from matplotlib import image
from rich.console import Console

import keras_resnets as kr
from keras_resnets.layers import BatchNorm
from training.data import LabelledImages, Split, load_data
from training.recipe import DataRecipe, load_recipe
from training.run_folder import RunFolder
from training.studies import path_ensemble, surgery

SHAPE = {"input_shape": (12, 10, 3), "widths": (4, 6, 8), "classes": 5, "classifier_activation": None}


def randomised(name: str, **options: Any) -> kr.assembly.Network:
    """A network at which every variable matters."""
    network = kr.create_model(name, **SHAPE, **options)
    rng = np.random.default_rng(3)
    for variable in network.variables:
        if not variable.path.endswith("kernel"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return network


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 12, 10, 3)).astype("float32")


def outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(model(x, training=False))


@pytest.fixture
def fused() -> kr.assembly.Network:
    """Three fusions of two convolutions with one."""
    return randomised("fuse3_20_cifar", convs=2)


def test_paths(fused: kr.assembly.Network) -> None:
    paths = surgery.paths(fused)
    assert len(paths) == len(set(paths)) == 8
    assert paths[0] == ("short",) * 3 and paths[-1] == ("long",) * 3
    assert sorted(surgery.path_layers(fused, path) for path in paths) == [5, 6, 6, 6, 7, 7, 7, 8]
    six = kr.create_model("fuse6_26_cifar")
    layers = [surgery.path_layers(six, path) for path in surgery.paths(six)]
    assert len(layers) == 64
    assert (min(layers), max(layers)) == (5, 26)  # three of the six short branches are identities


def without_stage1_block(name: str, block: int) -> tuple[keras.Model, keras.Model]:
    """A network with a block of stage 1 cut out, and one built without it that has the other weights."""
    whole, short = randomised(name, depths=(2, 1, 1)), kr.create_model(name, depths=(1, 1, 1), **SHAPE)
    kept = [v for v in whole.variables if not v.path.startswith(f"stage1_block{block}/")]
    for mine, theirs in zip(short.variables, kept, strict=True):
        mine.assign(theirs)
    return surgery.without_block(whole, f"stage1_block{block}"), short


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("name", ["fusenet_resnet20_cifar", "fusenet_plain20_cifar"])
def test_a_block_cut_out_is_as_if_never_built(name: str, block: int) -> None:
    cut, built = without_stage1_block(name, block)
    np.testing.assert_allclose(outputs(cut, images()), outputs(built, images()), rtol=1e-5, atol=1e-5)


def test_a_block_that_changes_the_shape_leaves_its_projection() -> None:
    network = randomised("fusenet_resnet20_cifar", depths=(1, 1, 1))
    cut = surgery.without_block(network, "stage2_block1")
    last = network.get_layer("stage2_block1").branch[-1].norm  # a branch that ends in zeros is no branch
    last.gamma.assign(np.zeros(6))
    last.beta.assign(np.zeros(6))
    np.testing.assert_allclose(outputs(cut, images()), outputs(network, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("choice", "depth"), [("long", 2), ("short", 1)])
def test_outermost_base_networks_are_plain_networks(fused: kr.assembly.Network, choice: Any, depth: int) -> None:
    plain = kr.create_model("fusenet_plain20_cifar", depths=(depth,) * 3, **SHAPE)
    prefix = {"long": "/long", "short": "/short"}[choice]
    taken = [v for v in fused.variables if prefix in v.path or "_block" not in v.path]
    for mine, theirs in zip(plain.variables, taken, strict=True):
        mine.assign(theirs)
    base = surgery.base_network(fused, (choice,) * 3)
    np.testing.assert_allclose(outputs(base, images()), outputs(plain, images()), rtol=1e-4, atol=1e-4)


def test_paths_add_up_where_every_activation_is_positive(fused: kr.assembly.Network) -> None:
    """Without shifts and with positive weights the network is linear: the sum of its eight base networks, or of seven."""
    for variable in fused.variables:
        value = np.abs(ops.convert_to_numpy(variable))
        variable.assign(value * 0 if variable.path.endswith(("beta", "moving_mean", "bias")) else value)
    x = np.abs(images())
    whole, paths = outputs(fused, x), surgery.paths(fused)
    bases = {path: outputs(surgery.base_network(fused, path), x) for path in paths}
    np.testing.assert_allclose(sum(bases.values()), whole, rtol=1e-4)
    for path in paths:
        np.testing.assert_allclose(outputs(surgery.without_path(fused, path), x), whole - bases[path], rtol=1e-4)


def test_own_statistics_are_those_of_the_images_and_go_again(fused: kr.assembly.Network) -> None:
    x, before = images(16), fused.get_weights()
    base = surgery.base_network(fused, ("short", "long", "short"))
    in_training = ops.convert_to_numpy(base(x, training=True))
    fused.set_weights(before)
    with surgery.own_statistics(base, x):
        np.testing.assert_allclose(outputs(base, x), in_training, rtol=1e-3, atol=1e-3)
    for now, then in zip(fused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert {layer.momentum for layer in fused._flatten_layers() if isinstance(layer, BatchNorm)} == {0.9}


def test_what_cannot_be_cut(fused: kr.assembly.Network) -> None:
    plain = kr.create_model("fusenet_plain20_cifar", depths=(2, 1, 1), **SHAPE)
    assert surgery.removable_blocks(plain) == ["stage1_block1", "stage1_block2"]
    assert len(surgery.removable_blocks(fused)) == 3
    with pytest.raises(
        ValueError, match="'stage2_block1' of 'fusenet_plain20_cifar' changes the shape and has no shortcut"
    ):
        surgery.without_block(plain, "stage2_block1")
    with pytest.raises(ValueError, match="name must be that of a block of .* not 'stage9_block1'"):
        surgery.without_block(fused, "stage9_block1")
    with pytest.raises(ValueError, match="must have residual blocks only"):
        surgery.paths(plain)
    for path in (("long",), ("long", "long", "left")):
        with pytest.raises(ValueError, match="path must be 3 times 'short' or 'long'"):
            surgery.base_network(fused, path)  # type: ignore[arg-type]


OVERRIDES = ("epochs=1", "schedule.warmup_epochs=0", "batch_size=32", "model.options={widths: [4, 8, 16]}")
TINY = [argument for override in OVERRIDES for argument in ("--set", override)]


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """96 digits to train on and 24 to test on."""

    def load(recipe: DataRecipe) -> LabelledImages:
        whole = load_data(recipe)
        parts = [Split(part.images[:n], part.labels[:n]) for part, n in ((whole.train, 96), (whole.test, 24))]
        return LabelledImages(*parts, whole.class_names)

    monkeypatch.setattr(path_ensemble, "load_data", load)


@pytest.mark.usefixtures("few_images")
def test_program(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trains, cuts, writes everything; what is trained is not trained again."""
    assert path_ensemble.main(["--run-dir", str(tmp_path), *TINY]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert {path.name for path in tmp_path.iterdir()} == {
        "plain",
        "fused",
        "table.csv",
        "results.json",
        "path_ensemble.png",
    }
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    parts = [row["part"] for row in results["rows"]]
    assert {part: parts.count(part) for part in parts} == {
        "block left out": (1 + 9) + (1 + 16), "fused network": 1, "base network": 8, "ensemble": 2, "path left out": 8
    }  # fmt: skip
    assert [row["what"] for row in table] == [row["what"] for row in results["rows"]]
    assert all(0 <= row["accuracy"] <= 1 for row in results["rows"])
    assert [row["layers"] for row in results["rows"] if row["part"] == "base network"] == [
        5,
        10,
        10,
        15,
        10,
        15,
        15,
        20,
    ]
    intact = results["rows"][0]
    assert (intact["network"], intact["what"], intact["layers"]) == ("resnet20_cifar", "none", 20)
    assert intact["accuracy"] > 0.95  # the weights that come with the package
    assert len(results["findings"]) == 5
    assert all(finding in said for finding in results["findings"])
    picture = image.imread(tmp_path / "path_ensemble.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1500 and picture.std() > 0.05

    folder = RunFolder(tmp_path / "fused")
    again = path_ensemble.trained(load_recipe(folder.recipe), folder, load_data(DataRecipe(source="digits")), Console())
    assert "trained already" in capsys.readouterr().out
    for now, then in zip(again.get_weights(), keras.saving.load_model(folder.final).get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)
    assert path_ensemble.main(["--run-dir", str(tmp_path), *TINY, "--set", "seed=1"]) == 1
    assert "holds a run of another recipe: seed (0 there, 1 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.split_seed=1", "data must stay as it is"),
        ("epoch=1", "unknown key 'epoch': did you mean 'epochs'"),
        ("epochs=0", "epochs must be at least 1"),
        ("model.options={depths: [0, 1, 1]}", "depths must be 3 whole numbers above 0"),
        ("model.options={depth: 1}", "unknown option 'depth': did you mean 'depths'"),
    ],
)
def test_wrong_input(override: str, message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert path_ensemble.main(["--run-dir", str(tmp_path / "runs"), "--set", override]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_interrupted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(path_ensemble, "train", interrupt)
    assert path_ensemble.main(["--run-dir", str(tmp_path)]) == 130
    assert "The same command continues" in capsys.readouterr().out
