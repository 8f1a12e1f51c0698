"""HarDNet: links, widths, blocks against NumPy, structure, exports."""

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
from keras_resnets.layers import BatchNorm
from keras_resnets.models.hardnet import HarmonicBlock, harmonic_links, harmonic_widths

NORM = {"epsilon": 1e-5, "momentum": 0.9}
SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1), "growth": (8, 8, 8, 8), "layers": (4, 4, 2, 2), "transitions": (16, 24, 32, 48), "classes": 10,
    "input_shape": (64, 64, 3),
}  # fmt: skip

# Layers 1 to 16, as in the paper's figure 1.
LINKS = [
    [0], [1, 0], [2], [3, 2, 0], [4], [5, 4], [6], [7, 6, 4, 0], [8], [9, 8], [10], [11, 10, 8], [12], [13, 12], [14],
    [15, 14, 12, 8, 0],
]  # fmt: skip
# Of the authors' code, by network and block: widths of the layers, and channels of the output.
WIDTHS: dict[str, list[tuple[list[int], int]]] = {
    "hardnet39ds": [
        ([16, 26, 16, 40], 72),
        ([20, 32, 20, 52, 20, 32, 20, 82, 20, 32, 20, 52, 20, 32, 20, 132], 292),
        ([64, 102, 64, 164, 64, 102, 64, 262], 518),
        ([160, 256, 160, 410], 730),
    ],
    "hardnet68": [
        ([14, 24, 14, 40, 14, 24, 14, 68], 124),
        ([16, 28, 16, 46, 16, 28, 16, 78, 16, 28, 16, 46, 16, 28, 16, 134], 262),
        ([20, 34, 20, 58, 20, 34, 20, 98, 20, 34, 20, 58, 20, 34, 20, 168], 328),
        ([40, 68, 40, 116, 40, 68, 40, 196, 40, 68, 40, 116, 40, 68, 40, 334], 654),
        ([160, 272, 160, 462], 782),
    ],
    "hardnet85": [
        ([24, 40, 24, 70, 24, 40, 24, 118], 214),
        ([24, 40, 24, 70, 24, 40, 24, 118, 24, 40, 24, 70, 24, 40, 24, 200], 392),
        ([28, 48, 28, 80, 28, 48, 28, 138, 28, 48, 28, 80, 28, 48, 28, 234], 458),
        ([36, 62, 36, 104, 36, 62, 36, 176, 36, 62, 36, 104, 36, 62, 36, 300], 588),
        ([48, 82, 48, 138, 48, 82, 48, 236, 48, 82, 48, 138, 48, 82, 48, 400], 784),
        ([256, 436, 256, 740], 1252),
    ],
}
WIDTHS["hardnet68ds"] = WIDTHS["hardnet68"]
# The levels C1 to C5 of a 75x101 image: pools round their halves down after the first one, convolutions up.
LEVELS = {
    "hardnet39ds": [(38, 51, 48), (19, 26, 96), (10, 13, 320), (5, 7, 640), (3, 4, 1024)],
    "hardnet68ds": [(38, 51, 64), (19, 26, 128), (10, 13, 320), (5, 7, 640), (3, 4, 1024)],
    "hardnet68": [(38, 51, 64), (19, 26, 128), (9, 13, 320), (4, 6, 640), (2, 3, 1024)],
    "hardnet85": [(38, 51, 96), (19, 26, 192), (9, 13, 320), (4, 6, 720), (2, 3, 1280)],
}


def images(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 64, 64, 3)).astype("float32")


def test_links() -> None:
    assert [harmonic_links(layer) for layer in range(1, 17)] == LINKS


@pytest.mark.parametrize("growth, multiplier, expected", [(16, 1.6, 40), (14, 1.7, 40), (160, 1.7, 462), (24, 1.7, 70)])
def test_rounding(growth: int, multiplier: float, expected: int) -> None:
    """Of the fourth layer, `growth * multiplier**2`: 40.96, 40.46, 462.4 and 69.36 channels."""
    assert harmonic_widths(growth, multiplier, 4)[-1] == expected


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_and_levels(name: str) -> None:
    assert kr.list_models(family="HarDNet") == sorted(WIDTHS)
    with without_values():
        model = kr.create_model(name, input_shape=(75, 101, 3))
    blocks = [layer for layer in model.layers if isinstance(layer, HarmonicBlock)]
    assert [(block.widths, block.output.shape[-1]) for block in blocks] == WIDTHS[name]
    levels = [layer for layer in model.layers if re.fullmatch(r"C\d", layer.name)]
    assert [layer.name for layer in levels] == ["C1", "C2", "C3", "C4", "C5"]
    assert [layer.output.shape[1:] for layer in levels] == LEVELS[name]
    assert {layer.epsilon for layer in model._flatten_layers() if isinstance(layer, BatchNorm)} == {1e-5}


@pytest.mark.parametrize(
    "name, dropouts",
    [
        ("hardnet39ds", {"dropout": 0.05}),
        ("hardnet68ds", {"dropout": 0.05}),
        ("hardnet68", {"dropout": 0.1}),
        ("hardnet85", {"block_dropout": 0.1, "dropout": 0.2}),
    ],
)
def test_dropouts(name: str, dropouts: dict[str, float]) -> None:
    with without_values():
        model = kr.create_model(name)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert {layer.name: layer.rate for layer in found} == dropouts
    if name == "hardnet85":
        order = [layer.name for layer in model.layers]
        assert order[order.index("block_dropout") - 1] == "stage4_block1"


# Millions of convolutional input and output, as published (arXiv 1909.00948, table 2).
def test_convolutional_input_and_output() -> None:
    assert round(kr.model_info("hardnet68").cio / 1e6, 1) == 11.5


def convolution(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Padded so that the size stays, tap by tap; depthwise for a kernel with one input channel."""
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    padded = np.pad(x, ((0, 0), *[(size // 2, size // 2)] * 2, (0, 0)))
    windows = {(i, j): padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)}
    if kernel.shape[2] == 1:
        return sum(window * kernel[i, j, 0] for (i, j), window in windows.items())
    return sum(window @ kernel[i, j] for (i, j), window in windows.items())


def harmonic(x: np.ndarray, values: dict[str, np.ndarray], separable: bool) -> np.ndarray:
    """A block of four layers."""

    def unit(x: np.ndarray, name: str, activate: bool = True) -> np.ndarray:
        gamma, beta, mean, variance = (
            values[f"{name}/norm/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        y = (convolution(x, values[f"{name}/conv/kernel"]) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        return np.clip(y, 0, 6) if activate else y

    def layer(i: int, *inputs: np.ndarray) -> np.ndarray:
        y = np.concatenate(inputs, -1)
        return unit(unit(y, f"layer{i}_pointwise"), f"layer{i}_depthwise", False) if separable else unit(y, f"layer{i}")

    first = layer(0, x)
    second = layer(1, first, x)
    third = layer(2, second)
    return np.concatenate([first, third, layer(3, third, second, x)], -1)


@pytest.mark.parametrize("separable", [False, True])
def test_block(separable: bool) -> None:
    """Inputs nearest first; odd layers and the last one come out; no activation after a depthwise convolution."""
    block, shape = HarmonicBlock(4, 1.7, 4, norm=NORM, separable=separable), (2, 5, 6, 3)
    block.build(shape)
    rng = np.random.default_rng(0)
    for variable in block.variables:
        positive = variable.path.endswith(("gamma", "moving_variance"))
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(size=variable.shape))
    values = {v.path.partition("/")[2]: convert_to_numpy(v).astype("float64") for v in block.variables}
    x = rng.normal(size=shape).astype("float32")
    outputs = convert_to_numpy(block(x, training=False))
    assert outputs.shape == block.compute_output_shape(shape) == (2, 5, 6, 4 + 4 + 12)
    expected = harmonic(x.astype("float64"), values, separable)
    assert (expected < 0).any() == separable and (expected == 6).any() != separable
    assert reference.distance(outputs, expected) < 2e-5


def test_names_of_other_depths() -> None:
    """The reference's names count blocks and pools: a network with more blocks than its row has none for them."""
    more = {"depths": (1, 1, 2, 1), "growth": (8,) * 5, "layers": (2,) * 5, "transitions": (16,) * 5}
    with without_values():
        model = kr.create_model("hardnet39ds", **{**SMALL, **more})
        with pytest.raises(ValueError, match="'stage3_block2/.*has no PyTorch counterpart"):
            kr.pytorch_parameters(model)


ERRORS = [
    ({"growth": ()}, "growth must be some whole numbers above 0, not ()"),
    ({"growth": (14, 16)}, "growth must hold a number for each of the 5 blocks of depths=(1, 2, 1, 1), not (14, 16)"),
    ({"layers": (8, 16, 16, 16)}, "layers must hold a number for each of the 5 blocks"),
    ({"transitions": (8,) * 6}, "transitions must hold a number for each of the 5 blocks"),
    ({"depths": (1, 1, 1, 1)}, "growth must hold a number for each of the 4 blocks of depths=(1, 1, 1, 1)"),
    ({"depths": (1, 0, 1, 1)}, "depths must be 4 whole numbers above 0, not (1, 0, 1, 1)"),
    ({"layers": (8, 16, 16, 0, 4)}, "layers must be some whole numbers above 0, not (8, 16, 16, 0, 4)"),
    ({"growth": (14, 16, -20, 40, 160)}, "growth must be some whole numbers above 0, not (14, 16, -20, 40, 160)"),
    ({"multiplier": 0.9}, "multiplier must be at least 1, not 0.9"),
    ({"multiplier": "1.7"}, "multiplier must be a number, not '1.7'"),
    ({"stem": (32,)}, "stem must be 2 whole numbers above 0, not (32,)"),
    ({"block_dropout_rate": 1.0}, "block_dropout_rate must be at least 0 and below 1, not 1.0"),
    ({"drop_path_rate": 0.1}, "drop_path_rate must be 0.0: there are no residual branches"),
    ({"zero_gamma": True}, "zero_gamma must be False: there are no residual branches"),
    ({"depthwise": True}, "unknown option 'depthwise': did you mean 'depths'"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kr.HarDNet68(weights=None, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1.7, 4), "growth must be a whole number above 0, not 0"),
        ((16, 1.7, 0), "layers must be a whole number above 0, not 0"),
        ((16, 0.5, 4), "multiplier must be at least 1, not 0.5"),
    ],
)
def test_bad_blocks(arguments: tuple[int, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HarmonicBlock(*arguments, norm=NORM)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return reference.with_rule_weights("hardnet39ds", **SMALL)


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet85"])
def test_keras_file(name: str, tmp_path: pathlib.Path) -> None:
    model = reference.with_rule_weights(name, **SMALL)
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    x = images(2)
    np.testing.assert_array_equal(
        convert_to_numpy(again(x, training=False)), convert_to_numpy(model(x, training=False))
    )


def test_fuse(network: keras.Model) -> None:
    """Every normalisation follows a convolution."""
    fused = kr.fuse(network)
    assert not [layer for layer in fused._flatten_layers() if isinstance(layer, BatchNorm)]
    x = images(2)
    assert reference.distance(convert_to_numpy(fused(x)), convert_to_numpy(network(x, training=False))) < 1e-5


@pytest.mark.parametrize(("policy", "rounding"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
def test_mixed_precision(policy: str, rounding: float, network: keras.Model) -> None:
    x = images(4)
    exact = convert_to_numpy(network(x, training=False))
    keras.config.set_dtype_policy(policy)
    model = kr.create_model("hardnet39ds", classifier_activation=None, **SMALL)
    model.set_weights(network.get_weights())
    assert model.get_layer("C4").output.dtype == policy.removeprefix("mixed_")
    assert reference.distance(convert_to_numpy(model(x, training=False)), exact) <= rounding
    step = reference.train_step(model, x, np.full((4, 10), 0.25, "float32"))
    assert all(np.isfinite(array).all() for array in (step.logits, *step.gradients.values(), *step.after.values()))


def test_pytorch_hardnet_is_the_same_network() -> None:
    """What the benchmarks compare with, against the authors' code."""
    torch = pytest.importorskip("torch", reason="needs PyTorch, to compare with")
    from benchmarks.torch_hardnet import create_model

    golden, model = reference.load("hardnet68"), create_model("hardnet68").eval()
    parameters = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    state = dict(zip(parameters, golden.state().values(), strict=True))
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=False)
    with torch.no_grad():
        logits = model(torch.from_numpy(golden.input("float32")).permute(0, 3, 1, 2))
    assert reference.distance(logits, golden.arrays["eval_logits_f64"]) < 2e-5
