"""Reference values: the rule that generates weights, inputs and losses from names, the stored arrays, and distances.

See golden/README.md. Nothing here is computed by the package, except what `train_step` runs for comparison.
"""

import dataclasses
import fnmatch
import functools
import json
import math
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_resnets as kr
from keras_resnets.layers.merge_and_run import MergeAndRun

FOLDER = pathlib.Path(__file__).parent / "golden"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
ENTRIES = {row["id"]: row for row in MANIFEST["entries"]}
OPS = {row["id"]: row for row in MANIFEST["ops"]}


def _work(row: dict[str, Any]) -> float:
    """Multiply-accumulates of the entry's batch, in billions, up to rounding of its maps."""
    gmacs = row["gmacs"]
    return gmacs["conv_linear"] / math.prod(gmacs["resolution"]) * row["B"] * row["H"] * row["W"]


# Of these families every layer is another family's.
NOTHING_OF_THEIR_OWN = ("PreResNet-CIFAR", "ResNet-aa", "ResNet-RS", "ResNeXt-CIFAR", "WideResNet")
# What the short run compares: of every other family the entry that is least work.
LEAST_OF_FAMILY = {
    row["family"]: row["id"]
    for row in sorted(ENTRIES.values(), key=_work, reverse=True)
    if row["family"] not in NOTHING_OF_THEIR_OWN
}.values()


def generator(key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))


def weight(name: str, shape: tuple[int, ...], key: str | None = None) -> np.ndarray:
    """The value of a parameter or running statistic by its name in PyTorch or MXNet, in the PyTorch shape.

    The factors are Python floats, so that products are formed in single precision.
    """
    z = generator(key or name).standard_normal(shape, dtype=np.float32)
    if name.endswith(("running_mean", "moving_mean")):
        value = 0.1 * z
    elif name.endswith(("running_var", "moving_var")):
        value = 1 + 0.1 * np.abs(z)
    elif len(shape) >= 3:
        value = z * math.sqrt(2 / int(np.prod(shape[1:])))
    elif len(shape) == 2:
        value = z * math.sqrt(1 / shape[1])
    elif name.endswith(("weight", "gamma")):
        value = 1 + 0.1 * z
    else:
        value = 0.1 * z
    return value.astype(np.float32)


def distance(value: Any, reference: np.ndarray) -> float:
    """The largest difference, relative to the reference's largest magnitude."""
    return float(np.abs(np.asarray(value, np.float64) - reference).max() / np.abs(reference).max())


def largest_relative(value: np.ndarray, reference: np.ndarray, floor: float = 0.0) -> float:
    """The largest relative difference of single values; references count as at least `floor`."""
    return float((np.abs(value - reference) / np.maximum(np.abs(reference), floor)).max())


# Entries that are not called like a network of the package: its name and options.
BUILT_AS: dict[str, tuple[str, dict[str, Any]]] = {
    "inception_v3_aux": ("inception_v3", {"aux_logits": True}),
    "tv_inception_v3_aux": ("inception_v3", {"aux_logits": True}),
}


@dataclasses.dataclass(frozen=True)
class Golden:
    """One entry: its row of the manifest and its arrays."""

    row: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def network(self) -> str:
        return self._built_as[0]

    @property
    def options(self) -> dict[str, Any]:
        return self._built_as[1]

    @property
    def _built_as(self) -> tuple[str, dict[str, Any]]:
        return BUILT_AS.get(self.row["id"], (self.row["id"].split("@")[0], {}))

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the state dictionary by name, in its order, without the batch counters."""
        texts = zip(self.arrays["sd_names"], self.arrays["sd_shapes"], strict=True)
        shapes = {str(name): tuple(int(size) for size in text.split(",") if size) for name, text in texts}
        return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}

    def state(self) -> dict[str, np.ndarray]:
        return {name: weight(name, shape) for name, shape in self.shapes.items()}

    @property
    def calibrated(self) -> bool:
        """Whether inference mode has running statistics of its own: with those of the rule the activations overflow."""
        return "cal_stat_values" in self.arrays

    @property
    def inference(self) -> dict[str, np.ndarray]:
        """What is stored of inference mode: logits and features."""
        prefix = "evalcal_" if self.calibrated else "eval_"
        stored = {name: array for name, array in self.arrays.items() if name.startswith(("feat_", prefix))}
        return {name.removeprefix(prefix): array for name, array in stored.items()}

    def calibrated_state(self) -> dict[str, np.ndarray]:
        """The rule's weights with the running statistics that inference mode was stored for."""
        names = [str(name) for name in self.arrays["cal_stat_names"]]
        ends = np.cumsum([math.prod(self.shapes[name]) for name in names])
        values = zip(names, np.split(self.arrays["cal_stat_values"], ends[:-1]), strict=True)
        return {**self.state(), **{name: value.reshape(self.shapes[name]) for name, value in values}}

    def input(self, dtype: str) -> np.ndarray:
        shape = (self.row["B"], self.row["H"], self.row["W"], 3)
        return generator(f"input:{self.row['id']}").standard_normal(shape, dtype=np.float32).astype(dtype)

    def loss_weights(self, dtype: str) -> np.ndarray:
        """The loss is `sum(logits * loss_weights)`, with auxiliary logits beside the others, which count 0.4."""
        shape, factors = (self.row["B"], self.row["classes"]), {"loss": 1.0}
        if "train_aux_logits" in self.arrays:
            factors["loss_aux"] = 0.4
        weights = [
            factor * generator(f"{key}:{self.row['id']}").standard_normal(shape, dtype=np.float32).astype(dtype)
            for key, factor in factors.items()
        ]
        return np.concatenate(weights, axis=-1) / self.row["B"]

    def build(self, **options: Any) -> kr.assembly.Network:
        """The network in logits form on the entry's input size, with the rule's weights and, as the entries are, without
        dropout."""
        shape = (self.row["H"], self.row["W"], 3)
        options = {"dropout_rate": 0.0, **self.options, **options}
        model = kr.create_model(self.network, classifier_activation=None, input_shape=shape, **options)
        kr.load_pytorch_weights(model, self.state())
        return model


def with_rule_weights(name: str, **options: Any) -> kr.assembly.Network:
    """A network in logits form with the rule's weights: every variable matters."""
    model = kr.create_model(name, classifier_activation=None, **options)
    parameters = kr.pytorch_parameters(model).items()
    shapes = {key: to_torch(np.broadcast_to(np.float32(0), v.shape)).shape for key, (v, to_torch) in parameters}
    kr.load_pytorch_weights(model, {key: weight(key, shape) for key, shape in shapes.items()})
    return model


def load(entry: str) -> Golden:
    with np.load(FOLDER / f"{entry}.npz") as arrays:
        return Golden(ENTRIES[entry], dict(arrays))


def limits(row: dict[str, Any], dtype: str) -> dict[str, float]:
    """The recommended limits by kind of quantity: rounding of the reference times 20, but at least a floor.

    Running statistics come out of the training-mode forward pass and share its limit in single precision.
    """
    if dtype == "float64":
        return {"eval": 1e-8, "train": 1e-6, "grad": 1e-5, "stats": 1e-6}
    # Where a ReLU's input changes its sign by rounding is luck: the noise of a network is the largest among its entries.
    same = [other["noise_floor"] for name, other in ENTRIES.items() if name.split("@")[0] == row["id"].split("@")[0]]
    noise = {kind: max(floor[kind] for floor in same) for kind in ("train", "grad")}
    noise["eval"] = max(floor["evalcal" if "evalcal" in floor else "eval"] for floor in same)
    train = max(1e-4, 20 * noise["train"])
    return {
        "eval": max(2e-5, 20 * noise["eval"]),
        "train": train,
        "grad": max(1e-3, 20 * noise["grad"]),
        "stats": train,
    }


def _all_logits(model: keras.Model) -> Any:
    """The symbolic logits, with auxiliary ones beside them."""
    output = model.output
    if isinstance(output, dict):
        return keras.ops.concatenate([output["logits"], output["aux_logits"]], axis=-1)
    return output


def _logits_distances(mode: str, logits: np.ndarray, golden: Golden, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Of logits and auxiliary logits, where both exist (torchvision has no auxiliary ones in inference)."""
    classes = golden.row["classes"]
    parts = {"logits": logits[:, :classes], "aux_logits": logits[:, classes:]}
    stored = {name: arrays.get(f"{name}_f64") for name in parts}
    return {f"{mode}: {name}": distance(parts[name], array) for name, array in stored.items() if array is not None}


def eval_distances(golden: Golden, model: keras.Model, dtype: str) -> dict[str, float]:
    """Distances of inference-mode logits, and of what is stored of stage features (mean, deviation, first and last values)."""
    arrays = golden.inference
    if golden.calibrated:
        kr.load_pytorch_weights(model, golden.calibrated_state())
    names = [str(name) for name in arrays["feat_names"]]
    taps = keras.Model(model.input, [*(_feature_tensor(model, name) for name in names), _all_logits(model)])
    *features, logits = (keras.ops.convert_to_numpy(y) for y in taps(golden.input(dtype), training=False))
    distances = {}
    for i, (name, feature) in enumerate(zip(names, features, strict=True)):
        assert feature.shape == tuple(arrays["feat_shapes"][i]), name
        feature = feature.astype(np.float64)
        mine = np.r_[feature.mean(), feature.std(), feature.ravel()[:32], feature.ravel()[-32:]]
        stored = np.r_[tuple(arrays[f"feat_{kind}"][i] for kind in ("mean", "std", "first32", "last32"))]
        distances[f"eval: feature {name}"] = distance(mine, stored)
    if golden.calibrated:
        kr.load_pytorch_weights(model, golden.state())
    return distances | _logits_distances("eval", logits, golden, arrays)


# The layer whose output the reference taps under a name, and which of several: timm taps pre-activation networks at the bare
# stem, the raw sums of the stages and the last norm.
_FEATURE_LAYERS: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"act1", lambda m: "C1"),
    (r"(?:layer|stage_)(\d)", lambda m: f"stage{m[1]}_block*"),
    (r"stages\.(\d)", lambda m: f"stage{int(m[1]) + 1}_block*"),
    (r"stem|stem\.conv3?|conv1|g0_relu", lambda m: "stem"),
    (r"g0_pool", lambda m: "stem_pool"),
    (r"g(\d)_b(\d+)_relu:?[12lr]?", lambda m: f"stage{m[1]}_block{m[2]}"),
    (r"features\.conv1_1", lambda m: "C1"),
    (r"Conv2d_(\d).+", lambda m: "C1" if m[1] == "2" else "C2"),
    (r"Mixed_(\d).", lambda m: f"C{int(m[1]) - 2}"),
    (r"features\.norm0", lambda m: "C1"),
    (r"features\.norm5", lambda m: "C5"),
    (r"features\.denseblock(\d)|dense([12])", lambda m: f"C{int(m[1] or m[2]) + 1}"),
    (r"trans(\d)", lambda m: f"stage{m[1]}_transition"),
    (r"features\.conv(\d)_(\d+)", lambda m: f"stage{int(m[1]) - 1}_block{m[2]}"),
]


def _feature_tensor(model: keras.Model, name: str) -> Any:
    """The symbolic output of what the reference calls `name`."""
    name = name.removeprefix("backbone.")
    if name in ("norm", "relu"):
        return model.get_layer("avg_pool").input
    if name == "dense3":
        return model.get_layer("norm").input
    if name in ("bn1", "bn_1"):  # CIFAR stems are tapped before their ReLU
        stem = model.get_layer("stem")
        return stem.norm(stem.conv(model.input))
    if name.startswith("base."):  # HarDNet's flat list
        path = kr.pytorch_parameters(model)[f"{name}.conv.weight"][0].path
        return model.get_layer(path.split("/")[0]).output
    for pattern, layer in _FEATURE_LAYERS:
        if match := re.fullmatch(pattern, name):
            tapped = [other for other in model.layers if fnmatch.fnmatch(other.name, layer(match))][-1]
            return _stream(tapped, name) if isinstance(tapped, MergeAndRun) else tapped.output
    raise ValueError(f"no layer is known for the feature {name!r} of the reference")


def _stream(block: MergeAndRun, name: str) -> Any:
    """The first or the second of two streams, as the end of the feature's name says."""
    return block.output if block.join else block.output[name[-1] in "2r"]


def train_distances(golden: Golden, model: keras.Model, dtype: str) -> dict[str, float]:
    """Distances of training-mode logits, gradient norms and the running statistics that one pass leaves behind.

    Changes the model's running statistics.
    """
    arrays, parameters = golden.arrays, kr.pytorch_parameters(model)
    whole = model if len(model.outputs) == 1 else keras.Model(model.input, _all_logits(model))
    step = train_step(whole, golden.input(dtype), golden.loss_weights(dtype))
    stored = {name.removeprefix("train_"): array for name, array in arrays.items() if name.startswith("train_")}

    def norms(names: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
        return np.array([np.linalg.norm(values[parameters[str(name)][0].path].astype(np.float64)) for name in names])

    gradients = norms(arrays["param_names"], step.gradients)
    input_gradient = np.linalg.norm(step.input_gradient.astype(np.float64))
    statistics = norms(arrays["stat_names"], step.after)
    return _logits_distances("train", step.logits, golden, stored) | {
        "grad: parameters": distance(gradients, arrays["grad_norms_f64"]),
        "grad: input": distance(input_gradient, arrays["input_grad_norm_f64"]),
        "stats: after training": largest_relative(statistics, arrays["stat_norms_after_train_f64"]),
    }


def assert_within(distances: dict[str, float], limits: dict[str, float]) -> None:
    """Fails with every distance and its limit, in the order of computation: the first one too large tells the stage."""
    rows = [(name, value, limits[name.split(":")[0]]) for name, value in distances.items()]
    # Written so that NaN is too large.
    report = [
        f"{name} {value:.1e} {'within' if value <= limit else 'EXCEEDS'} {limit:.1e}" for name, value, limit in rows
    ]
    assert all(value <= limit for _, value, limit in rows), "\n".join(report)


@dataclasses.dataclass(frozen=True)
class Step:
    """One training-mode pass: logits, gradients of the loss by variable path and for the input, and the variables' values
    that the pass leaves behind by path."""

    logits: np.ndarray
    gradients: dict[str, np.ndarray]
    input_gradient: np.ndarray
    after: dict[str, np.ndarray]


def train_step(model: keras.Model, x: np.ndarray, loss_weights: np.ndarray) -> Step:
    """Gradients of `sum(output * loss_weights)` in training mode, by whichever means the backend has."""
    backend = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}[keras.backend.backend()]
    logits, gradients, input_gradient, after = backend(model, x, loss_weights)
    arrays = [keras.ops.convert_to_numpy(gradient) for gradient in gradients]
    paths = [variable.path for variable in model.trainable_variables]
    return Step(
        logits=keras.ops.convert_to_numpy(logits),
        gradients=dict(zip(paths, arrays, strict=True)),
        input_gradient=keras.ops.convert_to_numpy(input_gradient),
        after={
            v.path: keras.ops.convert_to_numpy(a) for v, a in zip(model.non_trainable_variables, after, strict=True)
        },
    )


def _tensorflow_step(model: keras.Model, x: np.ndarray, loss_weights: np.ndarray) -> Any:
    import tensorflow as tf

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = model(x, training=True)
            loss = tf.reduce_sum(logits * loss_weights)
        return logits, tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])

    logits, (input_gradient, *gradients) = step(tf.convert_to_tensor(x))
    return logits, gradients, input_gradient, [v.value for v in model.non_trainable_variables]


def _jax_step(model: keras.Model, x: np.ndarray, loss_weights: np.ndarray) -> Any:
    import jax

    constant = [v.value for v in model.non_trainable_variables]

    def loss(x: Any, trainable: Any) -> Any:
        logits, after = model.stateless_call(trainable, constant, x, training=True)
        return (logits * loss_weights).sum(), (logits, after)

    trainable = [v.value for v in model.trainable_variables]
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (input_gradient, gradients), (logits, after) = gradient(x, trainable)
    return logits, gradients, input_gradient, after


def _torch_step(model: keras.Model, x: np.ndarray, loss_weights: np.ndarray) -> Any:
    import torch

    inputs = torch.tensor(x, requires_grad=True)
    logits = model(inputs, training=True)
    (logits * torch.tensor(loss_weights)).sum().backward()
    gradients = [v.value.grad for v in model.trainable_variables]
    return logits.detach(), gradients, inputs.grad, [v.value for v in model.non_trainable_variables]
