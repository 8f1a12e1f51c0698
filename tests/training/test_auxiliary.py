"""Training with auxiliary logits: what the loss is, what the log says, what is saved."""

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import scipy.special
import tiny_run
from rich.console import Console

from training.checkpoints import Checkpoints
from training.data import LabelledImages, Split
from training.losses import training_loss
from training.networks import build_network, preprocessing
from training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, Recipe, ScheduleRecipe
from training.run_folder import RunFolder, read_log
from training.train import train

# One module A and one module C; statistics that two steps are enough for.
OPTIONS: dict[str, Any] = {"aux_logits": True, "pooled": [8], "widths": [16], "bn_momentum": 0.1}
RECIPE = dataclasses.replace(
    tiny_run.RECIPE,
    model=ModelRecipe(name="inception_v3", options=OPTIONS),
    data=DataRecipe(source="digits", image_size=299),
    optimizer=OptimizerRecipe(lr=0.001),
    schedule=ScheduleRecipe(),
    aux_weight=0.4,
    epochs=1,
    batch_size=2,
)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    """Four to train on, three to test on."""
    shown = np.random.default_rng(0).integers(0, 256, (7, 299, 299, 3), dtype=np.uint8)
    labels = np.arange(7) % 3
    return LabelledImages(Split(shown[:4], labels[:4]), Split(shown[4:], labels[4:]), ("a", "b", "c"))


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    targets = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    return float(-(targets * scipy.special.log_softmax(logits, axis=-1)).sum(axis=-1).mean())


def test_run(images: LabelledImages, tmp_path: pathlib.Path) -> None:
    """Two steps. The loss is a weighted sum; the log is about the main logits; what is saved has no others."""
    train(RECIPE, RunFolder(tmp_path), images, Console(quiet=True))
    folder = RunFolder(tmp_path)
    shown, labels = preprocessing(RECIPE)(images.test.images), images.test.labels
    trained = build_network(RECIPE, images)
    started = trained.get_layer("aux_predictions").get_weights()
    checkpoint, _ = Checkpoints(folder.checkpoints).latest()
    assert checkpoint is not None and checkpoint.step == 2
    trained.set_weights([checkpoint.arrays[f"network/{place}"] for place in range(len(trained.weights))])
    outputs = trained(shown, training=False)
    logits, aux_logits = (keras.ops.convert_to_numpy(outputs[name]) for name in ("logits", "aux_logits"))
    losses = training_loss(RECIPE)(np.eye(3, dtype="float32")[labels], outputs)
    expected = cross_entropy(logits, labels, 0.1) + 0.4 * cross_entropy(aux_logits, labels, 0.1)
    assert np.mean(losses) == pytest.approx(expected, rel=1e-5)
    learned = trained.get_layer("aux_predictions").get_weights()
    assert all((before != after).any() for before, after in zip(started, learned, strict=True))

    (row,) = read_log(folder.log)
    assert row["test_loss"] == pytest.approx(cross_entropy(logits, labels, 0), rel=1e-4)
    assert row["test_accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == labels))
    best, final = (keras.models.load_model(path) for path in (folder.best, folder.final))
    assert final.variant == "inception_v3" and final.output_shape == (None, 3)
    assert not [variable.path for variable in final.variables if "aux" in variable.path]
    probabilities = keras.ops.convert_to_numpy(final(shown, training=False))
    np.testing.assert_allclose(probabilities, scipy.special.softmax(logits, axis=-1), atol=1e-6)
    for ours, theirs in zip(best.get_weights(), final.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("model", "weight", "message"),
    [
        (RECIPE.model, 0.0, r"aux_weight must be above 0 \(usually 0.4\) for a network with auxiliary logits"),
        (tiny_run.RECIPE.model, 0.4, "aux_weight must be 0, not 0.4, for 'resnet20_cifar' without auxiliary logits"),
    ],
)
def test_weight_must_fit_the_network(images: LabelledImages, model: ModelRecipe, weight: float, message: str) -> None:
    recipe: Recipe = dataclasses.replace(RECIPE, model=model, aux_weight=weight)
    with pytest.raises(ValueError, match=message):
        build_network(recipe, images)
