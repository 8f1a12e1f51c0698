"""DPN: the dual path block against NumPy, mean-max pooling, options, exports."""

import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest
import reference
from keras.ops import convert_to_numpy

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.layers import BatchNorm, ScaleShift
from keras_resnets.models.dpn import DualPathBlock, MeanMaxPool2D

NORM = {"epsilon": 1e-3, "momentum": 0.9}
SMALL: dict[str, Any] = {
    "depths": (2, 1, 1, 1), "width": 32, "cardinality": 8, "base_width": 16, "growth": (4, 4, 8, 8), "classes": 10,
    "input_shape": (64, 64, 3),
}  # fmt: skip


def images(count: int, size: int = 64, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype("float32")


def randomised(layer: keras.layers.Layer, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Builds `layer` and gives its variables random values, returned by the path inside the layer."""
    layer.build(shape)
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        positive = variable.path.endswith(("gamma", "moving_variance"))
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(size=variable.shape) / 4)
    return {v.path.partition("/")[2]: convert_to_numpy(v).astype("float64") for v in layer.variables}


def preactivated(x: np.ndarray, values: dict[str, np.ndarray], norm: str) -> np.ndarray:
    """ReLU of the normalised `x`."""
    gamma, beta, mean, variance = (
        values[f"{norm}/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return np.maximum((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)


def grouped_3x3(x: np.ndarray, kernel: np.ndarray, groups: int, stride: int) -> np.ndarray:
    """A 3x3 convolution padded by one pixel, group by group and tap by tap."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    outputs = []
    for part, taps in zip(np.split(padded, groups, -1), np.split(kernel, groups, -1), strict=True):
        y = sum(part[:, i : i + height, j : j + width] @ taps[i, j] for i in range(3) for j in range(3))
        outputs.append(y[:, ::stride, ::stride])
    return np.concatenate(outputs, -1)


def dual_path(x: np.ndarray, values: dict[str, np.ndarray], filters: int, groups: int, stride: int) -> np.ndarray:
    """A residual path that is added to beside a dense path that is appended to."""
    shortcut = x
    if "projection/kernel" in values:
        activated = preactivated(x, values, "projection_preact/norm")[:, ::stride, ::stride]
        shortcut = activated @ values["projection/kernel"][0, 0]
    y = preactivated(x, values, "preact/norm") @ values["conv1/conv/kernel"][0, 0]
    y = grouped_3x3(preactivated(y, values, "conv1/norm"), values["conv2/conv/kernel"], groups, stride)
    y = preactivated(y, values, "conv2/norm")
    if "conv3/kernel" in values:
        y = y @ values["conv3/kernel"][0, 0]
        added, appended = y[..., :filters], y[..., filters:]
    else:
        added, appended = (y @ values[f"conv3_{path}/kernel"][0, 0] for path in ("residual", "dense"))
    return np.concatenate([shortcut[..., :filters] + added, shortcut[..., filters:], appended], -1)


@pytest.mark.parametrize("split_last", [False, True])
@pytest.mark.parametrize(
    "channels, stride, project, expected", [(20, 1, False, 23), (20, 1, True, 21), (7, 2, True, 21)]
)
def test_block(channels: int, stride: int, project: bool, expected: int, split_last: bool) -> None:
    layer = DualPathBlock(12, 3, 8, 4, stride, norm=NORM, project=project, split_last=split_last)
    shape = (2, 6, 7, channels)
    values = randomised(layer, shape)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    outputs = convert_to_numpy(layer(x, training=False))
    assert outputs.shape == layer.compute_output_shape(shape) == (2, 6 // stride, -(-7 // stride), expected)
    assert reference.distance(outputs, dual_path(x.astype("float64"), values, 12, 4, stride)) < 2e-6


def test_two_last_convolutions_are_slices_of_one() -> None:
    """The form of dpn68b, with the weights of dpn68 cut in two."""
    one, two = (kr.create_model("dpn68", split_last=split, **SMALL) for split in (False, True))
    weights = {variable.path: convert_to_numpy(variable) for variable in one.variables}
    for variable in two.variables:
        path = re.sub("conv3_.*/", "conv3/", variable.path)
        filters = variable.shape[-1]
        part = {"conv3_residual": slice(filters), "conv3_dense": slice(-filters, None)}
        kind = variable.path.split("/")[-2]
        variable.assign(weights[path][..., part[kind]] if kind in part else weights[path])
    assert one.count_params() == two.count_params()
    x = images(2)
    assert reference.distance(convert_to_numpy(two(x)), convert_to_numpy(one(x))) < 1e-5


# Channels at the ends of the stages: those of the residual path and `depth + 2` times the growth (arXiv 1707.01629, table 1).
STAGES = {
    "dpn48b": (144, 320, 512, 832),
    "dpn68": (144, 320, 704, 832),
    "dpn68b": (144, 320, 704, 832),
    "dpn92": (336, 704, 1552, 2688),
    "dpn98": (336, 768, 1728, 2688),
    "dpn107": (376, 1152, 2432, 2688),
    "dpn131": (352, 832, 1984, 2688),
}


@pytest.mark.parametrize("name", STAGES)
def test_widths_and_levels(name: str) -> None:
    assert kr.list_models(family="DPN") == sorted(STAGES)
    with without_values():
        model = kr.create_model(name, input_shape=(75, 101, 3))
    stem = {"dpn92": 64, "dpn98": 96, "dpn107": 128, "dpn131": 128}.get(name, 10)
    levels = {layer.name: layer.output.shape[1:] for layer in model.layers if re.fullmatch(r"C\d", layer.name)}
    sizes = [(38, 51), (19, 26), (10, 13), (5, 7), (3, 4)]
    expected = [(*size, channels) for size, channels in zip(sizes, (stem, *STAGES[name]), strict=True)]
    assert levels == {f"C{i}": shape for i, shape in enumerate(expected, start=1)}
    assert {layer.epsilon for layer in model._flatten_layers() if isinstance(layer, BatchNorm)} == {1e-3}


def test_last_activation() -> None:
    """ELU, which timm's constructor asks for, or ReLU, which it builds: of the same normalised sums."""
    x, tops = images(2), {}
    for activation in ("relu", "elu"):
        model = reference.with_rule_weights("dpn68", last_activation=activation, include_top=False, **SMALL)
        tops[activation] = convert_to_numpy(model(x, training=False))
    negative = tops["relu"] == 0
    assert 0.2 < negative.mean() < 0.8 and (tops["elu"][negative] < 0).all() and tops["elu"].min() >= -1
    np.testing.assert_array_equal(tops["elu"][~negative], tops["relu"][~negative])


def test_biased_variance() -> None:
    """MXNet's moving variances: four values per channel in the last stage, whose unbiased variance is 4/3 of the biased one."""
    moving = {}
    for biased in (False, True):
        model = reference.with_rule_weights("dpn68", biased_variance=biased, **SMALL)
        norm = model.get_layer("norm").norm
        before = convert_to_numpy(norm.moving_variance)
        model(images(1), training=True)
        moving[biased] = convert_to_numpy(norm.moving_variance) - 0.9 * before
    np.testing.assert_allclose(moving[False], moving[True] * 4 / 3, rtol=1e-3, atol=1e-6)


def test_mean_max_pool() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype("float32")
    layer = MeanMaxPool2D()
    expected = (x.mean((1, 2)) + x.max((1, 2))) / 2
    np.testing.assert_allclose(convert_to_numpy(layer(x)), expected, rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape(x.shape) == (2, 5)


@pytest.mark.parametrize("size, windows", [(224, 1), (257, 3)])
def test_test_time_pool(size: int, windows: int) -> None:
    """Logits of every 7x7 window of the last map, half of their mean and maximum; the weights are those of the plain head."""
    options = {**SMALL, "input_shape": (size, size, 3)}
    plain = reference.with_rule_weights("dpn68", **options)
    pooled = kr.create_model("dpn68", test_time_pool=True, classifier_activation="softmax", **options)
    kr.load_pytorch_weights(pooled, {key: f(v) for key, (v, f) in kr.pytorch_parameters(plain).items()})
    x = images(1, size)
    features = convert_to_numpy(kr.feature_extractor(plain, "C5")(x, training=False)["C5"]).astype("float64")
    kernel, bias = plain.get_layer("predictions").get_weights()
    corners = [(i, j) for i in range(windows) for j in range(windows)]
    logits = np.array([features[0, i : i + 7, j : j + 7].mean((0, 1)) @ kernel + bias for i, j in corners])
    expected = (logits.mean(0) + logits.max(0)) / 2
    exponentials = np.exp(expected - expected.max())
    outputs = convert_to_numpy(pooled(x, training=False))[0]
    assert features.shape[1] == windows + 6
    assert reference.distance(outputs, exponentials / exponentials.sum()) < 1e-4
    if windows == 1:
        assert reference.distance(convert_to_numpy(plain(x, training=False))[0], expected) < 1e-5


ERRORS = [
    ({"width": 100}, "width must be a multiple of cardinality=32, not 100"),
    ({"cardinality": 48}, "width must be a multiple of cardinality=48, not 128"),
    ({"cardinality": 0}, "cardinality must be a whole number above 0, not 0"),
    ({"growth": (16, 32, 32)}, "growth must be 4 whole numbers above 0, not (16, 32, 32)"),
    ({"growth": (16, 32, 0, 64)}, "growth must be 4 whole numbers above 0, not (16, 32, 0, 64)"),
    ({"depths": (3, 4, 20)}, "depths must be 4 whole numbers above 0, not (3, 4, 20)"),
    ({"stem_kernel": 5}, "stem_kernel must be one of 3, 7, not 5"),
    ({"last_activation": "gelu"}, "last_activation must be one of 'relu', 'elu', 'silu', not 'gelu'"),
    ({"drop_path_rate": 0.1}, "drop_path_rate must be 0.0: dual path networks are without it"),
    ({"zero_gamma": True}, "zero_gamma must be False: dual path networks are without it"),
    ({"groups": 32}, "unknown option 'groups': did you mean 'growth'"),
    ({"test_time_pool": 7}, "test_time_pool must be True or False, not 7"),
    ({"test_time_pool": True, "dropout_rate": 0.2}, "dropout_rate must be 0.0 with test_time_pool, not 0.2"),
    ({"test_time_pool": True, "input_shape": (192, 224, 3)}, "of at least 193 x 193 pixels, not (192, 224, 3)"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kr.create_model("dpn68", weights=None, **options)


def test_bad_layers() -> None:
    with pytest.raises(ValueError, match="strides must be 1 without a projection, not 2"):
        DualPathBlock(12, 3, 8, 4, 2, norm=NORM)
    with pytest.raises(ValueError, match="input must have more than filters=12 channels, not 12"):
        DualPathBlock(12, 3, 8, 4, norm=NORM).build((None, 8, 8, 12))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return reference.with_rule_weights("dpn68", **SMALL)


def test_keras_file(network: keras.Model, tmp_path: pathlib.Path) -> None:
    options = {"test_time_pool": True, "split_last": True, "last_activation": "elu"}
    pooled = reference.with_rule_weights("dpn68", **{**SMALL, **options, "input_shape": (224, 224, 3)})
    for model, x in ((network, images(2)), (pooled, images(1, 224))):
        model.save(tmp_path / "net.keras")
        again = keras.saving.load_model(tmp_path / "net.keras")
        np.testing.assert_array_equal(
            convert_to_numpy(again(x, training=False)), convert_to_numpy(model(x, training=False))
        )


def test_fuse(network: keras.Model) -> None:
    """The normalisations after a convolution go; of those that read a whole map a scale and an offset stay."""
    kinds = [type(layer) for layer in kr.fuse(network)._flatten_layers()]
    assert BatchNorm not in kinds
    assert kinds.count(ScaleShift) == 5 + 4 + 1  # blocks, projections, the last one
    x = images(2)
    assert (
        reference.distance(convert_to_numpy(kr.fuse(network)(x)), convert_to_numpy(network(x, training=False))) < 1e-5
    )


@pytest.mark.parametrize(("policy", "rounding"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
def test_mixed_precision(policy: str, rounding: float, network: keras.Model) -> None:
    x = images(4)
    exact = convert_to_numpy(network(x, training=False))
    keras.config.set_dtype_policy(policy)
    model = kr.create_model("dpn68", classifier_activation=None, **SMALL)
    model.set_weights(network.get_weights())
    assert model.get_layer("C4").output.dtype == policy.removeprefix("mixed_")
    assert reference.distance(convert_to_numpy(model(x, training=False)), exact) <= rounding
    step = reference.train_step(model, x, np.full((4, 10), 0.25, "float32"))
    assert all(np.isfinite(array).all() for array in (step.logits, *step.gradients.values(), *step.after.values()))
    with without_values():
        pooled = kr.create_model("dpn68", test_time_pool=True)
    assert pooled.get_layer("mean_max_pool").output.dtype == pooled.output.dtype == "float32"
