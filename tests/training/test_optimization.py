"""The learning-rate schedule against its formula, the optimizer against hand-computed steps and the PyTorch trajectory."""

import json
import math

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import keras_resnets as kr
from keras_resnets.layers import DropBlock
from training.callbacks import DropBlockSchedule
from training.optimizers import SGD
from training.schedules import WarmupCosine

TRAJECTORY = json.loads((reference.FOLDER / "trajectory.json").read_text("utf-8"))


def test_warmup_cosine_of_the_trajectory() -> None:
    """The rates that the PyTorch reference was trained with."""
    schedule = WarmupCosine(0.0003, 4, 10)
    np.testing.assert_allclose(
        [float(schedule(step)) for step in range(10)], TRAJECTORY["models"]["resnet18"]["lr"], rtol=1e-5, atol=1e-10
    )


def test_warmup_cosine_at_known_angles() -> None:
    schedule = WarmupCosine(2.0, 5, 17)
    known = {0: 0.4, 4: 2.0, 5: 2.0, 5 + 4: 1.5, 5 + 6: 1.0, 5 + 8: 0.5, 17: 0.0, 30: 0.0}
    np.testing.assert_allclose([float(schedule(step)) for step in known], list(known.values()), atol=1e-6)


def test_no_warmup() -> None:
    assert float(WarmupCosine(0.1, 0, 8)(0)) == pytest.approx(0.1)


def test_warmup_as_long_as_the_run() -> None:
    with pytest.raises(ValueError, match="shorter than the run of 10 steps"):
        WarmupCosine(0.1, 10, 10)


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


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"l2": -1.0}, {"l2": math.nan}])
def test_sgd_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        SGD(0.1, **wrong)


def test_configuration_round_trip() -> None:
    optimizer = SGD(WarmupCosine(0.1, 2, 9), momentum=0.7, nesterov=False, l2=0.01)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()


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


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", TRAJECTORY["models"])
def test_trajectory_of_pytorch(name: str) -> None:
    """Ten steps: weight decay, momentum under a changing rate, label smoothing and schedule in one check."""
    settings, expected = TRAJECTORY["settings"], TRAJECTORY["models"][name]
    size = (settings["height"], settings["width"], 3)
    model = kr.create_model(name, classes=settings["classes"], input_shape=size, classifier_activation=None)
    parameters = kr.pytorch_parameters(model)
    shapes = {key: to_torch(variable).shape for key, (variable, to_torch) in parameters.items()}
    kr.load_pytorch_weights(model, {key: reference.weight(key, shape) for key, shape in shapes.items()})
    schedule = WarmupCosine(settings["base_lr"], settings["warmup_steps"], settings["steps"])
    optimizer = SGD(schedule, settings["momentum"], settings["nesterov"], settings["weight_decay"])
    criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings["label_smoothing"])
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = criterion(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    losses = []
    for t in range(settings["steps"]):
        x = reference.generator(f"traj:x:{t}").standard_normal((settings["batch"], *size), dtype=np.float32)
        y = reference.generator(f"traj:y:{t}").integers(0, settings["classes"], settings["batch"])
        losses.append(float(step(x.astype("float64"), keras.utils.to_categorical(y, settings["classes"]))))
    np.testing.assert_allclose(losses, expected["loss_float64"], rtol=1e-9)
    for key, norm in expected["param_norm_after_float64"].items():
        assert np.linalg.norm(keras.ops.convert_to_numpy(parameters[key][0])) == pytest.approx(norm, rel=1e-9), key
