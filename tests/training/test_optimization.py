"""Optimizers against hand-computed steps, timm's and TensorFlow 1's; schedules; PyTorch's trajectory is in `test_step`."""

import json
import math
from typing import Any

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from keras_resnets.layers import DropBlock
from training.callbacks import DropBlockSchedule
from training.optimizers import LAMB, SGD, RMSProp, make_optimizer
from training.recipe import load_recipe
from training.schedules import WarmupCosine, WarmupExponential, WarmupSteps


def test_optimizers_of_recipes() -> None:
    """Every number of a recipe arrives; none of them clips, which the training loop does with the whole batch's gradient."""
    sgd = make_optimizer(load_recipe("resnext_cifar", ["optimizer.momentum=0.8"]), 0.1)
    assert (sgd.momentum, sgd.nesterov, sgd.l2, sgd.l2_on) == (0.8, True, 5e-4, "all")
    assert not make_optimizer(load_recipe("he2015"), 0.1).nesterov
    lamb = make_optimizer(load_recipe("rsb_a1"), 0.1)
    assert isinstance(lamb, LAMB) and lamb.decay == 0.01 and load_recipe("rsb_a1").optimizer.clip_norm == 1
    rmsprop = make_optimizer(load_recipe("inception_v3"), 0.1)
    assert isinstance(rmsprop, RMSProp)
    assert (rmsprop.rho, rmsprop.momentum, rmsprop.epsilon, rmsprop.l2) == (0.9, 0.9, 1.0, 4e-5)
    for optimizer in (sgd, lamb, rmsprop):
        assert optimizer.clipnorm is optimizer.global_clipnorm is optimizer.clipvalue is None


@pytest.mark.usefixtures("float64")
def test_lamb_of_timm() -> None:
    """Four steps of timm 1.0.31's LAMB under changing rates; the gradient is clipped in the first three."""
    golden = json.loads((reference.FOLDER.parent / "data" / "lamb.json").read_text("utf-8"))
    kernel, bias = (keras.Variable(np.array(golden["start"][name])) for name in ("kernel", "bias"))
    optimizer = LAMB(0.0, weight_decay=golden["weight_decay"], global_clipnorm=1.0)
    for step in golden["steps"]:
        optimizer.learning_rate = step["rate"]
        optimizer.apply([tf.constant(gradient, tf.float64) for gradient in step["gradients"]], [kernel, bias])
        np.testing.assert_allclose(kernel.numpy(), step["kernel"], rtol=1e-12)
        np.testing.assert_allclose(bias.numpy(), step["bias"], rtol=1e-12)


def test_lamb_of_convolutions() -> None:
    """A convolution's kernel moves as the same numbers in a matrix do."""
    start = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype("float32")
    kernel, matrix = keras.Variable(start), keras.Variable(start.reshape(18, 4))
    optimizer = LAMB(0.1, weight_decay=0.01)
    gradient = tf.random.stateless_normal((18, 4), [1, 2])
    optimizer.apply([tf.reshape(gradient, start.shape), gradient], [kernel, matrix])
    np.testing.assert_allclose(kernel.numpy().reshape(18, 4), matrix.numpy(), rtol=1e-6)
    assert np.linalg.norm(kernel.numpy() - start) == pytest.approx(0.1 * np.linalg.norm(start), rel=1e-4)


def test_lamb_of_zeros() -> None:
    """A weight of norm 0 takes the unscaled step; a gradient of 0 moves nothing but the decay."""
    kernel, still = keras.Variable(np.zeros((2, 2), "float32")), keras.Variable(np.zeros((2, 2), "float32"))
    LAMB(0.1, weight_decay=0.01).apply([tf.ones((2, 2)), tf.zeros((2, 2))], [kernel, still])
    np.testing.assert_allclose(kernel.numpy(), -0.1, rtol=1e-4)
    np.testing.assert_array_equal(still.numpy(), 0)
    with pytest.raises(ValueError, match="weight_decay must be at least 0, not -1"):
        LAMB(0.1, weight_decay=-1)


def step_by_hand(
    w: float, gradients: list[float], rates: list[float], momentum: float, nesterov: bool, l2: float
) -> float:
    """PyTorch's documented recurrence, in plain numbers."""
    buffer = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        g = gradient + l2 * w
        buffer = momentum * buffer + g
        w -= rate * (g + momentum * buffer if nesterov else buffer)
    return w


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_under_a_changing_rate(nesterov: bool) -> None:
    gradients, rates = [1.0, -2.0, 0.5], [0.1, 0.3, 0.05]
    kernel, bias = keras.Variable(np.full((1, 1), 4.0, "float32")), keras.Variable(np.full((1,), 4.0, "float32"))
    optimizer = SGD(0.1, momentum=0.8, nesterov=nesterov, l2=0.25)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.fill((1, 1), gradient), tf.fill((1,), gradient)], [kernel, bias])
    assert float(kernel[0, 0]) == pytest.approx(step_by_hand(4.0, gradients, rates, 0.8, nesterov, l2=0.25), rel=1e-6)
    assert float(bias[0]) == pytest.approx(step_by_hand(4.0, gradients, rates, 0.8, nesterov, l2=0.0), rel=1e-6)


def test_l2_on_all_weights() -> None:
    """Without gradients, a weight of 4 shrinks by 0.1 * 0.25 * 4 = 0.1, and so does a bias if asked."""
    for optimizer in (SGD, RMSProp):
        for l2_on in ("kernels", "all"):
            kernel, bias = (keras.Variable(np.full(shape, 4.0, "float32")) for shape in ((1, 1), (1,)))
            extra = {"epsilon": 0.1, "rho": 0.9} if optimizer is RMSProp else {"nesterov": False}
            optimizer(0.1, l2=0.25, l2_on=l2_on, **extra).apply([tf.zeros((1, 1)), tf.zeros((1,))], [kernel, bias])
            assert float(kernel[0, 0]) == pytest.approx(
                3.9 if optimizer is SGD else 4 - 0.1 / math.sqrt(0.9 + 0.1 + 0.1)
            )
            assert float(bias[0]) == pytest.approx(float(kernel[0, 0]) if l2_on == "all" else 4.0)


@pytest.mark.parametrize(
    "settings", [{"momentum": 0.9, "epsilon": 1.0}, {"momentum": 0.0, "rho": 0.5, "epsilon": 1e-3}]
)
def test_rmsprop_of_tensorflow_1(settings: dict[str, float]) -> None:
    """Six steps under changing rates against the optimizer that the Inceptions were trained with."""
    start = np.random.default_rng(0).standard_normal((3, 2)).astype("float32")
    theirs, ours = tf.Variable(start), keras.Variable(start)
    rate = tf.Variable(0.0)
    named = {"decay": settings.get("rho", 0.9), "momentum": settings["momentum"], "epsilon": settings["epsilon"]}
    reference, optimizer = tf.compat.v1.train.RMSPropOptimizer(rate, **named), RMSProp(0.0, **settings)
    for step in range(6):
        gradient = np.random.default_rng(step).standard_normal((3, 2)).astype("float32") * 3
        rate.assign(0.1 / (step + 1))
        optimizer.learning_rate = 0.1 / (step + 1)
        reference.apply_gradients([(tf.constant(gradient), theirs)])
        optimizer.apply([tf.constant(gradient)], [ours])
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(theirs.numpy() - start).max() > 0.05


@pytest.mark.parametrize(
    "wrong", [{"rho": 1.0}, {"epsilon": 0.0}, {"momentum": 1.0}, {"l2": -1.0}, {"l2_on": "biases"}]
)
def test_rmsprop_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        RMSProp(0.1, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"l2": -1.0}, {"l2": math.nan}, {"l2_on": "biases"}]
)
def test_sgd_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        SGD(0.1, **wrong)


@pytest.mark.parametrize("optimizer", [
    SGD(WarmupCosine(0.1, 2, 9), momentum=0.7, nesterov=False, l2=0.01),
    SGD(WarmupExponential(0.1, 2, 5, 0.9, warmup_from=0.5, warmup="constant"), l2=0.01, l2_on="all"),
    RMSProp(WarmupCosine(0.1, 2, 9, 0.05, warmup_from=0.2), rho=0.8, momentum=0.5, epsilon=0.1, l2=0.01, l2_on="all"),
    LAMB(WarmupSteps(0.1, 2, [4, 7], 0.2), weight_decay=0.02, beta_1=0.8, epsilon=1e-5, global_clipnorm=0.5),
])  # fmt: skip
def test_configuration_round_trip(optimizer: keras.optimizers.Optimizer) -> None:
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()


@pytest.mark.parametrize("optimizer", [SGD(0.05), LAMB(0.05), RMSProp(0.1)], ids=lambda optimizer: optimizer.name)
def test_optimizers_in_fit(optimizer: keras.optimizers.Optimizer) -> None:
    """Ten epochs of least squares, by a convolution with bias, by `compile` and `fit`."""
    x = np.random.default_rng(0).standard_normal((64, 3)).astype("float32")
    y = x @ np.array([[1.0], [-2.0], [0.5]], "float32")
    model = keras.Sequential([keras.Input((1, 1, 3)), keras.layers.Conv2D(1, 1), keras.layers.Flatten()])
    model.compile(optimizer, "mse")
    losses = model.fit(x[:, np.newaxis, np.newaxis], y, epochs=10, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_drop_block_rises_over_the_run() -> None:
    """Four steps: none of the rate at the first, three quarters of it at the last, nothing of it at inference."""
    model = keras.Sequential([keras.Input((8, 8, 2)), DropBlock(0.2, 3), keras.layers.Conv2D(1, 8)])
    model.compile("sgd", "mse")
    seen: list[float] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(float(model.layers[0].progress))
    )
    x = np.ones((4, 8, 8, 2), "float32")
    model.fit(x, x[:, :1, :1, :1], batch_size=2, epochs=2, verbose=0, callbacks=[DropBlockSchedule(4), record])
    assert seen == [0, 0.25, 0.5, 0.75]
    np.testing.assert_array_equal(model.layers[0](x, training=False), x)
