"""ResNeSt beyond the reference entries: split attention as the paper words it, placement of DropBlock, other rules, errors."""

import re
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.layers import DropBlock, SplitAttention
from keras_resnets.models.resnest import ResNeStBottleneck

NORM = {"epsilon": 1e-5, "momentum": 0.9}
CHANNELS, FILTERS = 16, 32


def split_attention(**arguments: Any) -> SplitAttention:
    """A layer on 16 channels with random weights and statistics."""
    layer = SplitAttention(FILTERS, norm=NORM, attention_width=8, **arguments)
    layer.build((None, None, None, CHANNELS))
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        low, high = (0.5, 1.5) if variable.path.endswith(("gamma", "variance")) else (-0.5, 0.5)
        variable.assign(rng.uniform(low, high, variable.shape))
    return layer


def weights_by_path(layer: SplitAttention) -> dict[str, np.ndarray]:
    prefix = f"{layer.path}/"
    return {v.path.removeprefix(prefix): keras.ops.convert_to_numpy(v).astype("float64") for v in layer.variables}


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with a pixel of padding, tap by tap."""
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def normalised(x: np.ndarray, weights: dict[str, np.ndarray], norm: str, channels: slice) -> np.ndarray:
    """ReLU of the normalisation `norm`, restricted to its `channels`."""
    mean, variance, gamma, beta = (weights[f"{norm}/{name}"][channels]
                                   for name in ("moving_mean", "moving_variance", "gamma", "beta"))  # fmt: skip
    return np.maximum((x - mean) / np.sqrt(variance + NORM["epsilon"]) * gamma + beta, 0)


def by_the_paper(layer: SplitAttention, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Section 3.1 of the paper as loops over cardinal groups k and splits r: the output, and attention [k][r]."""
    radix, cardinality, weights = layer.radix, layer.cardinality, weights_by_path(layer)
    groups, c = radix * cardinality, FILTERS // cardinality
    outputs, attentions = [], []
    for k in range(cardinality):
        splits = []
        for r in range(radix):
            group = r * cardinality + k if layer.layout == "radix_major" else k * radix + r
            inputs = x[..., group * CHANNELS // groups : (group + 1) * CHANNELS // groups]
            channels = slice(group * c, (group + 1) * c)
            u = convolved(inputs, weights["conv/conv/kernel"][..., channels])
            splits.append(normalised(u, weights, "conv/norm", channels))
        squeezed = sum(splits).mean((1, 2))
        inner = slice(k * 8 // cardinality, (k + 1) * 8 // cardinality)
        hidden = squeezed @ weights["fc1/conv/kernel"][0, 0, :, inner] + weights["fc1/conv/bias"][inner]
        hidden = normalised(hidden, weights, "fc1/norm", inner)
        mine = slice(k * radix * c, (k + 1) * radix * c)
        logits = (hidden @ weights["fc2/kernel"][0, 0, :, mine] + weights["fc2/bias"][mine]).reshape(-1, radix, c)
        attention = np.exp(logits) / (1 + np.exp(logits) if radix == 1 else np.exp(logits).sum(1, keepdims=True))
        outputs.append(sum(attention[:, r, None, None] * splits[r] for r in range(radix)))
        attentions.append(attention)
    return np.concatenate(outputs, -1), np.stack(attentions, 1)


@pytest.mark.parametrize("layout", ["radix_major", "cardinality_major"])
@pytest.mark.parametrize("cardinality", [1, 2, 4])
@pytest.mark.parametrize("radix", [1, 2, 4])
def test_split_attention_is_the_papers(radix: int, cardinality: int, layout: str) -> None:
    layer = split_attention(radix=radix, cardinality=cardinality, layout=layout)
    x = np.random.default_rng(1).normal(size=(3, 5, 6, CHANNELS)).astype("float32")
    expected, attention = by_the_paper(layer, x.astype("float64"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)

    splits = layer.conv(x)
    given = keras.ops.convert_to_numpy(layer.attention(keras.ops.mean(splits, (1, 2), keepdims=True)))
    order = (0, 2, 1, 3) if layout == "radix_major" else (0, 1, 2, 3)
    np.testing.assert_allclose(given, attention.transpose(order).reshape(3, 1, 1, -1), rtol=1e-4)
    if radix > 1:
        sums = given.reshape(3, *((radix, -1) if layout == "radix_major" else (cardinality, radix, -1))).sum(-2)
        np.testing.assert_allclose(sums, 1, rtol=1e-6)


def test_the_snippet_of_issue_66_does_not_attend_to_the_splits() -> None:
    """A snippet that circulates (issue 66 of the authors' repository) expands to `channels · radix` logits where `channels`
    counts the splits already. Pairing the splits with the first `radix` of its pieces hides that: they are all pieces of the
    first slot of the softmax, and do not sum to one."""
    radix, channels, batch = 2, 64, 3  # two splits of 32 channels
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(batch, 32))

    def used_weights(logits_per_slot: int) -> np.ndarray:
        """(batch, radix, 32): the attention pieces that meet a split, when the softmax is over `radix` slots."""
        logits = (hidden @ rng.normal(size=(32, radix * logits_per_slot))).reshape(batch, radix, logits_per_slot)
        attention = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        pieces = np.split(attention.reshape(batch, -1), radix * logits_per_slot // 32, axis=1)
        return np.stack([piece for piece, _ in zip(pieces, range(radix), strict=False)], axis=1)

    np.testing.assert_allclose(used_weights(channels // radix).sum(1), 1)  # one logit per split and channel
    snippet = used_weights(channels).sum(1)
    assert np.abs(snippet - 1).max() > 0.5
    assert np.abs(snippet - 1).mean() > 0.2

    layer = split_attention(radix=radix)
    x = rng.normal(size=(batch, 4, 4, CHANNELS)).astype("float32")
    weights = keras.ops.convert_to_numpy(layer.attention(keras.ops.mean(layer.conv(x), (1, 2), keepdims=True)))
    np.testing.assert_allclose(weights.reshape(batch, radix, FILTERS).sum(1), 1, rtol=1e-6)


def small(name: str = "resnest14d", **options: Any) -> keras.Model:
    return kr.create_model(
        name, weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None, **options
    )


def branches(model: keras.Model) -> list[list[str]]:
    """Names of the layers of the residual branch of every block, in order."""
    return [[layer.name for layer in block.branch] for block in model.layers if isinstance(block, ResNeStBottleneck)]


@pytest.mark.parametrize("form", ["gluon", "torch"])
def test_drop_block_placement(form: str) -> None:
    model = small("resnest14d", drop_block_rate=0.1, drop_block_form=form)
    found = [layer for layer in model._flatten_layers() if isinstance(layer, DropBlock)]
    # After the first convolution, the split attention (or within it, see below) and the last one, in stages 3 and 4.
    after_attention = ["conv2_drop_block"] if form == "gluon" else []
    late = ["conv1", "conv1_drop_block", "conv2", *after_attention, "avd", "conv3", "conv3_drop_block"]
    assert branches(model) == [["conv1", "conv2", "conv3"], ["conv1", "conv2", "avd", "conv3"], late, late]
    assert [layer.name for layer in found].count("drop_block") == (2 if form == "torch" else 0)
    assert len(found) == 6
    for layer in found:
        assert (layer.rate, layer.block_size, layer.shared_batch, layer.shared_channels) == (0.1, 3, True, False)
        assert layer.rescale_channels == (form == "gluon")
    # Blocks are dropped in training only, and not at all while the schedule is at its beginning.
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype("float32")
    first, second = (keras.ops.convert_to_numpy(model(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    for layer in found:
        layer.progress.assign(0)
    first, second = (keras.ops.convert_to_numpy(model(x, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # No variable of it has a name among the published parameters.
    assert set(kr.pytorch_parameters(model)) == set(kr.pytorch_parameters(small()))


def test_average_pools_carry_the_stride() -> None:
    def pools(**options: Any) -> list[tuple[int, int]]:
        return [layer.strides for layer in small(**options)._flatten_layers() if layer.name == "avd"]

    assert pools() == [(2, 2)] * 3
    assert branches(small())[1] == ["conv1", "conv2", "avd", "conv3"]
    assert branches(small(avd_first=True))[1] == ["conv1", "avd", "conv2", "conv3"]
    # In dilated stages the authors keep the pool of the first block, at stride 1; timm loses it.
    assert pools(output_stride=8) == [(2, 2), (1, 1), (1, 1)]
    assert pools(output_stride=8, rules="timm") == [(2, 2)]


def test_dilation_keeps_the_weights_and_the_early_features() -> None:
    """At output stride 16 the map is twice as large, and up to stage 3 it is the same network."""
    nets = [small(output_stride=stride) for stride in (32, 16)]
    nets[1].set_weights(nets[0].get_weights())
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    features = [kr.feature_extractor(net, levels=("C4", "C5"))(x) for net in nets]
    early = [keras.ops.convert_to_numpy(feature["C4"]) for feature in features]
    np.testing.assert_allclose(early[0], early[1], rtol=1e-6)
    assert features[0]["C5"].shape == (2, 2, 2, 2048)
    assert features[1]["C5"].shape == (2, 4, 4, 2048)


def test_zero_gamma_is_not_undone() -> None:
    model = small(zero_gamma=True)
    gammas = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables if v.path.endswith("gamma")}
    zero = {path for path, value in gammas.items() if not value.any()}
    assert zero == {f"stage{stage}_block1/conv3/norm/gamma" for stage in (1, 2, 3, 4)}


ERRORS = [
    ({"radix": 3}, "the input's channels must divide by radix · cardinality = 3 · 1 = 3, not 64"),
    ({"radix": -1}, "radix must be a whole number, 0 or above, not -1"),
    ({"radix": False}, "radix must be a whole number, 0 or above, not False"),
    ({"cardinality": 0}, "cardinality must be a whole number above 0, not 0"),
    ({"cardinality": 5, "base_width": 7}, "filters and attention_width must divide by cardinality 5, not 35 and 32"),
    ({"radix": 2, "cardinality": 3, "base_width": 16}, "must divide by cardinality 3, not 48 and 32"),
    ({"radx": 4}, "unknown option 'radx': did you mean 'radix'"),
    ({"layout": "radix"}, "layout must be one of 'radix_major', 'cardinality_major', not 'radix'"),
    ({"rules": "gluon"}, "rules must be one of 'official', 'timm', not 'gluon'"),
    ({"drop_block_rate": 1.5}, "drop_block_rate must be at least 0 and below 1, not 1.5"),
    ({"drop_block_form": "tf"}, "drop_block_form must be one of 'gluon', 'torch', not 'tf'"),
    ({"attention": "se"}, "attention has no meaning for the blocks of this network"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS, ids=[str(options) for options, _ in ERRORS])
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**options)


def test_wrong_layer_arguments() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, not 4"):
        SplitAttention(32, norm=NORM, kernel_size=4)
    with pytest.raises(ValueError, match="filters and attention_width must divide by cardinality 3, not 32 and 32"):
        SplitAttention(32, norm=NORM, cardinality=3)
    with pytest.raises(ValueError, match=re.escape("radix · cardinality = 4 · 2 = 8, not 12")):
        SplitAttention(32, norm=NORM, radix=4, cardinality=2).build((None, 8, 8, 12))
