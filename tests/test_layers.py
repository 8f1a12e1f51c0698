"""Layers beyond the reference's cases: drop-in use, configuration, statistics, distribution."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnets import layers
from keras_resnets.layers.residual import PadShortcut

NORM = {"epsilon": 1e-5, "momentum": 0.9}
SPLIT = {"split_input": True, "groups": 4}
DYNAMIC = {"group_channels": 8, "reduction_gsi": 2, "kernel_norm": "filter_norm", "gsi_identity": True}
CARDINALITY_MAJOR = {"radix": 4, "cardinality": 2, "layout": "cardinality_major", "drop_block": {"rate": 0.1}}

BRANCHES = {"b": [(4, (1, 7)), {"a": [(2, 1)], "b": [(2, 3)]}], "a": ["avg", (8, 3, 1, "same")]}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# A layer, and the shape of its output for (2, 9, 12, 16).
EVERY_LAYER = [
    (lambda: layers.Conv2D(8, 3, 2, "symmetric", name="x"), (2, 5, 6, 8)),
    (lambda: layers.Conv2D(8, 3, 2, "same", dilation_rate=(2, 2), groups=4, activation="relu", name="x"), (2, 5, 6, 8)),
    (lambda: layers.Conv2D(8, (5, 3), padding=((2, 1), (0, 1)), use_bias=False, name="x"), (2, 8, 11, 8)),
    (lambda: layers.ConvNorm(8, 3, 2, norm=NORM, groups=4, dilation=2, activation="relu", name="x"), (2, 5, 6, 8)),
    (lambda: layers.ConvNorm(8, 3, norm={**NORM, "folded": True}, name="x"), (2, 9, 12, 8)),
    (lambda: layers.BatchNorm(1e-3, 0.95, zero_gamma=True, name="x"), (2, 9, 12, 16)),
    (lambda: layers.NormAct(NORM, name="x"), (2, 9, 12, 16)),
    (lambda: layers.ScaleShift(name="x"), (2, 9, 12, 16)),
    (lambda: layers.MaxPool2D(3, 2, 1, ceil_mode=True, name="x"), (2, 5, 7, 16)),
    (lambda: layers.AvgPool2D((2, 3), 2, (0, 1), count_include_pad=False, name="x"), (2, 4, 6, 16)),
    (lambda: layers.BlurPool2D(5, 2, name="x"), (2, 5, 6, 16)),
    (lambda: layers.SqueezeExcitation(4, name="x"), (2, 9, 12, 16)),
    (lambda: layers.EfficientChannelAttention(5, name="x"), (2, 9, 12, 16)),
    (lambda: layers.SelectiveKernel(8, 4, norm=NORM, strides=2, paths=4, **SPLIT, name="x"), (2, 5, 6, 8)),
    (lambda: layers.SplitAttention(8, norm=NORM, strides=2, radix=2, cardinality=4, name="x"), (2, 5, 6, 8)),
    (lambda: layers.SplitAttention(8, norm=NORM, dilation=2, **CARDINALITY_MAJOR, name="x"), (2, 9, 12, 8)),
    (lambda: layers.DualComplementaryDynamicConvolution(3, 5, 2, norm=NORM, **DYNAMIC, name="x"), (2, 5, 6, 16)),
    (lambda: layers.Involution(5, 2, norm=NORM, group_channels=4, name="x"), (2, 5, 6, 16)),
    (lambda: layers.Involution(3, norm=NORM, groups=2, reduction=2, dilation=2, name="x"), (2, 9, 12, 16)),
    (lambda: layers.InceptionModule(BRANCHES, norm=NORM, count_include_pad=False, name="x"), (2, 9, 12, 12)),
    (lambda: layers.StochasticDepth(0.2, seed=3, name="x"), (2, 9, 12, 16)),
    (lambda: layers.DropBlock(0.1, 3, 0.5, shared_channels=True, seed=3, name="x"), (2, 9, 12, 16)),
    (lambda: layers.Dropout(0.1, seed=3, name="x"), (2, 9, 12, 16)),
    (lambda: layers.DropBlock(0.1, 3, shared_batch=True, rescale_channels=True, name="x"), (2, 9, 12, 16)),
    (lambda: PadShortcut(24, 2, name="x"), (2, 5, 6, 24)),
]
IDS = [f"{make().__class__.__name__}{i}" for i, (make, _) in enumerate(EVERY_LAYER)]


@pytest.mark.parametrize("make, shape", EVERY_LAYER, ids=IDS)
def test_configuration_and_shape(make: Any, shape: tuple[int, ...]) -> None:
    """A layer from the JSON of its configuration, with the weights of the original, gives the same output."""
    x, layer = images(2, 9, 12, 16), make()
    assert layer.compute_output_shape((None, 9, 12, 16)) == (None, *shape[1:])
    out = keras.ops.convert_to_numpy(layer(x))
    assert out.shape == shape

    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert json.loads(text)["registered_name"] == f"keras_resnets>{type(layer).__name__}"
    if not again.built:
        again.build((None, 9, 12, 16))
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(x)), out)


def test_every_public_layer_is_checked() -> None:
    checked = {type(make()).__name__ for make, _ in EVERY_LAYER}
    assert set(layers.__all__) - {"Composite"} <= checked  # Composite is abstract


@pytest.mark.parametrize("size", [(9, 12), (10, 7)])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": "same", "strides": 2, "activation": "relu"},
        {"kernel_size": (5, 2), "padding": "same", "strides": (1, 3), "use_bias": False},
        {"kernel_size": 3, "padding": "same", "dilation_rate": 2},
        {"kernel_size": 3, "padding": "valid", "dilation_rate": (1, 2)},
        {"kernel_size": (1, 3), "strides": 2},
    ],
)
def test_conv2d_is_a_drop_in(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    x = images(2, *size, 6)
    theirs, ours = keras.layers.Conv2D(4, **arguments), layers.Conv2D(4, **arguments)
    expected = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    assert ours.compute_output_shape(x.shape) == theirs.compute_output_shape(x.shape)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_conv2d_paddings_are_spellings_of_the_same() -> None:
    x = images(2, 9, 12, 6)
    conv = layers.Conv2D(4, 3, 2, "symmetric")
    expected = keras.ops.convert_to_numpy(conv(x))
    for spelling in (1, (1, 1), ((1, 1), (1, 1)), [[1, 1], [1, 1]]):
        other = layers.Conv2D(4, 3, 2, spelling)
        other.build(x.shape)
        other.set_weights(conv.get_weights())
        np.testing.assert_array_equal(other(x), expected)


def test_conv2d_errors() -> None:
    with pytest.raises(ValueError, match="padding must be .* not 'full'"):
        layers.Conv2D(4, 3, padding="full")
    with pytest.raises(ValueError, match="data_format must be 'channels_last'.* not 'channels_first'"):
        layers.Conv2D(4, 3, data_format="channels_first")
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match="data_format must be 'channels_last'"):
        layers.Conv2D(4, 3)
    keras.config.set_image_data_format("channels_last")
    with pytest.raises(ValueError, match="groups"):
        layers.Conv2D(6, 3, groups=4)
    with pytest.raises(ValueError, match="groups"):
        layers.Conv2D(8, 3, groups=4).build((None, 8, 8, 6))
    with pytest.raises(ValueError, match="too small"):
        layers.Conv2D(8, 5).compute_output_shape((None, 4, 4, 3))


@pytest.mark.parametrize("groups", [1, 4])
def test_conv2d_learns_in_fit(groups: int) -> None:
    """A grouped convolution inside an ordinary Keras model finds a known kernel again."""
    teacher = layers.Conv2D(8, 3, padding="same", groups=groups)
    x = images(64, 6, 6, 8)
    y = keras.ops.convert_to_numpy(teacher(x))
    model = keras.Sequential([keras.Input((6, 6, 8)), layers.Conv2D(8, 3, padding="same", groups=groups)])
    model.compile(keras.optimizers.Adam(0.03), "mse")
    model.fit(x, y, batch_size=16, epochs=40, verbose=0)
    np.testing.assert_allclose(model.layers[0].kernel, teacher.kernel, atol=0.02)


@pytest.mark.parametrize("make", [layers.MaxPool2D, layers.AvgPool2D])
def test_pool_errors(make: Any) -> None:
    with pytest.raises(ValueError, match="padding must be at most half of pool_size"):
        make(3, 2, padding=2)
    with pytest.raises(ValueError, match="ceil_mode needs a known height and width"):
        make(3, 2, ceil_mode=True)(keras.Input((None, None, 3)))
    with pytest.raises(ValueError, match="too small"):
        make(3, 2)(keras.Input((2, 9, 3)))


def test_avg_pool_refuses_what_is_not_defined() -> None:
    with pytest.raises(ValueError, match="count_include_pad=True"):
        layers.AvgPool2D(3, 2, ceil_mode=True)(images(1, 8, 8, 2))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pool_of_nonnegative_maps_may_pad_zeros(ceil_mode: bool) -> None:
    x = np.abs(images(2, 8, 11, 3))
    signed, shortcut = (layers.MaxPool2D(3, 2, 1, ceil_mode, nonnegative=flag) for flag in (False, True))
    np.testing.assert_array_equal(signed(x), shortcut(x))


def test_blur_pool_errors() -> None:
    with pytest.raises(ValueError, match="filter_size must be at least 2"):
        layers.BlurPool2D(1)


def test_attention_errors() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, not 4"):
        layers.EfficientChannelAttention(4)
    with pytest.raises(ValueError, match="split_input needs channels that divide by 2 paths, not 9"):
        layers.SelectiveKernel(8, 4, norm=NORM, split_input=True).build((None, 8, 8, 9))


@pytest.mark.parametrize("channels, taps", [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (8, 3)])
def test_eca_kernel_sizes(channels: int, taps: int) -> None:
    """The paper's rule: |log2(channels) / 2 + 1 / 2|, the next odd number, at least 3."""
    layer = layers.EfficientChannelAttention()
    layer.build((None, 4, 4, channels))
    assert layer.kernel.shape[0] == taps


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16", "mixed_bfloat16"])
def test_batch_norm_statistics(dtype: str, biased: bool) -> None:
    """Normalised by the biased variance; the moving variance takes the unbiased one unless asked for the biased one;
    statistics in float32 or more."""
    x = images(3, 4, 5, 6) * 2 + 1
    norm = layers.BatchNorm(epsilon=1e-3, momentum=0.8, biased_variance=biased, dtype=dtype)
    y = keras.ops.convert_to_numpy(keras.ops.cast(norm(x, training=True), "float64"))
    if dtype.startswith("mixed"):
        x = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(x, dtype.removeprefix("mixed_")), "float32"))
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(y, expected, atol={"mixed_float16": 5e-3, "mixed_bfloat16": 3e-2}.get(dtype, 1e-5))
    np.testing.assert_allclose(norm.moving_mean, 0.2 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.8 + 0.2 * x.var((0, 1, 2), ddof=1 - biased), rtol=1e-4)
    assert norm.moving_variance.dtype == ("float64" if dtype == "float64" else "float32")


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    x = images(3, 4, 5, 6)
    norm = layers.BatchNorm(**NORM)
    norm.build(x.shape)
    norm.trainable = False
    before = norm.get_weights()
    y = norm(x, training=True)
    for old, new in zip(before, norm.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-6)


def test_batch_norm_of_vectors() -> None:
    """Two dimensions, where there is no fused op, and a batch of one, whose unbiased variance would be 0/0."""
    x = images(5, 6)
    norm = layers.BatchNorm(**NORM)
    np.testing.assert_allclose(norm(x, training=True), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    alone = layers.BatchNorm(**NORM)
    alone(x[:1], training=True)
    assert np.isfinite(alone.moving_variance.numpy()).all()


def test_sublayers_take_over_the_precision() -> None:
    layer = layers.ConvNorm(8, 3, norm=NORM, dtype="mixed_bfloat16")
    assert layer(images(1, 4, 4, 3)).dtype == "bfloat16"
    assert {v.dtype for v in layer.variables} == {"float32"}
    assert layer.conv.compute_dtype == layer.norm.compute_dtype == "bfloat16"


SYNCHRONIZED = """
import keras, numpy as np, tensorflow as tf
from keras_resnets.layers import BatchNorm, ConvNorm

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(8, 5, 6, 4)).astype("float32")
x[4:] += 3  # the replicas' batches differ

def run(strategy, synchronized):
    with strategy.scope():
        norm = BatchNorm(1e-5, 0.9, synchronized=synchronized)
        norm.build(x.shape)
    replicas = strategy.num_replicas_in_sync
    parts = iter(np.split(x, replicas))
    values = strategy.experimental_distribute_values_from_function(lambda context: tf.constant(next(parts)))
    y = strategy.run(tf.function(lambda part: norm(part, training=True)), args=(values,))
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(y)]), norm.moving_variance.numpy()

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert mirrored.num_replicas_in_sync == 2
y, variance = run(mirrored, True)
np.testing.assert_allclose(y, (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), atol=1e-5)
np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)
y, variance = run(mirrored, False)
halves = np.concatenate([(p - p.mean((0, 1, 2))) / np.sqrt(p.var((0, 1, 2)) + 1e-5) for p in np.split(x, 2)])
np.testing.assert_allclose(y, halves, atol=1e-5)
print("as expected")
"""


def test_synchronized_batch_norm() -> None:
    """Over two replicas: statistics of the global batch; without the flag, each replica's own."""
    run = subprocess.run(
        [sys.executable, "-c", SYNCHRONIZED],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "as expected"
