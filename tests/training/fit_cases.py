"""`compile` and `fit` as a user writes them, of small networks, on one device or on two replicas of a MirroredStrategy.

As a program, for a process has one strategy: `fit_cases.py CASE …` trains each on two replicas, those with synchronised statistics
on one device as well, and prints what came of it, and what random layers drew, as JSON.
"""

import contextlib
import dataclasses
import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_resnets as kr
from keras_resnets import layers

BATCH, STEPS, CLASSES = 8, 3, 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to fit.

    Attributes:
        name: of the network.
        options: of `create_model`.
        size: of the images.
        policy: Keras' dtype policy. Double precision where normalisation over few values would blow up rounding.
        lr: learning rate.
        epochs: of three steps.
    """

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    size: int = 32
    policy: str = "float32"
    lr: float = 0.001
    epochs: int = 1


PLAIN = {"depth": 1}
SYNCHRONIZED = {"depth": 1, "bn_synchronized": True}
NARROW = {**SYNCHRONIZED, "widths": (16, 32, 64)}
RED = {"depths": (1, 1, 1, 1), "bn_synchronized": True}
CASES = {
    "plain": Case("resnet20_cifar", PLAIN, epochs=3, lr=0.01),
    "mixed_bfloat16": Case("resnet20_cifar", PLAIN, policy="mixed_bfloat16", lr=0.01, epochs=3),
    "mixed_float16": Case("resnet20_cifar", PLAIN, policy="mixed_float16", lr=0.01, epochs=3),
    "synchronized": Case("resnet20_cifar", SYNCHRONIZED),
    "stochastic_depth": Case("resnet20_cifar", {**SYNCHRONIZED, "drop_path_rate": 0.5}),
    "drop_block": Case("resnest50_fast_2s2x40d", {**RED, "drop_block_rate": 0.1}, size=64),
    "dropout": Case("resnet20_cifar", {**SYNCHRONIZED, "dropout_rate": 0.5}),
    "grouped": Case("resnext29_2x64d_cifar", NARROW, policy="float64"),
    "split_attention": Case("resnest29_cifar", SYNCHRONIZED, policy="float64"),
    "involution": Case("rednet26", RED, size=64, policy="float64"),
    "auxiliary": Case(
        "inception_v3",
        {"aux_logits": True, "pooled": [8], "widths": [16], "bn_synchronized": True},
        size=299,
        policy="float64",
    ),
}


def images(size: int) -> tuple[np.ndarray, np.ndarray]:
    """What can be learned by heart: noise with a mean of its own for every class, and labels."""
    labels = np.arange(BATCH * STEPS) % CLASSES
    noise = np.random.default_rng(0).standard_normal((len(labels), size, size, 3), dtype="float32")
    return noise + 0.5 * labels.reshape(-1, 1, 1, 1).astype("float32"), labels


def compiled(case: Case) -> keras.Model:
    """The network with an optimizer and a loss, per output if there are several."""
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64" if case.policy == "float64" else "float32")
    keras.config.set_dtype_policy(case.policy)
    model = kr.create_model(case.name, classes=CLASSES, input_shape=(case.size, case.size, 3), **case.options)
    loss = "sparse_categorical_crossentropy"
    optimizer = keras.optimizers.SGD(case.lr, momentum=0.9, nesterov=True)
    if isinstance(model.output, dict):
        model.compile(optimizer, dict.fromkeys(model.output, loss), {"logits": 1.0, "aux_logits": 0.4})
    else:
        model.compile(optimizer, loss)
    return model


def batches(model: keras.Model, case: Case) -> tf.data.Dataset:
    """Images with the labels of every output."""
    x, labels = images(case.size)
    y = dict.fromkeys(model.output, labels) if isinstance(model.output, dict) else labels
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True)


def fit(case: Case, scope: Any = None) -> dict[str, Any]:
    """Trains; tells the epochs' losses, how much each weight has changed, and what the optimizer and the weights are."""
    with scope or contextlib.nullcontext():
        model = compiled(case)
    before = model.get_weights()
    losses = model.fit(batches(model, case), epochs=case.epochs, verbose=0).history["loss"]
    changes = [np.abs(new - old).sum() for new, old in zip(model.get_weights(), before, strict=True)]
    return {
        "losses": losses,
        "changes": {variable.path: float(change) for variable, change in zip(model.weights, changes, strict=True)},
        "dtypes": sorted({str(variable.dtype) for variable in model.trainable_variables}),
        "optimizer": type(model.optimizer).__name__,
    }


def two_replicas() -> tf.distribute.Strategy:
    """Of logical devices on this machine's processor."""
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


RANDOM = {
    "stochastic_depth": lambda: layers.StochasticDepth(0.5, seed=1),
    "drop_block": lambda: layers.DropBlock(0.2, 3, seed=1),
    "dropout": lambda: layers.Dropout(0.5, seed=1),
}


def draws(name: str, images: int, strategy: tf.distribute.Strategy | None = None) -> list[np.ndarray]:
    """What a random layer kept of the values of some images, per replica, at its second call."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        layer = RANDOM[name]()
    kept: Any = None
    for _ in range(2):
        call = tf.function(lambda: tf.cast(layer(tf.ones((images, 8, 8, 4)), training=True) != 0, tf.int32))
        kept = strategy.run(call) if strategy else call()
    return [part.numpy() for part in (strategy.experimental_local_results(kept) if strategy else (kept,))]


def compare_draws(strategy: tf.distribute.Strategy) -> dict[str, dict[str, Any]]:
    """Whether two replicas drop the same, and what one device drops of twice the images, and how much they keep."""
    compared = {}
    for name in RANDOM:
        first, second = draws(name, 64, strategy)
        (whole,) = draws(name, 128)
        compared[name] = {
            "same": bool((first == second).all()),
            "as_one_device": bool((np.concatenate([first, second]) == whole).all()),
            "kept": [float(part.mean()) for part in (first, second)],
        }
    return compared


if __name__ == "__main__":
    strategy = two_replicas()
    assert strategy.num_replicas_in_sync == 2
    drawn, results = compare_draws(strategy), {}
    for name in sys.argv[1:]:
        results[name] = {"two": fit(CASES[name], strategy.scope())}
        if CASES[name].options.get("bn_synchronized"):
            results[name]["one"] = fit(CASES[name])
    print(json.dumps({"draws": drawn, "fit": results}))
