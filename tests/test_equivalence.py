"""Forms that must agree, with carried weights, in inference and in training."""

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.equivalence import (
    carry_dual_path,
    carry_form,
    carry_keras_applications,
    carry_layout,
    carry_merge_and_run,
    carry_shared_dense_layer,
)
from keras_resnets.layers import Conv2D, NormAct
from keras_resnets.layers.merge_and_run import AveragedIdentityBlock, MergeAndRun
from keras_resnets.models.densenet import DenseLayer
from keras_resnets.models.dpn import DualPathBlock
from keras_resnets.models.resnetv2 import PreActBlock


def randomise(model: keras.Model, seed: int = 0) -> None:
    """Weights at which every variable matters: statistics and scales away from 0 and 1."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.startswith("float"):
            value = keras.ops.convert_to_numpy(variable)
            noise = rng.standard_normal(value.shape).astype(value.dtype)
            variable.assign(np.abs(value + 0.1 * noise) if "variance" in variable.path else value + 0.1 * noise)


def difference(a: keras.Model, b: keras.Model, shape: tuple[int, ...], training: bool) -> float:
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    left, right = (keras.ops.convert_to_numpy(model(x, training=training)) for model in (a, b))
    return float(np.abs(left - right).max() / np.abs(right).max())


@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.parametrize("name", ["resnext50_4x24d", "resnext29_2x64d_cifar"])
def test_resnext_forms_agree(name: str, form: str) -> None:
    small = {"depths": (1, 2, 1, 1)} if name.startswith("resnext50") else {"depth": 2, "base_width": 8}
    arguments = {"classes": 7, "classifier_activation": None, "input_shape": (48, 40, 3), **small}
    reference = kr.create_model(name, **arguments)
    other = kr.create_model(name, form=form, **arguments)
    back = kr.create_model(name, **arguments)
    randomise(reference)
    carry_form(reference, other)
    carry_form(other, back)
    assert difference(other, reference, (4, 48, 40, 3), training=False) < 1e-5
    assert difference(back, reference, (4, 48, 40, 3), training=False) == 0
    assert difference(other, reference, (4, 48, 40, 3), training=True) < 1e-4


def test_forms_of_different_networks_are_refused() -> None:
    source = kr.create_model("resnext29_2x64d_cifar", depth=1, base_width=8)
    target = kr.create_model("resnext29_2x64d_cifar", depth=2, base_width=8, form="b")
    with pytest.raises(ValueError, match="not forms of one network"):
        carry_form(source, target)


@pytest.mark.parametrize(("radix", "cardinality"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_resnest_layouts_agree(radix: int, cardinality: int) -> None:
    arguments = {
        "depth": 1, "widths": (32, 64, 64), "classes": 7, "classifier_activation": None, "radix": radix,
        "cardinality": cardinality,
    }  # fmt: skip
    reference = kr.create_model("resnest29_cifar", **arguments)
    other = kr.create_model("resnest29_cifar", layout="cardinality_major", **arguments)
    back = kr.create_model("resnest29_cifar", **arguments)
    randomise(reference)
    other.set_weights(reference.get_weights())
    unpermuted = difference(other, reference, (8, 32, 32, 3), training=False)
    carry_layout(reference, other)
    carry_layout(other, back)
    assert difference(other, reference, (8, 32, 32, 3), training=False) < 1e-5
    assert difference(back, reference, (8, 32, 32, 3), training=False) == 0
    assert difference(other, reference, (8, 32, 32, 3), training=True) < 1e-4
    # With a radix or a cardinality of 1 the two orders are one; otherwise the permutation is needed.
    assert (unpermuted > 1e-2) == (radix > 1 and cardinality > 1)


def test_layouts_of_different_networks_are_refused() -> None:
    source, target = (kr.create_model("resnest29_cifar", depth=1, radix=radix) for radix in (2, 4))
    with pytest.raises(ValueError, match="not forms of one network"):
        carry_layout(source, target)


NORM = {"epsilon": 1e-3, "momentum": 0.9}


def layer_randomised(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> keras.Model:
    """`layer` alone as a model, with weights at which every variable matters."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    randomise(model)
    return model


@pytest.mark.parametrize("split_last", [False, True])
def test_a_dual_path_block_is_a_residual_and_a_dense_path(split_last: bool) -> None:
    shape, filters, growth = (9, 7, 20), 12, 4
    block = DualPathBlock(filters, growth, 8, 1, norm=NORM, split_last=split_last)
    source = layer_randomised(block, shape)
    residual, dense = (PreActBlock(channels, 8, norm=NORM) for channels in (filters, growth))
    inputs = keras.Input(shape)
    target = keras.Model(
        inputs, keras.layers.Concatenate()([residual(inputs), inputs[..., filters:], dense(inputs)])
    )  # fmt: skip
    randomise(target, seed=1)
    carry_dual_path(block, residual, dense)
    assert target.output_shape == source.output_shape == (None, 9, 7, 24)
    for training in (False, True):
        assert difference(target, source, (4, *shape), training) < 1e-5
    for path in (residual, dense):  # both have seen the batch, and keep the statistics that the block keeps
        for own, theirs in zip(path.branch[0].weights, block.branch[0].weights, strict=True):
            np.testing.assert_allclose(own, theirs, rtol=1e-5)


def shared_dense_layers(count: int, growth: int = 6, width: int = 16, channels: int = 10) -> list[DenseLayer]:
    """Neighbours in a dense block; all that read a map read it through the same normalisation and 1x1."""
    layers = [DenseLayer(growth, width, norm=NORM, name=f"layer{i}") for i in range(count)]
    inputs = x = keras.Input((9, 7, channels))
    for layer in layers:
        x, _ = layer(x)
    randomise(keras.Model(inputs, x))
    last = layers[-1]
    for layer in layers[:-1]:
        for variable, shared in zip(layer.norm1.variables, last.norm1.variables, strict=True):
            variable.assign(shared[: variable.shape[0]])
        kernel = layer.bottleneck.conv.kernel
        kernel.assign(last.bottleneck.conv.kernel[:, :, : kernel.shape[2]])
    return layers


def test_dense_layers_that_share_their_first_convolution_are_residual_units() -> None:
    shape, layers = (9, 7, 10), shared_dense_layers(4)
    first, last = layers[0], layers[-1]
    units = [PreActBlock(16, norm=NORM, name=f"unit{i}") for i in range(3)]
    inputs = x = keras.Input(shape)
    for layer in layers:
        x, new = layer(x)
    dense = keras.Model(inputs, new)
    # Where the residual network begins and ends, the first layer's 1x1 and the last one's 3x3.
    into = [NormAct(NORM), Conv2D(16, 1, use_bias=False)]
    out_of = [NormAct(NORM), Conv2D(6, 3, padding=1, use_bias=False)]
    residual = keras.Sequential([inputs, *into, *units, *out_of])
    randomise(residual, seed=1)
    for (norm, conv), (own_norm, own_conv) in zip(
        (into, out_of), ((first.norm1, first.bottleneck.conv), (last.bottleneck.norm, last.conv)), strict=True
    ):
        norm.set_weights(own_norm.get_weights())
        conv.set_weights(own_conv.get_weights())
    for source, following, unit in zip(layers, layers[1:], units, strict=False):
        carry_shared_dense_layer(source, following, unit)
    for training in (False, True):
        assert difference(residual, dense, (4, *shape), training) < 1e-5


def test_dense_layers_that_do_not_share_are_refused() -> None:
    first, second = shared_dense_layers(2)
    first.bottleneck.conv.kernel.assign(2 * first.bottleneck.conv.kernel)
    with pytest.raises(ValueError, match="'layer0' and 'layer1' do not share"):
        carry_shared_dense_layer(first, second, PreActBlock(16, norm=NORM))


def test_a_projecting_dual_path_block_is_refused() -> None:
    block = DualPathBlock(12, 4, 8, 1, 2, norm=NORM, project=True)
    with pytest.raises(ValueError, match="must not have a projection"):
        carry_dual_path(block, PreActBlock(12, 8, norm=NORM), PreActBlock(4, 8, norm=NORM))


@pytest.mark.parametrize(
    ("channels", "arguments"),
    [(12, {"filters": 12}), (8, {"filters": 12, "strides": 2}), (16, {"filters": 16, "width": 4})],
)
def test_merge_and_run_is_a_residual_block_with_averaged_identity(channels: int, arguments: dict[str, int]) -> None:
    shape = (9, 7, 2 * channels)
    block = MergeAndRun(**arguments, norm=NORM)
    inputs = keras.Input(shape)
    streams = [inputs[..., :channels], inputs[..., channels:]]
    source = keras.Model(inputs, keras.layers.Concatenate()(block(streams)))
    residual = AveragedIdentityBlock(**arguments, norm=NORM)
    target = keras.Model(inputs, residual(inputs))
    randomise(source)
    carry_merge_and_run(block, residual)
    assert target.output_shape == source.output_shape
    assert len(target.trainable_variables) == len(source.trainable_variables) // 2  # the average is not trained
    for training in (False, True):
        assert difference(target, source, (4, *shape), training) < 1e-5
    # Both have seen the batch, and the two groups keep the statistics of the two streams.
    for grouped, first, second in zip(residual.branch, block.first, block.second, strict=True):
        own, theirs = grouped.norm.moving_variance, [run.norm.moving_variance for run in (first, second)]
        np.testing.assert_allclose(own, np.concatenate(theirs), rtol=1e-5)


@pytest.mark.parametrize("arguments", [{"merge": False}, {"join": True}])
def test_merge_and_run_without_two_merged_streams_is_refused(arguments: dict[str, bool]) -> None:
    source, target = MergeAndRun(8, norm=NORM, **arguments, name="run"), AveragedIdentityBlock(8, norm=NORM)
    source.build([(None, 8, 8, 8)] * 2)
    target.build((None, 8, 8, 16))
    with pytest.raises(ValueError, match="source 'run' must merge its streams and give two: merge=True, join=False"):
        carry_merge_and_run(source, target)


@pytest.mark.parametrize(
    ("application", "name"),
    [
        ("ResNet50", "resnet50_v1"),
        ("ResNet50V2", "resnet50_v2"),
        pytest.param("ResNet101", "resnet101_v1", marks=pytest.mark.slow),
        pytest.param("ResNet101V2", "resnet101_v2", marks=pytest.mark.slow),
    ],
)
def test_keras_applications_agree(application: str, name: str) -> None:
    shape = (64, 96, 3)
    source = getattr(keras.applications, application)(
        weights=None, input_shape=shape, classes=11, include_top=True, classifier_activation=None
    )
    target = kr.create_model(
        name, input_shape=shape, classes=11, classifier_activation=None, bn_epsilon=1.001e-5, weights=None
    )
    randomise(source)
    carry_keras_applications(source, target)
    assert difference(target, source, (2, *shape), training=False) < 1e-4


def test_keras_application_of_another_depth_is_refused() -> None:
    source = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="not forms of one network"):
        carry_keras_applications(source, kr.create_model("resnet18"))
