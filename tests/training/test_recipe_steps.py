"""Two training steps of every recipe, with its augmentation, loss and optimizer, on small images: those of the digits with their
own networks, the published ones with a small one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.data import LabelledImages, Split
from training.loop import make_trainer
from training.networks import preprocessing
from training.pipeline import training_batches
from training.recipe import RECIPES, Recipe, load_recipe

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "digits_resnet20")
# One module A and one module C, see test_auxiliary.
SMALL_INCEPTION = ["model.options.pooled=[8]", "model.options.widths=[16]"]


def small(name: str) -> Recipe:
    """The recipe for a ResNet-20 at 32 pixels, 8 images per step; for the Inception, whose auxiliary logits need 299, thinned.
    A recipe of the digits as it is."""
    overrides = ["data.source=digits", "data.test_size=0", "batch_size=8", "augment.short_side=[36, 44]"]
    if name.startswith(("digits", "path")):
        return load_recipe(name, overrides)
    if name == "inception_v3":
        return load_recipe(name, [*overrides, *SMALL_INCEPTION, "batch_size=2"])
    published = load_recipe(name).model
    weights = "digits" if published.weights else ""
    model = f"model={{name: resnet20_cifar, weights: '{weights}', freeze: {published.freeze}}}"
    return load_recipe(name, [*overrides, model, "data.image_size=32"])


def images() -> LabelledImages:
    """Sixteen of ten classes, wider than high."""
    generator = np.random.default_rng(0)
    shown, labels = generator.integers(0, 256, (20, 48, 64, 3), dtype=np.uint8), np.arange(20) % 10
    return LabelledImages(Split(shown[:16], labels[:16]), Split(shown[16:], labels[16:]), tuple("0123456789"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str) -> None:
    """Whatever is to be trained moves, everything stays finite, and the log holds the loss of the recipe."""
    recipe, data = small(name), images()
    trainer = make_trainer(recipe, data)
    trained = trainer.network.trainable_variables
    before = [variable.numpy() for variable in trained]
    for image, labels in training_batches(data, recipe, preprocessing(recipe)).take(2):
        assert image.shape == (recipe.batch_size, recipe.data.image_size, recipe.data.image_size, 3)
        np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1, rtol=1e-5)
        trainer.train(image, labels, tf.constant(0.0))
    assert int(trainer.optimizer.iterations) == 2
    for variable, old in zip(trained, before, strict=True):
        new = keras.ops.convert_to_numpy(variable)
        assert np.isfinite(new).all(), variable.path
        assert (new != old).any(), variable.path
    most = 1000 if recipe.distillation.teacher else 100  # 20² * log 10 is the teacher's part
    assert 0.01 < float(trainer.train_metrics[0].result()) < most
