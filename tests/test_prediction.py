"""`predict` and `fit` of networks: what Keras gives, without its detours."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr

IMAGES = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return kr.create_model("resnet20_cifar", weights=None)


def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one whenever Keras' own `predict` is called."""
    made: list[Any] = []
    original = keras.Model.predict

    def predict(self: keras.Model, x: Any, *arguments: Any, **options: Any) -> Any:
        made.append(x)
        return original(self, x, *arguments, **options)

    monkeypatch.setattr(keras.Model, "predict", predict)
    return made


def test_one_batch_needs_no_pipeline(network: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.asarray(network(IMAGES, training=False))
    made = pipelines(monkeypatch)
    outputs = network.predict(IMAGES, verbose=0)
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    np.testing.assert_allclose(network.predict(IMAGES[:1], verbose=0), expected[:1], atol=1e-6)
    assert len(made) == (0 if keras.backend.backend() == "tensorflow" else 2)


@pytest.mark.parametrize(
    "x, options",
    [
        (IMAGES, {"batch_size": 2}),
        (IMAGES, {"callbacks": [keras.callbacks.Callback()]}),
        (IMAGES.astype("float64"), {}),
        (IMAGES, {"verbose": 2}),
    ],
    ids=["batches", "callbacks", "other type", "progress"],
)
def test_anything_else_is_keras_own(
    network: keras.Model, x: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.asarray(network(IMAGES, training=False))
    made = pipelines(monkeypatch)
    outputs = network.predict(x, **{"verbose": 0, **options})
    assert len(made) == 1 and outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_fused_and_loaded_networks_have_it(
    network: keras.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    network.save(tmp_path / "network.keras")
    made = pipelines(monkeypatch)
    for other in (kr.fuse(network), keras.models.load_model(tmp_path / "network.keras")):
        np.testing.assert_allclose(other.predict(IMAGES, verbose=0), network.predict(IMAGES, verbose=0), atol=1e-5)
    assert len(made) == (0 if keras.backend.backend() == "tensorflow" else 4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends trace once")
@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
def test_training_is_traced_once(train: str) -> None:
    """Also with metrics, and to the same figures as a model whose class is Keras' own."""
    figures, traces = [], []
    for kind in ("ours", "Keras' own"):
        keras.utils.set_random_seed(0)
        network = kr.create_model("resnet20_cifar", depth=1, classes=4)
        model = network if kind == "ours" else keras.Model(network.inputs, network.outputs)
        loss = keras.losses.SparseCategoricalCrossentropy()
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"])
        if kind == "ours":
            call = model.call

            def counted(*arguments: Any, training: Any = None, call: Any = call, **options: Any) -> Any:
                if training:
                    traces.append(training)
                return call(*arguments, training=training, **options)

            model.call = counted
        labels = np.arange(len(IMAGES)) % 4
        if train == "fit":
            history = model.fit(IMAGES, labels, batch_size=len(IMAGES), epochs=3, verbose=0, shuffle=False).history
            figures.append([history["loss"], history["accuracy"]])
        else:
            figures.append([model.train_on_batch(IMAGES, labels) for _ in range(3)])
    assert len(traces) == 1
    np.testing.assert_array_equal(*figures)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends have no such mode")
def test_eager_training_may_use_numpy() -> None:
    """What is never traced is not traced ahead either."""
    network = kr.create_model("resnet20_cifar", depth=1, classes=4)
    seen: list[float] = []

    def loss(labels: Any, outputs: Any) -> Any:
        seen.append(float(np.asarray(outputs).sum()))
        return keras.losses.sparse_categorical_crossentropy(labels, outputs)

    network.compile("sgd", loss, run_eagerly=True)
    network.fit(IMAGES, np.zeros(len(IMAGES), int), verbose=0)
    assert seen == [pytest.approx(len(IMAGES), abs=1e-3)]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's graphs")
@pytest.mark.parametrize("kind", ["plain", "accumulation", "loss scale"])
def test_updates_begin_when_their_gradients_are_there(kind: str) -> None:
    """Also inside the conditions of other kinds of steps; and the optimizer is afterwards what it was before."""
    import tensorflow as tf

    waits: list[bool] = []

    class Recording(keras.optimizers.SGD):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            waits.append(gradient.op in tf.no_op().control_inputs)
            super().update_step(gradient, variable, learning_rate)

    def trained(model_class: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        network = kr.create_model("resnet20_cifar", depth=1, classes=4)
        model = network if model_class is None else model_class(network.inputs, network.outputs)
        optimizer = Recording(0.01, momentum=0.9, gradient_accumulation_steps=2 if kind == "accumulation" else None)
        whole = keras.optimizers.LossScaleOptimizer(optimizer) if kind == "loss scale" else optimizer
        model.compile(whole, keras.losses.SparseCategoricalCrossentropy())
        model.fit(IMAGES, np.arange(len(IMAGES)) % 4, batch_size=2, epochs=2, verbose=0, shuffle=False)
        assert "update_step" not in vars(optimizer)
        return [np.asarray(variable) for variable in model.variables]

    ours = trained(None)
    assert waits and all(waits)
    waits.clear()
    for mine, keras_own in zip(ours, trained(keras.Model), strict=True):
        np.testing.assert_array_equal(mine, keras_own)
    assert waits and not any(waits)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's graphs")
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.01, "clipnorm": 0.1, "use_ema": True, "ema_momentum": 0.5},
        {"momentum": 0.9, "gradient_accumulation_steps": 2},
        {"momentum": 0.9, "loss_scale": True},
        {},
    ],
    ids=lambda options: ", ".join(options) or "no momentum",
)
def test_momentum_in_one_operator_is_that_of_keras(options: dict[str, Any]) -> None:
    """To a rounding; one operator for a weight, and none without momentum."""
    import tensorflow as tf

    labels = np.arange(len(IMAGES)) % 4

    def trained(model_class: Any) -> tuple[list[np.ndarray], int]:
        keras.utils.set_random_seed(0)
        network = kr.create_model("plain20_cifar", depth=1, classes=4)
        model = network if model_class is None else model_class(network.inputs, network.outputs)
        own = {name: value for name, value in options.items() if name != "loss_scale"}
        sgd = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.9), **own)
        whole = keras.optimizers.LossScaleOptimizer(sgd) if "loss_scale" in options else sgd
        model.compile(whole, keras.losses.SparseCategoricalCrossentropy())
        model.fit(IMAGES, labels, batch_size=len(IMAGES) // 2, epochs=2, verbose=0, shuffle=False)
        graph = tf.function(model.train_step).get_concrete_function((IMAGES, labels)).graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        variables = [np.asarray(variable) for variable in (*model.variables, *whole.variables)]
        return variables, [node.op for node in nodes].count("ResourceApplyKerasMomentum")

    (ours, operators), (theirs, none) = trained(None), trained(keras.Model)
    for mine, keras_own in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-5, atol=1e-6)
    weights = len(kr.create_model("plain20_cifar", depth=1, classes=4).trainable_variables)
    assert operators == (weights if options else 0) and none == 0


def test_frozen_networks_need_no_optimizer() -> None:
    network = kr.create_model("resnet20_cifar", depth=1, classes=4)
    network.trainable = False
    network.compile(None, "sparse_categorical_crossentropy")
    history = network.fit(IMAGES, np.zeros(len(IMAGES), int), batch_size=len(IMAGES), verbose=0).history
    probabilities = np.asarray(network(IMAGES, training=False))
    assert history["loss"] == [pytest.approx(-np.log(probabilities[:, 0]).mean(), rel=1e-4)]
