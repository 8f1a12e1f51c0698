"""A training step against PyTorch's trajectory and against formulas: accumulation, clipping, averages, loss scaling."""

import dataclasses
import json
from typing import Any

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tiny_run

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.layers import BatchNorm, DropBlock
from training.losses import training_loss
from training.networks import dtype_policy
from training.optimizers import SGD, make_optimizer
from training.recipe import Recipe
from training.schedules import make_schedule
from training.step import LossScale, Trainer

TRAJECTORY = json.loads((reference.FOLDER / "trajectory.json").read_text("utf-8"))
PLAIN: Recipe = dataclasses.replace(
    tiny_run.RECIPE,
    optimizer=dataclasses.replace(tiny_run.RECIPE.optimizer, lr=0.1, momentum=0.0, nesterov=False, l2=0.0),
    schedule=dataclasses.replace(tiny_run.RECIPE.schedule, name="constant", warmup_epochs=0),
    batch_size=8,
)


def network(precision: str = "float32", **options: Any) -> Network:
    keras.utils.set_random_seed(0)
    with dtype_policy(precision):
        return kr.create_model("resnet20_cifar", input_shape=(16, 16, 3), classifier_activation=None, **options)


def trainer(recipe: Recipe, trained: Network, average: Network | None = None) -> Trainer:
    optimizer = make_optimizer(recipe, make_schedule(recipe, 10))
    return Trainer(trained, recipe, optimizer, training_loss(recipe), 30, average)


def batch(count: int = 8) -> tuple[tf.Tensor, tf.Tensor]:
    draw = np.random.default_rng(1)
    labels = np.eye(10, dtype="float32")[draw.integers(0, 10, count)]
    return tf.constant(draw.standard_normal((count, 16, 16, 3)), tf.float32), tf.constant(labels)


def step(of: Trainer, images: tf.Tensor, labels: tf.Tensor) -> None:
    of.train(images, labels, tf.constant(0.0))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnest14d", marks=pytest.mark.slow)])
def test_trajectory_of_pytorch(name: str) -> None:
    """Ten steps: coupled decay, momentum under a changing rate, label smoothing and schedule in one check."""
    settings, expected = TRAJECTORY["settings"], TRAJECTORY["models"][name]
    size = (settings["height"], settings["width"], 3)
    model = kr.create_model(name, classes=settings["classes"], input_shape=size, classifier_activation=None)
    parameters = kr.pytorch_parameters(model)
    shapes = {key: to_torch(variable).shape for key, (variable, to_torch) in parameters.items()}
    kr.load_pytorch_weights(model, {key: reference.weight(key, shape) for key, shape in shapes.items()})
    recipe = dataclasses.replace(
        PLAIN,
        batch_size=settings["batch"],
        label_smoothing=settings["label_smoothing"],
        epochs=1,
        optimizer=dataclasses.replace(PLAIN.optimizer, lr=settings["base_lr"], momentum=settings["momentum"],
                                      nesterov=settings["nesterov"], l2=settings["weight_decay"]),
        schedule=dataclasses.replace(PLAIN.schedule, name="cosine", warmup_epochs=settings["warmup_steps"] / settings["steps"]),
    )  # fmt: skip
    trained = trainer(recipe, model)
    losses, rates = [], []
    for t in range(settings["steps"]):
        x = reference.generator(f"traj:x:{t}").standard_normal((settings["batch"], *size), dtype=np.float32)
        y = reference.generator(f"traj:y:{t}").integers(0, settings["classes"], settings["batch"])
        rates.append(float(trained.optimizer.learning_rate))
        step(trained, tf.constant(x, tf.float64), tf.one_hot(y, settings["classes"]))
        losses.append(float(trained.train_metrics[0].result()))
        trained.train_metrics[0].reset_state()
    np.testing.assert_allclose(rates, expected["lr"], rtol=1e-9)
    np.testing.assert_allclose(losses, expected["loss_float64"], rtol=1e-7)  # Keras' metrics are in single precision
    for key, norm in expected["param_norm_after_float64"].items():
        assert np.linalg.norm(keras.ops.convert_to_numpy(parameters[key][0])) == pytest.approx(norm, rel=1e-9), key


def test_parts_of_a_batch_add_up() -> None:
    """With normalisation in inference mode, where the batch does not matter, four parts give the gradient of the whole."""
    after = []
    for accumulate in (1, 4):
        model = network()
        for layer in model._flatten_layers():
            layer.trainable = not isinstance(layer, BatchNorm)
        trained = trainer(dataclasses.replace(PLAIN, accumulate=accumulate), model)
        step(trained, *batch())
        after.append([variable.numpy() for variable in model.weights])
        assert int(trained.optimizer.iterations) == 1
    for whole, parts in zip(*after, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)


def test_clipping_by_the_whole_gradient() -> None:
    """At rate 1 without momentum, the step is the gradient: its norm is the limit, and its direction stays."""
    moved = []
    for clip in (0.0, 0.25):
        model = network()
        before = [variable.numpy() for variable in model.trainable_variables]
        step(trainer(dataclasses.replace(PLAIN, optimizer=dataclasses.replace(PLAIN.optimizer, lr=1.0, clip_norm=clip)), model),
             *batch())  # fmt: skip
        after = [variable.numpy() for variable in model.trainable_variables]
        moved.append(np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)]))
    free, clipped = moved
    assert np.linalg.norm(free) > 0.5
    assert np.linalg.norm(clipped) == pytest.approx(0.25, rel=1e-3)
    assert free @ clipped / np.linalg.norm(free) / np.linalg.norm(clipped) == pytest.approx(1, abs=1e-4)


def test_average_of_weights_and_statistics() -> None:
    """Three steps: `average = 0.75 * average + 0.25 * weight` of every variable, moving means and variances among them."""
    model, average = network(), network()
    expected = [variable.numpy() for variable in model.weights]
    trained = trainer(dataclasses.replace(PLAIN, ema=0.75), model, average)
    assert trained.tested is average
    for _ in range(3):
        step(trained, *batch())
        expected = [0.75 * old + 0.25 * new.numpy() for old, new in zip(expected, model.weights, strict=True)]
    for ours, theirs, variable in zip(average.weights, expected, model.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-7, err_msg=ours.path)
        assert (ours.numpy() != variable.numpy()).any()
    assert sum("moving_" in variable.path for variable in average.weights) == 2 * 19


def test_an_overflow_changes_no_weight() -> None:
    model = network("mixed_float16")
    trained = trainer(dataclasses.replace(PLAIN, precision="mixed_float16"), model)
    assert trained.loss_scale is not None
    images, labels = batch()
    trained.loss_scale.factor.assign(1e38)
    before = [variable.numpy() for variable in model.trainable_variables]
    step(trained, images, labels)
    for ours, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), ours)
    assert float(trained.loss_scale.factor) == pytest.approx(5e37)
    trained.loss_scale.factor.assign(128.0)
    step(trained, images, labels)
    assert all(
        (variable.numpy() != ours).any() for ours, variable in zip(before, model.trainable_variables, strict=True)
    )
    assert float(trained.loss_scale.factor) == 128


def test_loss_scale_grows_again() -> None:
    scale = LossScale(patience=3)
    seen = []
    for finite in (True, True, True, True, False, True, True, True):
        scale.update(tf.constant(finite))
        seen.append(float(scale.factor) / 2**15)
    assert seen == [1, 1, 2, 2, 1, 1, 1, 2]


@pytest.mark.parametrize(("precision", "least"), [("mixed_float16", 0.99), ("mixed_bfloat16", 0.95)])
def test_half_precision(precision: str, least: float) -> None:
    """Weights and statistics are float32, and a step moves them as in single precision, to half precision's digits."""
    moved = []
    for policy in ("float32", precision):
        model = network(policy)
        assert {variable.dtype for variable in model.weights} == {"float32"}
        before = [variable.numpy() for variable in model.trainable_variables]
        step(trainer(dataclasses.replace(PLAIN, precision=policy), model), *batch())
        after = [variable.numpy() for variable in model.trainable_variables]
        moved.append(np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)]))
    cosine = moved[0] @ moved[1] / np.linalg.norm(moved[0]) / np.linalg.norm(moved[1])
    assert cosine > least


def test_random_masks_follow_from_the_step() -> None:
    """The same step again draws the same masks, the next one others."""
    losses = []
    for number in (0, 0, 1):
        trained = trainer(PLAIN, network(drop_path_rate=0.5, dropout_rate=0.5))
        trained.optimizer.iterations.assign(number)
        step(trained, *batch())
        losses.append(float(trained.train_metrics[0].result()))
    assert losses[0] == losses[1] != losses[2]


def test_drop_block_rises_with_the_steps() -> None:
    x = keras.Input((16, 16, 3), name="image")
    y = keras.layers.GlobalAveragePooling2D()(DropBlock(0.3, block_size=3, seed=0)(x))
    model = Network(x, keras.layers.Dense(10)(y))
    recipe = PLAIN
    trained = Trainer(model, recipe, SGD(0.1), training_loss(recipe), steps=20)
    (progress,) = [variable for variable in model.weights if "drop_block" in variable.path]
    seen = []
    for _ in range(3):
        step(trained, *batch())
        seen.append(float(progress.numpy()))
    np.testing.assert_allclose(seen, [0, 0.05, 0.1], rtol=1e-6)


def test_images_of_weight_zero_do_not_count() -> None:
    trained = trainer(PLAIN, network())
    images, labels = batch()
    logits = keras.ops.convert_to_numpy(trained.network(images, training=False))
    weights = np.array([1, 1, 1, 1, 1, 0, 0, 0], "float32")
    trained.test(images, labels, tf.constant(weights))
    places = np.argsort(-logits, axis=1)
    true = np.argmax(labels, axis=1)
    loss, accuracy, top5 = (float(metric.result()) for metric in trained.test_metrics)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    assert loss == pytest.approx((log_sum - logits[np.arange(8), true])[:5].mean(), rel=1e-5)
    assert accuracy == pytest.approx((places[:, 0] == true)[:5].mean())
    assert top5 == pytest.approx((places[:, :5] == true[:, np.newaxis]).any(axis=1)[:5].mean())
