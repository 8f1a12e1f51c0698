"""Deep fusion: the blocks against their formulas, what mistakes do, depths of the study, exports."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import reference
from keras import ops

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.layers import BatchNorm, ConvNorm
from keras_resnets.layers.base import chain
from keras_resnets.layers.merge_and_run import AveragedIdentityBlock, InceptionLikeBlock, MergeAndRun
from keras_resnets.models.deep_fusion import LongShortBlock, stage_depths

NORM = {"epsilon": 2e-5, "momentum": 0.9, "biased_variance": True}


def with_rule_weights(name: str, **options: Any) -> keras.Model:
    model = kr.create_model(name, classifier_activation=None, **options)
    parameters = kr.pytorch_parameters(model).items()
    kr.load_pytorch_weights(model, {key: reference.weight(key, to_torch(v).shape) for key, (v, to_torch) in parameters})
    return model


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype("float32")


def randomised(layer: keras.layers.Layer, input_shape: Any) -> Any:
    """The layer, built, with its normalisations away from their start."""
    layer.build(input_shape)
    rng = np.random.default_rng(1)
    for variable in layer.weights:
        if not variable.path.endswith("kernel"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return layer


def computed(layers: list[keras.layers.Layer], x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(chain(layers, x))


@pytest.mark.parametrize(
    ("layers", "convs", "depths"),
    [(110, 4, (9, 9, 9)), (62, 4, (5, 5, 5)), (98, 4, (8, 8, 8)), (56, 4, (4, 4, 5)), (110, 2, (18, 18, 18)),
     (20, 1, (6, 6, 6)), (21, 2, (3, 3, 3)), (14, 4, (1, 1, 1))],
)  # fmt: skip
def test_stage_depths(layers: int, convs: int, depths: tuple[int, ...]) -> None:
    """The README's "--depth=56" builds 4, 4, 5 blocks, not the network of 56 layers."""
    assert stage_depths(layers, convs) == depths


@pytest.mark.parametrize("layers", [13, 2, 0, -5])
def test_too_few_layers(layers: int) -> None:
    with pytest.raises(
        ValueError, match=f"layers must be at least 14 for three stages of blocks of 4 .*, not {layers}"
    ):
        stage_depths(layers, 4)


@pytest.mark.parametrize(
    ("name", "depths", "layers"),
    [("dmrn56_cifar", (9, 9, 9), 56), ("dmrn32_w4_cifar", (5, 5, 5), 32), ("dmrn50_w4_cifar", (8, 8, 8), 50),
     ("diln56_cifar", (9, 9, 9), 56), ("fusenet_resnet56_cifar", (9, 9, 9), 56), ("fuse6_56_cifar", (2, 2, 2), 56),
     ("fuse3_20_cifar", (1, 1, 1), 20), ("fusenet_plain20_cifar", (6, 6, 6), 20)],
)  # fmt: skip
def test_depths(name: str, depths: tuple[int, ...], layers: int) -> None:
    """Blocks per stage, and convolutions on the longest path with the classifier."""
    with without_values():
        model = kr.create_model(name)
    blocks = [layer for layer in model.layers if "_block" in layer.name]
    assert tuple(sum(block.name.startswith(f"stage{stage}_") for block in blocks) for stage in (1, 2, 3)) == depths
    longest = [1 if isinstance(b, ConvNorm) else len(getattr(b, "first", None) or b.branch) for b in blocks]
    assert 1 + sum(longest) + 1 == layers


@pytest.mark.parametrize(
    ("name", "params"),
    [("dmrn56_cifar", 1_716_276), ("dmrn32_w4_cifar", 14_874_532), ("dmrn50_w4_cifar", 24_175_012),
     ("fusenet_resnet110_cifar", 1_736_564), ("diln56_cifar", 1_713_524), ("diln56_noidentity_cifar", 1_710_772)],
)  # fmt: skip
def test_counts_with_100_classes(name: str, params: int) -> None:
    with without_values():
        model = kr.create_model(name, classes=100)
        assert sum(np.prod(variable.shape) for variable in model.trainable_variables) == params


def test_normalisation() -> None:
    """MXNet's: epsilon 2e-5, and moving variances of the biased variance."""
    for name in ("dmrn32_cifar", "fuse3_20_cifar", "dfn_mr26"):
        with without_values():
            model = kr.create_model(name)
        norms = [layer for layer in model._flatten_layers() if isinstance(layer, BatchNorm)]
        assert {(norm.epsilon, norm.momentum, norm.biased_variance) for norm in norms} == {(2e-5, 0.9, True)}


@pytest.mark.parametrize("arguments", [{}, {"strides": 2}, {"width": 3}])
@pytest.mark.parametrize("join", [False, True])
def test_merge_and_run(arguments: dict[str, int], join: bool) -> None:
    a, b = np.abs(images(2, 3, 7, 6, 8))
    block = randomised(MergeAndRun(8, norm=NORM, join=join, **arguments), [a.shape, b.shape])
    merged = (computed(block.lines[0], a) + computed(block.lines[1], b)) / 2
    first, second = computed(block.first, a), computed(block.second, b)
    expected = [merged + first + second] if join else [merged + first, merged + second]
    outputs = block([a, b])
    shapes = block.compute_output_shape([a.shape, b.shape])
    for output, shape, value in zip(
        [outputs] if join else outputs, [shapes] if join else shapes, expected, strict=True
    ):
        assert output.shape == shape
        np.testing.assert_allclose(output, np.maximum(value, 0), rtol=1e-5, atol=1e-5)
    assert [len(line) for line in block.lines] == ([1, 1] if "strides" in arguments else [0, 0])


def test_streams_of_merge_and_run_only_run_without_merge() -> None:
    a, b = images(2, 3, 7, 6, 8)
    block = randomised(MergeAndRun(12, 4, norm=NORM, merge=False), [a.shape, b.shape])
    for output, branch, x in zip(block([a, b]), (block.first, block.second), (a, b), strict=True):
        np.testing.assert_allclose(output, np.maximum(computed(branch, x), 0), rtol=1e-5, atol=1e-6)


def test_merging_is_idempotent() -> None:
    """With branches that add nothing, both streams become their mean, and stay it; as a matrix, M² = M."""
    a, b = np.abs(images(2, 3, 7, 6, 8))
    block = MergeAndRun(8, norm=NORM, zero_gamma=True)
    once = block([a, b])
    twice = block(once)
    for stream in (*once, *twice):
        np.testing.assert_allclose(stream, (a + b) / 2, rtol=1e-6)
    residual = AveragedIdentityBlock(8, norm=NORM)
    residual.build((None, 7, 6, 16))
    matrix = ops.convert_to_numpy(residual.shortcut[-1].kernel)[0, 0]
    np.testing.assert_array_equal(matrix @ matrix, matrix)
    assert np.linalg.matrix_rank(matrix) == 8


@pytest.mark.parametrize(
    ("filters", "strides", "identity"), [(8, 1, True), (8, 1, False), (12, 2, True), (12, 2, False)]
)
def test_inception_like_block(filters: int, strides: int, identity: bool) -> None:
    x = images(3, 7, 6, 8)
    block = randomised(InceptionLikeBlock(filters, strides, norm=NORM, identity=identity), x.shape)
    expected = computed(block.first, x) + computed(block.second, x)
    if identity:
        expected = expected + computed(block.lines[0], x)
    outputs = block(x)
    assert outputs.shape == block.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(outputs, np.maximum(expected, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("arguments", "short"), [({}, 0), ({"short_conv": True}, 1), ({"strides": 2}, 1)])
def test_long_short_block(arguments: dict[str, Any], short: int) -> None:
    x = images(3, 7, 6, 8)
    block = randomised(LongShortBlock(8, 3, norm=NORM, **arguments), x.shape)
    assert [conv.conv.kernel_size for conv in block.shortcut] == [(3, 3)] * short
    assert [conv.activation.__name__ for conv in block.branch] == ["relu", "relu", "linear"]
    expected = computed(block.branch, x) + computed(block.shortcut, x)
    np.testing.assert_allclose(block(x), np.maximum(expected, 0), rtol=1e-5, atol=1e-5)


def test_only_the_first_fusion_and_changes_of_shape_have_a_short_convolution() -> None:
    model = kr.create_model("fuse6_20_cifar")
    blocks = [layer for layer in model.layers if "_block" in layer.name]
    assert [len(block.shortcut) for block in blocks] == [1, 0, 1, 0, 1, 0]


def test_imagenet_blocks_merge_where_the_channels_stay() -> None:
    with without_values():
        model = kr.create_model("dfn_mr50")
    blocks = [layer for layer in model.layers if "_block" in layer.name]
    assert [len(block.lines) for block in blocks] == [0, 0, 2, 0, *[2] * 10, 0, 2]
    assert not any(line for block in blocks for line in block.lines)  # identities all
    assert model.get_layer("avg_pool").input.shape[-1] == 4096


def _one_projection(model: keras.Model) -> None:
    first, second = model.get_layer("stage2_block1").lines
    second[0].set_weights(first[0].get_weights())


def _last_block_reads_one_stream(model: keras.Model) -> None:
    norm = model.get_layer("stage3_block9").second[-1].norm
    norm.gamma.assign(ops.zeros_like(norm.gamma))
    norm.beta.assign(ops.zeros_like(norm.beta))


def _epsilon(model: keras.Model) -> None:
    for layer in model._flatten_layers():
        if isinstance(layer, BatchNorm):
            layer.epsilon = 1e-5


def _streams_swapped(model: keras.Model) -> None:
    kernel = model.get_layer("predictions").kernel
    kernel.assign(ops.roll(kernel, 2048, axis=0))


def _pool_pads_zeros(model: keras.Model) -> None:
    model.get_layer("stem_pool").nonnegative = True


# What mistakes do to the authors' code (max|Δ| / max|ref| of eval logits), from golden/README.md's origin.
MISTAKES = [
    ("dmrn56_cifar", _one_projection, 1.7e-1),
    ("dmrn56_cifar", _last_block_reads_one_stream, 4.5e-1),
    ("dmrn56_cifar", _epsilon, 1.4e-4),
    pytest.param("dfn_mr50", _streams_swapped, 7.6e-1, marks=pytest.mark.slow),
    ("dfn_mr50", _pool_pads_zeros, 6.3e-4),
]


@pytest.mark.parametrize(("name", "mistake", "effect"), MISTAKES)
def test_the_check_sees_mistakes(name: str, mistake: Any, effect: float) -> None:
    """A mistake put into our network moves the logits exactly as far as it moves the reference's."""
    golden = reference.load(name)
    model = golden.build()
    mistake(model)
    assert reference.eval_distances(golden, model, "float32")["eval: logits"] == pytest.approx(effect, rel=0.05)


def test_streams_start_as_copies() -> None:
    """Exchanging the branches of every block exchanges the streams, and in the last block, which joins them, nothing."""
    model = with_rule_weights("dmrn32_cifar", depths=(1, 2, 2))
    x = images(2, 32, 32, 3)
    expected = ops.convert_to_numpy(model(x, training=False))
    for block in (layer for layer in model.layers if isinstance(layer, MergeAndRun)):
        lines = zip(*block.lines, strict=True)
        for first, second in [*zip(block.first, block.second, strict=True), *lines]:
            weights = first.get_weights()
            first.set_weights(second.get_weights())
            second.set_weights(weights)
    assert reference.distance(ops.convert_to_numpy(model(x, training=False)), expected) < 1e-5


SMALL: dict[str, dict[str, Any]] = {
    "dmrn32_cifar": {"depths": (1, 2, 2)},
    "diln32_cifar": {"depths": (1, 1, 2)},
    "diln56_noidentity_cifar": {"depths": (1, 1, 1)},
    "fusenet_plain20_cifar": {"depths": (1, 1, 2)},
    "fuse6_20_cifar": {"convs": 2},
    "dfn_mr26": {"depths": (1, 2, 1, 1), "input_shape": (64, 64, 3), "classes": 10},
}


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_fused(name: str, tmp_path: pathlib.Path) -> None:
    model = with_rule_weights(name, **SMALL[name])
    model.save(tmp_path / "net.keras")
    x = images(2, *model.input_shape[1:])
    expected = ops.convert_to_numpy(model(x, training=False))
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(x, training=False), expected)
    fused = kr.fuse(loaded)
    assert not any(isinstance(layer, BatchNorm) for layer in fused._flatten_layers())
    assert reference.distance(ops.convert_to_numpy(fused(x, training=False)), expected) < 1e-5


def test_features() -> None:
    """A level of two streams holds both, the first before the second."""
    model = with_rule_weights("dmrn32_cifar", depths=(1, 1, 1))
    x = images(2, 32, 32, 3)
    features = kr.feature_extractor(model, ("C1", "C2", "C3", "C4"))(x)
    shapes = {level: tuple(map_.shape) for level, map_ in features.items()}
    assert shapes == {"C1": (2, 32, 32, 16), "C2": (2, 32, 32, 32), "C3": (2, 16, 16, 64), "C4": (2, 8, 8, 64)}
    first, second = model.get_layer("stage1_block1")([features["C1"], features["C1"]])
    np.testing.assert_allclose(features["C2"][..., :16], first, rtol=1e-5)
    np.testing.assert_allclose(features["C2"][..., 16:], second, rtol=1e-5)

    with without_values():
        extractor = kr.feature_extractor(kr.create_model("dfn_mr50"), ("C1", "C2", "C3", "C4", "C5"))
    assert [shape[1:] for shape in extractor.output_shape] == [
        (112, 112, 64), (56, 56, 512), (28, 28, 1024), (14, 14, 2048), (7, 7, 4096)
    ]  # fmt: skip


# The largest differences that rounding activations to 11 or 8 bits explains, as in test_mixed_precision.py.
@pytest.mark.parametrize(("policy", "rounding"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
@pytest.mark.parametrize("name", ["dmrn32_cifar", pytest.param("diln32_cifar", marks=pytest.mark.slow)])
def test_mixed_precision(name: str, policy: str, rounding: float) -> None:
    x = images(4, 32, 32, 3)
    expected = ops.convert_to_numpy(with_rule_weights(name, **SMALL[name])(x, training=False))
    keras.config.set_dtype_policy(policy)
    model = with_rule_weights(name, **SMALL[name])
    assert model.get_layer("C2").output.dtype == policy.removeprefix("mixed_")
    logits = model(x, training=False)
    assert logits.dtype == "float32"
    assert reference.distance(ops.convert_to_numpy(logits), expected) <= rounding
    step = reference.train_step(model, x, np.full((4, 10), 0.25, "float32"))
    assert all(np.isfinite(array).all() for array in (step.logits, *step.gradients.values(), *step.after.values()))


def test_drop_path_drops_branches() -> None:
    """In training a stream loses its branch or has it doubled, each by itself; merging stays."""
    a, b = np.abs(images(2, 64, 4, 4, 8))
    block = randomised(MergeAndRun(8, norm=NORM, drop_path=0.5), [a.shape, b.shape])
    outputs = [ops.convert_to_numpy(y) for y in block([a, b], training=True)]
    dropped = [np.isclose(y, (a + b) / 2, rtol=1e-5).all(axis=(1, 2, 3)) for y in outputs]
    assert [0.3 < rows.mean() < 0.7 for rows in dropped] == [True, True]
    assert (dropped[0] != dropped[1]).any()


def test_a_branch_alone_is_never_dropped() -> None:
    model = kr.create_model("dfn_mr26", drop_path_rate=0.5, **SMALL["dfn_mr26"])
    rates = [layer.drop_path.rate for layer in model.layers if isinstance(layer, MergeAndRun)]
    assert rates == pytest.approx([0, 0, 0.25, 0, 0])  # only the third of five blocks merges


def test_zero_gamma_starts_networks_without_branches() -> None:
    """Where there is no shortcut a branch must not start at zero: nothing would ever come through."""
    model = kr.create_model("dfn_mr26", zero_gamma=True, **SMALL["dfn_mr26"])
    zero = {
        v.path.split("/")[0] for v in model.variables if v.path.endswith("gamma") and not ops.convert_to_numpy(v).any()
    }
    assert zero == {"stage2_block2"}


BAD_OPTIONS = [
    ("dmrn56_cifar", {"depths": (0, 9, 9)}, r"depths must be 3 whole numbers above 0, not \(0, 9, 9\)"),
    ("dmrn56_cifar", {"depths": (9, 9)}, "depths must be 3 whole numbers above 0"),
    ("dmrn56_cifar", {"widths": (16, 0, 64)}, "widths must be 3 whole numbers above 0"),
    ("dmrn56_cifar", {"widths": 16}, "widths must be 3 whole numbers above 0, not 16"),
    ("dmrn56_cifar", {"depth": 9}, "unknown option 'depth': did you mean 'depths'"),
    ("dmrn56_cifar", {"identity": False}, "unknown option 'identity'"),
    ("diln56_cifar", {"identity": "no"}, "identity must be True or False, not 'no'"),
    ("fuse3_20_cifar", {"convs": 0}, "convs must be a whole number above 0, not 0"),
    ("dfn_mr50", {"depths": (1, 2, 11)}, "depths must be 4 whole numbers above 0"),
    ("fusenet_plain20_cifar", {"drop_path_rate": 0.1}, "drop_path_rate must be 0.0: plain networks have no shortcuts"),
    ("fusenet_plain20_cifar", {"zero_gamma": True}, "zero_gamma must be False: plain networks have no shortcuts"),
    ("diln56_noidentity_cifar", {"zero_gamma": True}, "zero_gamma must be False: blocks with identity=False have no"),
    ("diln56_cifar", {"identity": False, "drop_path_rate": 0.2}, "drop_path_rate must be 0.0: blocks with identity=False"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kr.create_model(name, **options)


@pytest.mark.parametrize("shapes", [(None, 8, 8, 16), [(None, 8, 8, 16)], [(None, 8, 8, 16), (None, 8, 8, 8)]])
def test_two_streams_are_needed(shapes: Any) -> None:
    with pytest.raises(ValueError, match="input must be two streams of one shape, not"):
        MergeAndRun(16, norm=NORM).build(shapes)


def test_too_small_an_image() -> None:
    with pytest.raises(ValueError, match="at least 32 x 32 pixels"):
        kr.create_model("dfn_mr50", input_shape=(31, 64, 3))
