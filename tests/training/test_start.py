"""What training starts from, and what of it moves."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.costs import without_values
from training.publish import write_safetensors
from training.recipe import Recipe, load_recipe
from training.start import last_norm, start_from


def recipe(**model: str) -> Recipe:
    plain = load_recipe("digits_resnet20")
    return dataclasses.replace(plain, model=dataclasses.replace(plain.model, **model))


def network(name: str = "resnet20_cifar", classes: int = 10, **options: object) -> Network:
    return kr.create_model(name, classes=classes, classifier_activation=None, **options)


def predictions(model: keras.Model) -> np.ndarray:
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.fixture(scope="module")
def shipped() -> Network:
    return kr.create_model("resnet20_cifar", weights="digits", classifier_activation=None)


@pytest.mark.parametrize("kind", ["tag", "keras", "safetensors"])
def test_same_network(shipped: Network, kind: str, tmp_path: pathlib.Path) -> None:
    weights = "digits" if kind == "tag" else str(tmp_path / f"saved.{kind}")
    if kind == "keras":
        kr.create_model("resnet20_cifar", weights="digits").save(weights)  # with softmax and another preprocessing tag
    elif kind == "safetensors":
        write_safetensors(shipped, pathlib.Path(weights), "")
    started = network()
    start_from(started, recipe(weights=weights))
    np.testing.assert_array_equal(predictions(started), predictions(shipped))
    assert started.weights_tag == "digits", "the preprocessing of the recipe"
    assert len(started.trainable_variables) == len(network().trainable_variables)


@pytest.mark.parametrize("kind", ["tag", "keras"])
def test_other_classes(shipped: Network, kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The body is loaded, the classifier starts new, and a line says so."""
    weights = "digits" if kind == "tag" else str(tmp_path / "saved.keras")
    if kind == "keras":
        shipped.save(weights)
    started = network(classes=3)
    before = started.get_layer("predictions").get_weights()
    start_from(started, recipe(weights=weights))
    (line,) = capsys.readouterr().err.splitlines()
    assert "95/97 tensors loaded, head 10→3 new" in line and weights in line
    for old, new in zip(before, started.get_layer("predictions").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    ours, theirs = (
        kr.feature_extractor(model, ["C4"])(np.ones((1, 32, 32, 3), "float32"))["C4"] for model in (started, shipped)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_random_weights_stay() -> None:
    started = network()
    before = predictions(started)
    start_from(started, recipe())
    np.testing.assert_array_equal(predictions(started), before)


def test_wrong_weights(shipped: Network, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other.keras"
    network("resnet32_cifar").save(other)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(other.read_bytes()[:2000])
    foreign = tmp_path / "foreign.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="foreign").save(foreign)
    for weights, message in [
        (str(other), "other.keras' is of 'resnet32_cifar', not of 'resnet20_cifar'"),
        (str(foreign), "foreign.keras' is of 'foreign', not of 'resnet20_cifar'"),
        (str(broken), "broken.keras' is not a whole saved network"),
        (str(tmp_path / "none.keras"), "none.keras' is not a file"),
        (str(tmp_path / "none.pth"), "none.pth' is not a file"),
        ("digit", "unknown weights 'digit' of 'resnet20_cifar': did you mean 'digits'"),
    ]:
        started = network()
        before = predictions(started)
        with pytest.raises(ValueError, match=message):
            start_from(started, recipe(weights=weights))
        np.testing.assert_array_equal(predictions(started), before)


def step(model: keras.Model, images: np.ndarray) -> None:
    """A step of plain gradient descent on all trainable variables, in training mode."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(images, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)


def moved_by_a_step(model: keras.Model) -> set[str]:
    before = {variable.path: variable.numpy() for variable in model.variables}
    images = np.random.default_rng(1).standard_normal((4, *model.input_shape[1:])).astype("float32")
    step(model, images)
    return {variable.path for variable in model.variables if (variable.numpy() != before[variable.path]).any()}


def test_head_alone() -> None:
    """FixRes: of all variables the classifier's move, and the statistics of the last normalisation."""
    started = network()
    start_from(started, recipe(freeze="head"))
    assert [variable.path for variable in started.trainable_variables] == ["predictions/kernel", "predictions/bias"]
    norm = "stage3_block3/conv2/norm"
    assert moved_by_a_step(started) == {
        "predictions/kernel", "predictions/bias", f"{norm}/moving_mean", f"{norm}/moving_variance",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("resnet14t", "stage4_block1/conv3/norm"),  # its last block has a projection, with a normalisation of its own
        ("resnet18", "stage4_block2/conv2/norm"),
        ("resnet50", "stage4_block3/conv3/norm"),
        ("seresnet18", "stage4_block2/conv2/norm"),
        ("preresnet18", "norm/norm"),
        ("densenet40_k12_cifar", "norm/norm"),
        ("resnest29_cifar", "stage3_block3/conv3/norm"),
    ],
)
def test_last_norm(name: str, path: str) -> None:
    with without_values():
        norm = last_norm(network(name, input_shape=(32, 32, 3)).layers)
    assert norm is not None and norm.path.endswith(path), norm.path


def test_auxiliary_classifier_is_trained_with_the_head() -> None:
    started = network("inception_v3", aux_logits=True, pooled=[8], widths=[16])
    plain = load_recipe("inception_v3")
    start_from(started, dataclasses.replace(plain, model=dataclasses.replace(plain.model, freeze="head")))
    heads = {"predictions", "aux_predictions"}
    assert {variable.path.split("/")[0] for variable in started.trainable_variables} == heads
    (norm,) = (
        layer for layer in started._flatten_layers() if isinstance(layer, kr.layers.BatchNorm) and layer.trainable
    )
    assert not norm.path.startswith("aux")


def test_frozen_through_a_stage() -> None:
    started = network()
    start_from(started, recipe(weights="digits", freeze="stage2"))
    moved = moved_by_a_step(started)
    assert moved and all(path.startswith(("stage3", "predictions")) for path in moved)
    assert any("moving_mean" in path for path in moved)


def test_unknown_stage() -> None:
    with pytest.raises(ValueError, match=r"'stage7'.*did you mean 'stage"):
        start_from(network(), recipe(freeze="stage7"))


def test_nothing_left_to_train() -> None:
    with pytest.raises(ValueError, match="model.freeze 'all' leaves nothing to train"):
        start_from(network(), recipe(freeze="all"))


def test_frozen_parts_thaw() -> None:
    """A network that was frozen once is trained as the recipe says."""
    started = network()
    start_from(started, recipe(freeze="stage2"))
    start_from(started, recipe(freeze="none"))
    paths = [variable.path for variable in started.trainable_variables]
    assert paths == [variable.path for variable in network().trainable_variables]
