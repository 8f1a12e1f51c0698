"""DenseNet: what the paper says about sizes, dropout, recomputation against the plain form, mistakes, exports."""

import collections
import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import reference
from test_backends import other_backends, run_tests

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.layers import BatchNorm, Conv2D, ScaleShift
from keras_resnets.models.densenet import DenseLayer, DenseTransition

NORM = {"epsilon": 1e-5, "momentum": 0.9}
SMALL: dict[str, Any] = {"depths": (1, 2, 1, 2), "growth_rate": 8, "classes": 10, "input_shape": (64, 64, 3)}


# By name: layers with weights, as the paper counts them (densenet264 has one more than its name says), and channels of the
# levels from C1 on.
STRUCTURE = {
    "densenet121": (121, (64, 256, 512, 1024, 1024)),
    "densenet169": (169, (64, 256, 512, 1280, 1664)),
    "densenet201": (201, (64, 256, 512, 1792, 1920)),
    "densenet264": (265, (64, 256, 512, 2304, 2688)),
    "densenet161": (161, (96, 384, 768, 2112, 2208)),
    "densenet40_k12_cifar": (40, (16, 160, 304, 448)),
    "densenet100bc_k12_cifar": (100, (24, 216, 300, 342)),
    "densenet190bc_k40_cifar": (190, (80, 1320, 1900, 2190)),
    "densenet250bc_k24_cifar": (250, (48, 1032, 1500, 1734)),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_layers_and_widths(name: str) -> None:
    layers, channels = STRUCTURE[name]
    with without_values():
        model = kr.create_model(name)
    assert sum(isinstance(layer, (Conv2D, keras.layers.Dense)) for layer in model._flatten_layers()) == layers
    levels = [model.get_layer(f"C{i}").output.shape for i in range(1, len(channels) + 1)]
    assert tuple(shape[-1] for shape in levels) == channels
    sizes = (32, 32, 16, 8) if "cifar" in name else (112, 56, 28, 14, 7)
    assert tuple(shape[1] for shape in levels) == sizes


def test_stem_of_the_released_code() -> None:
    """Twice the growth rate in basic networks too: 1,059,298 parameters instead of the paper's 1,019,722."""
    with without_values():
        model = kr.create_model("densenet40_k12_cifar", stem_width=0)
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == 1059298


def test_dense_layer() -> None:
    """The formula of the paper, in training mode, and the input in front of the new maps."""
    x = np.random.default_rng(0).normal(size=(3, 5, 6, 4)).astype("float32")
    layer = DenseLayer(2, norm=NORM)
    appended, new = (keras.ops.convert_to_numpy(y) for y in layer(x, training=True))
    active = np.maximum((x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), 0)
    padded = np.pad(active, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)]
    kernel = keras.ops.convert_to_numpy(layer.conv.kernel).reshape(9, 4, 2)
    expected = sum(window @ tap for window, tap in zip(windows, kernel, strict=True))
    np.testing.assert_allclose(new, expected, atol=1e-5)
    np.testing.assert_array_equal(appended, np.concatenate([x, new], axis=-1))
    assert layer.compute_output_shape((None, 5, 6, 4)) == ((None, 5, 6, 6), (None, 5, 6, 2))


def with_and_without_dropout(make: Any, x: np.ndarray) -> Any:
    """A layer with dropout at rate 0.5, the same layer without, and their outputs in training."""
    plain, dropping = make(dropout=0.0), make(dropout=0.5)
    for layer in (plain, dropping):
        layer.build(x.shape)
    for ours, theirs in zip(dropping.trainable_variables, plain.trainable_variables, strict=True):
        ours.assign(theirs)
    return dropping, plain, dropping(x, training=True), plain(x, training=True)


def test_dropout_in_dense_layers() -> None:
    """Of the outputs of both convolutions half are zero and the others doubled."""
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 6)).astype("float32")
    make = lambda dropout: DenseLayer(16, norm=NORM, dropout=dropout)  # noqa: E731
    _, _, (_, dropped), (_, kept) = with_and_without_dropout(make, x)
    dropped, kept = map(keras.ops.convert_to_numpy, (dropped, kept))
    zero = dropped == 0
    assert zero.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(dropped[~zero], 2 * kept[~zero], rtol=1e-5)

    make = lambda dropout: DenseLayer(16, 8, norm=NORM, dropout=dropout)  # noqa: E731
    dropping, plain, *_ = with_and_without_dropout(make, x)
    means, variances = ([norm.moving_mean * 10, (norm.moving_variance - 0.9) * 10] for norm in
                        (dropping.bottleneck.norm, plain.bottleneck.norm))  # fmt: skip
    # What enters the second normalisation: E[d²] - E[d]² with E[d²] = 2 E[u²] and E[d] = E[u].
    np.testing.assert_allclose(means[0], variances[0], atol=0.2)
    np.testing.assert_allclose(means[1], 2 * variances[1] + variances[0] ** 2, rtol=0.1)


def test_dropout_in_transitions() -> None:
    """It comes before the pool: every output is the mean of four values, each of them zero or doubled."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype("float32")
    _, plain, dropped, _ = with_and_without_dropout(lambda dropout: DenseTransition(5, norm=NORM, dropout=dropout), x)
    active = np.maximum((x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), 0)
    values = active @ keras.ops.convert_to_numpy(plain.conv.kernel)[0, 0]
    four = np.stack([values[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    subsets = np.array([[2 * (mask >> i & 1) for i in range(4)] for mask in range(16)]) / 4
    sums = np.einsum("sf,fbhwc->sbhwc", subsets, four)
    chosen = np.abs(sums - keras.ops.convert_to_numpy(dropped)).argmin(axis=0)
    np.testing.assert_allclose(np.take_along_axis(sums, chosen[None], 0)[0], dropped, atol=1e-5)
    assert len(np.unique(chosen)) > 8


# Networks to compare in both forms.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "imagenet": ("densenet121", SMALL),
    "basic": ("densenet40_k12_cifar", {"depths": (1, 2, 1)}),
    "bottleneck": ("densenet100bc_k12_cifar", {"depths": (2, 1, 2), "compression": 1.0}),
    "dropout": ("densenet100bc_k12_cifar", {"depths": (2, 1, 2), "conv_dropout_rate": 0.2, "dropout_rate": 0.1}),
}


def both_forms(key: str, **options: Any) -> list[keras.Model]:
    """A network as it is and in its memory-efficient form, with the same weights and random seeds."""
    name, given = FORMS[key]
    models = []
    for memory_efficient in (False, True):
        keras.utils.set_random_seed(1)
        models.append(kr.create_model(name, memory_efficient=memory_efficient, **{**given, **options}))
    plain, efficient = ([(v.path, v.shape) for v in model.trainable_variables] for model in models)
    assert plain == efficient
    return models


def images(model: keras.Model, count: int = 4) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("key", FORMS)
def test_memory_efficient_gradients_and_statistics(key: str) -> None:
    """Those of the plain form; dropout draws the same masks."""
    models = both_forms(key, classifier_activation=None)
    x = images(models[0])
    loss_weights = np.random.default_rng(4).normal(size=(4, 10)).astype("float32")
    steps = []
    for model in models:
        keras.utils.set_random_seed(5)  # dropout on PyTorch draws from the global generator
        steps.append(reference.train_step(model, x, loss_weights))
    plain, efficient = steps
    assert reference.distance(efficient.logits, plain.logits) < 1e-5
    assert reference.distance(efficient.input_gradient, plain.input_gradient) < 1e-4
    largest = max(np.abs(gradient).max() for gradient in plain.gradients.values())
    for path, gradient in plain.gradients.items():
        np.testing.assert_allclose(efficient.gradients[path], gradient, rtol=1e-4, atol=1e-5 * largest, err_msg=path)
    for ours, theirs in zip(efficient.after.values(), plain.after.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "key, policy, arguments",
    [
        ("imagenet", "float32", {}),
        ("dropout", "float32", {}),
        ("bottleneck", "float32", {"run_eagerly": True}),
        pytest.param("bottleneck", "float32", {"jit_compile": True}, marks=pytest.mark.slow),
        ("bottleneck", "mixed_float16", {}),
        pytest.param("bottleneck", "mixed_bfloat16", {}, marks=pytest.mark.slow),
    ],
)
def test_memory_efficient_training(key: str, policy: str, arguments: dict[str, Any]) -> None:
    """After one and after two steps of `fit`: the same loss, weights and statistics."""
    keras.config.set_dtype_policy(policy)
    models = both_forms(key)
    x = images(models[0])
    for model in models:
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", **arguments)
    for _ in range(2):
        losses = []
        for model in models:
            keras.utils.set_random_seed(5)
            losses.append(model.fit(x, np.arange(4), batch_size=4, verbose=0).history["loss"])
        np.testing.assert_allclose(*losses, rtol=1e-5)
        for ours, theirs in zip(models[1].weights, models[0].weights, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=theirs.path)


@pytest.mark.slow
@other_backends
def test_memory_efficient_elsewhere(backend: str) -> None:
    output = run_tests(backend, f"{__file__}::test_memory_efficient_gradients_and_statistics")
    assert f"{len(FORMS)} passed" in output


MIRRORED = """
import keras, numpy as np, tensorflow as tf
import keras_resnets as kr

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
for synchronized in (False, True):
    weights = []
    for memory_efficient in (False, True):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = kr.create_model("densenet100bc_k12_cifar", depths=(2, 1, 2), bn_synchronized=synchronized,
                                    memory_efficient=memory_efficient)
            model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        model.fit(x, np.arange(8), batch_size=8, epochs=2, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
print("as expected")
"""


@pytest.mark.slow
def test_memory_efficient_on_two_replicas() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MIRRORED],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "as expected"


on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs TensorFlow as backend")


def operators(model: keras.Model, training: bool) -> collections.Counter:
    """How many there are of each, in the graph of a pass through `model`; in training with the gradients."""
    import tensorflow as tf

    @tf.function
    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            y = model(x, training=training)
        return tape.gradient(y, [v.value for v in model.trainable_variables]) if training else y

    graph = run.get_concrete_function(tf.TensorSpec((4, *model.input_shape[1:]))).graph
    return collections.Counter(operator.type for operator in graph.get_operations())


@on_tensorflow
def test_what_is_computed_again() -> None:
    """Both normalisations of the five dense layers and those of the two transitions, in training only."""
    plain, efficient = both_forms("bottleneck")
    norms = [operators(model, True)["FusedBatchNormV3"] for model in (plain, efficient)]
    assert norms == [2 * 5 + 2 + 1, 2 * (2 * 5 + 2) + 1]
    for kind in ("FusedBatchNormV3", "Conv2D", "Relu", "ConcatV2"):
        assert operators(plain, False)[kind] == operators(efficient, False)[kind] > 0


@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_networks_in_the_memory_efficient_form(trainable: bool) -> None:
    """Frozen normalisations use and keep their statistics; gradients flow through them all the same."""
    models = both_forms("bottleneck", classifier_activation=None)
    x = images(models[0])
    for model in models:
        model.get_layer("stage1_block2").trainable = trainable
    before = models[0].get_layer("stage1_block2").get_weights()
    plain, efficient = (reference.train_step(model, x, np.ones((4, 10), "float32")) for model in models)
    assert plain.gradients.keys() == efficient.gradients.keys()
    assert reference.distance(efficient.input_gradient, plain.input_gradient) < 1e-5
    unchanged = [np.array_equal(*pair) for pair in zip(before, models[1].get_layer("stage1_block2").get_weights(),
                                                        strict=True)]  # fmt: skip
    assert all(unchanged) != trainable


BAD_OPTIONS = [
    ("densenet121", {"growth_rate": 0}, "growth_rate must be a whole number above 0, not 0"),
    ("densenet121", {"growth_rate": 12.5}, "growth_rate must be a whole number above 0, not 12.5"),
    ("densenet121", {"depths": (6, 12, 24)}, "depths must be 4 whole numbers above 0, not \\(6, 12, 24\\)"),
    ("densenet121", {"depths": (6, 12, 0, 16)}, "depths must be 4 whole numbers above 0"),
    ("densenet100bc_k12_cifar", {"depths": (16, 16, 16, 16)}, "depths must be 3 whole numbers above 0"),
    ("densenet121", {"bn_size": -1}, "bn_size must be a whole number, 0 or above, not -1"),
    ("densenet121", {"compression": 0}, "compression must be above 0 and at most 1, not 0"),
    ("densenet121", {"compression": 1.5}, "compression must be above 0 and at most 1, not 1.5"),
    ("densenet121", {"compression": 0.001}, "compression=0.001 leaves none of the 256 channels"),
    ("densenet121", {"compression": "half"}, "compression must be a number, not 'half'"),
    ("densenet40_k12_cifar", {"conv_dropout_rate": 1}, "conv_dropout_rate must be at least 0 and below 1, not 1"),
    ("densenet40_k12_cifar", {"stem_width": -16}, "stem_width must be a whole number, 0 or above, not -16"),
    ("densenet121", {"memory_efficient": 1}, "memory_efficient must be True or False, not 1"),
    ("densenet121", {"drop_path_rate": 0.1}, "drop_path_rate must be 0.0: a DenseNet has no residual branches"),
    ("densenet40_k12_cifar", {"zero_gamma": True}, "zero_gamma must be False: a DenseNet has no residual branches"),
    ("densenet121", {"growthrate": 32}, "unknown option 'growthrate': did you mean 'growth_rate'"),
    ("densenet121", {"input_shape": (31, 64, 3)}, "at least 32 x 32 pixels, not \\(31, 64, 3\\)"),
    ("densenet40_k12_cifar", {"input_shape": (3, 32, 3)}, "at least 4 x 4 pixels, not \\(3, 32, 3\\)"),
]


@pytest.mark.parametrize("name, options, message", BAD_OPTIONS)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kr.create_model(name, **options)


@pytest.mark.parametrize("name, size", [("densenet121", 32), ("densenet40_k12_cifar", 4)])
def test_smallest_image(name: str, size: int) -> None:
    with without_values():
        model = kr.create_model(name, input_shape=(size, size, 3))
    assert model.get_layer("norm").output.shape[1:3] == (1, 1)


@pytest.mark.parametrize("compression, channels, kept", [(0.29, 100, 29), (0.5, 255, 127), (1.0, 7, 7), (0.7, 10, 7)])
def test_compression_rounds_down_exactly(compression: float, channels: int, kept: int) -> None:
    spec = kr.registry.find("densenet121").spec.replace({"compression": compression})
    assert spec.compressed(channels) == kept


@pytest.mark.parametrize("key", ["imagenet", "dropout"])
def test_saving(key: str, tmp_path: pathlib.Path) -> None:
    """The memory-efficient form comes back as such, and weights go from form to form."""
    plain, efficient = both_forms(key)
    x = images(plain)
    efficient.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), efficient.predict(x, verbose=0))
    assert loaded.get_layer("stage2_block1").memory_efficient
    plain.save_weights(tmp_path / "net.weights.h5")
    other = kr.create_model(FORMS[key][0], memory_efficient=True, **FORMS[key][1])
    other.load_weights(tmp_path / "net.weights.h5")
    np.testing.assert_allclose(other.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", ["imagenet", "basic", "bottleneck", "dropout"])
def test_fuse(key: str) -> None:
    """What has a convolution before it is folded, the stem's normalisation and the second of every dense layer; the others
    become a scale and an offset."""
    for model in both_forms(key):
        for norm in model._flatten_layers():
            if isinstance(norm, BatchNorm):
                norm.moving_variance.assign(norm.moving_variance * 1.5 + 0.2)
        x = images(model)
        fused = kr.fuse(model)
        np.testing.assert_allclose(fused(x), model(x), rtol=1e-4, atol=1e-5)
        norms, none, scales = (
            sum(isinstance(layer, kind) for layer in net._flatten_layers())
            for net, kind in ((model, BatchNorm), (fused, BatchNorm), (fused, ScaleShift))
        )
        assert none == 0 and norms - scales == {"imagenet": 1 + 6, "basic": 0, "bottleneck": 5, "dropout": 5}[key]


@on_tensorflow
def test_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = kr.create_model("densenet121", memory_efficient=True, **SMALL)
    assert model.get_layer("C5").output.dtype == "bfloat16" and model.output.dtype == "float32"
    assert {v.dtype for v in model.variables} == {"float32"}


def test_parts_take_over_the_precision() -> None:
    for layer in (DenseLayer(4, 8, norm=NORM, dropout=0.1, dtype="mixed_bfloat16"),
                  DenseTransition(4, norm=NORM, dropout=0.1, dtype="mixed_bfloat16")):  # fmt: skip
        outputs = keras.tree.flatten(layer(np.ones((1, 4, 4, 3), "float32"), training=True))
        assert {keras.backend.standardize_dtype(y.dtype) for y in outputs} == {"bfloat16"}
        assert layer.relu.compute_dtype == layer.dropout.compute_dtype == "bfloat16"
