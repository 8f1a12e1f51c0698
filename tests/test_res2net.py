"""Res2Net: the multi-scale convolution against loops, what mistakes do, options against timm, exports."""

from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.models.res2net import MultiScaleConv, Res2NetBottleneck

NORM = {"epsilon": 1e-5, "momentum": 0.9}


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """A 3x3 convolution of (batch, height, width, channels) padded by `dilation` zeros, pixel by pixel; the kernel's input
    channels say how many groups there are."""
    height, width = ((size - 1) // stride + 1 for size in x.shape[1:3])
    padded = np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    out = np.zeros((len(x), height, width, kernel.shape[3]))
    channels = kernel.shape[2]
    groups = x.shape[3] // channels
    for i in range(height):
        for j in range(width):
            for f in range(kernel.shape[3]):
                start = f // (kernel.shape[3] // groups) * channels
                window = padded[:, i * stride :, j * stride :, start : start + channels]
                window = window[:, : 2 * dilation + 1 : dilation, : 2 * dilation + 1 : dilation]
                out[:, i, j, f] = (window * kernel[..., f]).sum((1, 2, 3))
    return out


def average_pool(x: np.ndarray, stride: int, count_zeros: bool) -> np.ndarray:
    """The mean over 3x3 windows padded by one pixel."""
    height, width = x.shape[1:3]
    rows = []
    for i in range(0, height, stride):
        windows = [x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] for j in range(0, width, stride)]
        rows.append([w.sum((1, 2)) / (9 if count_zeros else w.shape[1] * w.shape[2]) for w in windows])
    return np.transpose(rows, (2, 0, 1, 3))


def multi_scale(x: np.ndarray, layer: MultiScaleConv, weights: list[list[np.ndarray]], stride: int, dilation: int,
                count_zeros: bool) -> np.ndarray:  # fmt: skip
    """The rule of the released code."""
    chunks = [x[..., i * layer.width : (i + 1) * layer.width] for i in range(layer.scale)]
    outputs: list[np.ndarray] = []
    for i, (kernel, gamma, beta, mean, variance) in enumerate(weights):
        y = chunks[i] if i == 0 or layer.kind == "stage" else chunks[i] + outputs[i - 1]
        y = (convolution(y, kernel, stride, dilation) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        outputs.append(np.maximum(y, 0))
    last = chunks[-1] if layer.kind == "normal" else average_pool(chunks[-1], stride, count_zeros)
    return np.concatenate([*outputs, last], axis=-1)


@pytest.mark.parametrize(
    "kind, scale, width, stride, groups, dilation, size, count_zeros",
    [
        ("normal", 4, 6, 1, 1, 1, (7, 5), True),
        ("normal", 2, 5, 1, 1, 1, (4, 4), True),
        ("normal", 3, 6, 1, 3, 2, (7, 6), True),
        ("normal", 8, 2, 1, 1, 1, (5, 5), True),
        ("stage", 4, 6, 1, 1, 1, (7, 5), True),
        ("stage", 4, 6, 2, 1, 1, (8, 6), True),
        ("stage", 3, 4, 2, 2, 1, (7, 9), True),
        ("stage", 3, 4, 1, 1, 2, (7, 6), True),
        ("stage", 3, 4, 2, 1, 1, (7, 6), False),
    ],
)
def test_multi_scale_conv(kind: Any, scale: int, width: int, stride: int, groups: int, dilation: int,
                          size: tuple[int, int], count_zeros: bool) -> None:  # fmt: skip
    layer = MultiScaleConv(width, scale, norm=NORM, kind=kind, strides=stride, groups=groups, dilation=dilation,
                           count_include_pad=count_zeros)  # fmt: skip
    layer.build((None, *size, scale * width))
    rng = np.random.default_rng(0)
    weights = []
    for i, conv in enumerate(layer.convs):
        shapes = [(3, 3, width // groups, width), *[(width,)] * 4]
        values = [rng.normal(size=shape) for shape in shapes[:4]] + [rng.uniform(0.5, 2, width)]
        conv.set_weights(values)
        assert conv.name == f"conv{i}"
        weights.append([value.astype("float32").astype("float64") for value in values])
    assert len(weights) == scale - 1
    x = rng.normal(size=(2, *size, scale * width)).astype("float32")
    expected = multi_scale(x.astype("float64"), layer, weights, stride, dilation, count_zeros)
    outputs = keras.ops.convert_to_numpy(layer(x, training=False))
    assert outputs.shape == layer.compute_output_shape(x.shape) == expected.shape
    assert reference.distance(outputs, expected) < 2e-6


@pytest.mark.parametrize("option, effect", [({"normal_stage1": True}, 0.544), ({"count_include_pad": False}, 0.0595)])
def test_the_check_sees_mistakes(option: dict[str, bool], effect: float) -> None:
    """Stage 1 without a block of kind "stage", and pools that do not count zeros, move the logits as far as timm's do."""
    golden = reference.load("res2net50d")
    distance = reference.eval_distances(golden, golden.build(weights=None, **option), "float32")["eval: logits"]
    assert distance == pytest.approx(effect, rel=0.01)


def with_rule_weights(name: str, **options: Any) -> keras.Model:
    model = kr.create_model(name, classifier_activation=None, **options)
    parameters = kr.pytorch_parameters(model).items()
    kr.load_pytorch_weights(model, {key: reference.weight(key, to_torch(v).shape) for key, (v, to_torch) in parameters})
    return model


# The first logits, in double precision, of shortened networks of timm 1.0.31's Bottle2neck blocks for a generated image; "paddle":
# with the pools and the first block that PaddleClas has.
DILATED: dict[str, Any] = {"depths": (1, 1, 2, 2)}
TIMM: dict[str, tuple[str, dict[str, Any], list[float]]] = {
    "os16": ("res2net50_26w_4s", {**DILATED, "output_stride": 16}, [16.9715437172, -3.0265422039, -16.5333521110]),
    "os8": ("res2net50_26w_4s", {**DILATED, "output_stride": 8}, [15.5064995394, -3.4764469325, -17.1384596455]),
    "os8x": ("res2next50", {**DILATED, "output_stride": 8}, [13.2003871428, -12.2882278984, -6.0221856717]),
    "se": ("seres2net50_26w_4s", {"depths": (1, 2, 1, 1)}, [-1.0034228838, 5.7558899308, -5.0346167491]),
    "paddle": ("res2net200_v1d_26w_4s", {"depths": (2, 2, 1, 1)}, [19.7852847734, -32.5868476203, -40.0025762930]),
}


@pytest.mark.parametrize("key", TIMM)
def test_options_against_timm(key: str) -> None:
    name, options, expected = TIMM[key]
    model = with_rule_weights(name, input_shape=(64, 96, 3), **options)
    x = reference.generator(f"input:{key}").standard_normal((1, 64, 96, 3), dtype=np.float32)
    logits = keras.ops.convert_to_numpy(model(x, training=False))[0, :3]
    assert reference.distance(logits, np.array(expected)) < 2e-5


def test_output_stride() -> None:
    """The same variables; where only the last stage does not stride, every second pixel of its first block is the old map."""
    options: dict[str, Any] = {"depths": (1, 1, 1, 1), "include_top": False, "input_shape": (64, 96, 3)}
    models = {stride: kr.create_model("res2next50", output_stride=stride, **options) for stride in (32, 16, 8)}
    paths = {stride: [(v.path, v.shape) for v in model.variables] for stride, model in models.items()}
    assert paths[32] == paths[16] == paths[8]
    models[16].set_weights(models[32].get_weights())
    x = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype("float32")
    maps = {stride: keras.ops.convert_to_numpy(model(x, training=False)) for stride, model in models.items()}
    assert {stride: y.shape[1:3] for stride, y in maps.items()} == {32: (2, 3), 16: (4, 6), 8: (8, 12)}
    assert reference.distance(maps[16][:, ::2, ::2], maps[32]) < 1e-5
    assert reference.distance(maps[16][:, 1::2, 1::2], maps[32]) > 0.1


def test_features() -> None:
    model = kr.create_model("res2net50_14w_8s", depths=(1, 1, 1, 1), input_shape=(64, 96, 3))
    features = kr.feature_extractor(model, ("C1", "C2", "C3", "C4", "C5"))(np.zeros((2, 64, 96, 3), "float32"))
    assert {level: tuple(map_.shape) for level, map_ in features.items()} == {
        "C1": (2, 32, 48, 64),
        "C2": (2, 16, 24, 256),
        "C3": (2, 8, 12, 512),
        "C4": (2, 4, 6, 1024),
        "C5": (2, 2, 3, 2048),
    }


@pytest.mark.parametrize(
    "name, millions",
    [("res2next29_6c24w4s_cifar", 24.3), ("res2next29_8c25w4s_cifar", 33.8), ("res2next29_6c24w6s_cifar", 36.7)],
)
def test_cifar_networks_have_the_papers_size(name: str, millions: float) -> None:
    """Tables 2 and 3 of arXiv 1904.01169."""
    assert round(kr.model_info(name).params / 1e6, 1) == millions


def test_cifar_blocks() -> None:
    """The first block of a stage convolves every chunk in one grouped convolution, the others are multi-scale."""
    model = kr.create_model("res2next29_6c24w4s_cifar", depth=2, widths=(16, 32, 64), classes=3)
    blocks = [layer for layer in model.layers if "block" in layer.name]
    assert [isinstance(block, Res2NetBottleneck) for block in blocks] == [False, True] * 3
    assert [block.branch[1].conv.groups for block in blocks[::2]] == [24] * 3
    assert [block.branch[1].kind for block in blocks[1::2]] == ["normal"] * 3
    assert model(np.zeros((1, 32, 32, 3), "float32")).shape == (1, 3)


def test_zero_gamma_starts_blocks_as_their_shortcut() -> None:
    block = Res2NetBottleneck(16, 4, norm=NORM, zero_gamma=True)
    x = np.abs(np.random.default_rng(0).normal(size=(2, 5, 5, 16))).astype("float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(block(x)), x)


BAD_OPTIONS = [
    ("res2net50_26w_4s", {"scale": 1}, "scale must be at least 2, .* not 1"),
    ("res2net50_26w_4s", {"scale": 0}, "scale must be a whole number above 0, not 0"),
    ("res2net50_26w_4s", {"scale": 2.5}, "scale must be a whole number above 0, not 2.5"),
    ("res2net50_26w_4s", {"base_width": 0}, "base_width must be a whole number above 0, not 0"),
    ("res2next50", {"cardinality": -8}, "cardinality must be a whole number above 0, not -8"),
    ("res2net50_26w_4s", {"scales": 4}, "unknown option 'scales': did you mean 'scale'"),
    ("res2net50_26w_4s", {"block": "basic"}, "block has no meaning for the blocks of this network"),
    ("res2net50_26w_4s", {"antialias": "blur"}, "antialias has no meaning for the blocks of this network"),
    ("res2net50_26w_4s", {"stride_in_1x1": True}, "stride_in_1x1 has no meaning"),
    ("res2net50d", {"reduce_first": 2}, "reduce_first has no meaning"),
    ("res2next29_6c24w4s_cifar", {"scale": 1}, "scale must be at least 2, .* not 1"),
    ("res2next29_6c24w4s_cifar", {"widths": (1, 64, 64)}, "base_width=24 leaves no channel in a stage of width 1: 1 · 24 "),
]  # fmt: skip


@pytest.mark.parametrize("name, options, message", BAD_OPTIONS)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kr.create_model(name, **options)


BAD_LAYERS = [
    ({"width": 6, "scale": 1}, "scale must be at least 2, .* not 1"),
    ({"width": 0}, "width must be a positive multiple of groups=1, not 0"),
    ({"width": 6, "groups": 4}, "width must be a positive multiple of groups=4, not 6"),
    ({"width": 6, "kind": "stages"}, "kind must be 'normal' or 'stage', not 'stages'"),
    ({"width": 6, "strides": 2}, "strides must be 1 .* not 2"),
]


@pytest.mark.parametrize("arguments, message", BAD_LAYERS)
def test_bad_layers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleConv(norm=NORM, **arguments)


def test_channels_must_fit() -> None:
    with pytest.raises(ValueError, match="input must have scale · width = 4 · 6 channels, not 26"):
        MultiScaleConv(6, norm=NORM).build((None, 8, 8, 26))
