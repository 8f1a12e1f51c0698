"""What the processes of `benchmarks.gpu` time: train and inference steps in bfloat16, and matrix products for the peak.

Images are random numbers that lie on the device already. A call of a measure is `steps` steps in a row, waited for at the end.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

TRAIN, INFERENCE, PRODUCT = "train", "inference", "matrix product"
RIVAL = "PyTorch, torch.compile"

Measures = dict[str, Callable[[], Any]]


def device(framework: str) -> str | None:
    """What "jax", "tensorflow" or "torch" calls the accelerator it sees, or None if it sees none."""
    if framework == "jax":
        import jax

        return next((device.device_kind for device in jax.devices() if device.platform != "cpu"), None)
    if framework == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU") if found else None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def gmacs(network: str, size: int) -> float:
    """Billions of multiply-accumulates of a forward pass of one image of `size` x `size` pixels."""
    import keras_resnets
    from keras_resnets.costs import measured

    info = keras_resnets.model_info(network)
    if size == info.input_size:
        return info.gmacs
    return measured(lambda: keras_resnets.create_model(network, input_shape=(size, size, 3))).gmacs


def timm_has(network: str) -> bool:
    """Whether timm has a network of this name."""
    import timm

    return timm.is_model(network)


def keras_measures(network: str, batch: int, size: int, steps: int, side: int) -> Measures:
    """This package under the policy mixed_bfloat16, on whichever backend Keras has; products of `side` x `side` matrices."""
    import keras

    import keras_resnets

    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras_resnets.create_model(network, classifier_activation=None, input_shape=(size, size, 3))
    x = keras.random.normal((batch, size, size, 3), seed=1)
    y = keras.ops.arange(batch) % model.output_shape[-1]
    a, b = (keras.random.normal((side, side), seed=seed, dtype="bfloat16") for seed in (2, 3))
    train, predict = (_jax_steps if keras.backend.backend() == "jax" else _keras_steps)(model, x, y)
    product = functools.partial(keras.ops.matmul, a, b)

    def repeated(step: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: keras.ops.convert_to_numpy([step() for _ in range(steps)][-1][0])

    return {TRAIN: repeated(train), INFERENCE: repeated(predict), PRODUCT: repeated(product)}


def _optimizer_and_loss() -> Any:
    import keras

    return keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _jax_steps(model: Any, x: Any, y: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Each step one compiled function; the train step gives its buffers back to the next one."""
    import jax

    optimizer, loss_of = _optimizer_and_loss()
    optimizer.build(model.trainable_variables)

    def values(variables: Any) -> list[Any]:
        return [jax.numpy.copy(variable.value) for variable in variables]

    def loss(trainable: Any, rest: Any, x: Any, y: Any) -> Any:
        logits, rest = model.stateless_call(trainable, rest, x, training=True)
        return loss_of(y, logits), rest

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: Any, x: Any, y: Any) -> Any:
        trainable, rest, slots = state
        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, rest, x, y)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, rest, slots), value

    @jax.jit
    def predict_step(trainable: Any, rest: Any, x: Any) -> Any:
        return model.stateless_call(trainable, rest, x, training=False)[0]

    weights = values(model.trainable_variables), values(model.non_trainable_variables)
    state: Any = (*map(values, (model.trainable_variables, model.non_trainable_variables)), values(optimizer.variables))

    def train() -> Any:
        nonlocal state
        state, value = train_step(state, x, y)
        return value[None]

    return train, lambda: predict_step(*weights, x)


def _keras_steps(model: Any, x: Any, y: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Steps as `fit` and `predict` run them."""
    import numpy as np

    model.compile(*_optimizer_and_loss())
    return lambda: np.atleast_1d(model.train_on_batch(x, y)), lambda: model.predict_on_batch(x)


def torch_measures(network: str, module: str, batch: int, size: int, steps: int, side: int) -> Measures:
    """The network that `create_model` of `module` makes: torch.compile, channels_last, automatic mixed precision."""
    import torch

    torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout: Any = {"device": device, "memory_format": torch.channels_last}
    create = importlib.import_module(module).create_model
    training, inference = create(network).to(**layout).train(), create(network).to(**layout).eval()
    trained, predicted = torch.compile(training), torch.compile(inference)
    optimizer = torch.optim.SGD(training.parameters(), 0.01, momentum=0.9, fused=device == "cuda")
    x = torch.randn(batch, 3, size, size).to(**layout)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in "ab")
    y = torch.arange(batch, device=device) % 1000

    def train() -> Any:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(trained(x), y)
        loss.backward()
        optimizer.step()
        return loss[None]

    def predict() -> Any:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            return predicted(x)

    def repeated(step: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: [step() for _ in range(steps)][-1][0].detach().cpu()

    return {TRAIN: repeated(train), INFERENCE: repeated(predict), PRODUCT: repeated(lambda: a @ b)}
