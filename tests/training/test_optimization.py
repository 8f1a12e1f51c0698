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
from training.optimizers import LAMB, SGD
from training.schedules import WarmupCosine, WarmupSteps

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


def test_steps_of_the_first_resnets() -> None:
    """A tenth at epochs 30, 60, 90 of ten steps each, after two epochs of warm-up."""
    schedule = WarmupSteps(0.1, 20, [300, 600, 900])
    known = {
        0: 0.005,
        9: 0.05,
        19: 0.1,
        20: 0.1,
        299: 0.1,
        300: 0.01,
        599: 0.01,
        600: 1e-3,
        899: 1e-3,
        900: 1e-4,
        2000: 1e-4,
    }
    np.testing.assert_allclose([float(schedule(step)) for step in known], list(known.values()), rtol=1e-5)
    assert float(WarmupSteps(0.5, 0, [], 0.1)(7)) == 0.5
    halves = WarmupSteps(8.0, 0, [1, 3], 0.5)
    np.testing.assert_allclose([float(halves(step)) for step in range(5)], [8, 4, 4, 2, 2])


@pytest.mark.parametrize("warmup, drops, factor", [(0, [5, 5], 0.1), (0, [5, 4], 0.1), (6, [5], 0.1), (0, [0], 0.1), (0, [5], 0.0),
                                                   (0, [5], 1.5)])  # fmt: skip
def test_steps_refuse(warmup: int, drops: list[int], factor: float) -> None:
    with pytest.raises(ValueError, match=r"drops must ascend|factor must be"):
        WarmupSteps(0.1, warmup, drops, factor)


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


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"l2": -1.0}, {"l2": math.nan}])
def test_sgd_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        SGD(0.1, **wrong)


@pytest.mark.parametrize("optimizer", [
    SGD(WarmupCosine(0.1, 2, 9), momentum=0.7, nesterov=False, l2=0.01),
    LAMB(WarmupSteps(0.1, 2, [4, 7], 0.2), weight_decay=0.02, beta_1=0.8, epsilon=1e-5, global_clipnorm=0.5),
])  # fmt: skip
def test_configuration_round_trip(optimizer: keras.optimizers.Optimizer) -> None:
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
