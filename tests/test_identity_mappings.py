"""The ablation forms against the networks they must equal, and against the paper's formulas."""

import keras
import numpy as np
import pytest

import keras_resnets as kr
from tests.test_equivalence import difference, randomise

SHAPE = (32, 32, 3)


def test_original_order_is_the_cifar_resnet() -> None:
    ablation = kr.create_model("identity_mappings110_cifar", depth=3, classifier_activation=None)
    resnet = kr.create_model("resnet20_cifar", classifier_activation=None)
    randomise(resnet)
    state = {name: to_torch(variable) for name, (variable, to_torch) in kr.pytorch_parameters(resnet).items()}
    kr.load_pytorch_weights(ablation, state)
    assert difference(ablation, resnet, (2, *SHAPE), training=False) < 1e-6


def test_full_order_is_the_preactivation_resnet() -> None:
    options = {"classifier_activation": None, "depth": 3}
    ablation = kr.create_model("identity_mappings110_cifar", activation_order="full", shortcut="B", **options)
    preresnet = kr.create_model("preresnet110_cifar", **options)
    randomise(preresnet)
    carried = {variable.path: variable for variable in preresnet.variables}
    assert sorted(carried) == sorted(variable.path for variable in ablation.variables)
    for variable in ablation.variables:
        variable.assign(carried[variable.path])
    assert difference(ablation, preresnet, (2, *SHAPE), training=True) < 1e-6


@pytest.mark.parametrize("order", ["bn_after_addition", "relu_before_addition", "relu_only", "full"])
def test_orders_have_the_parameters_of_resnet110(order: str) -> None:
    """Every order has the same convolutions, and the same normalisations in other places."""
    with keras.StatelessScope():
        network = kr.create_model("identity_mappings110_cifar", activation_order=order)
        assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == 1_727_962


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ("identity", lambda f, x, g: f + x),
        ("constant", lambda f, x, g: 0.3 * f + 0.5 * x),
        ("exclusive_gate", lambda f, x, g: g * f + (1 - g) * x),
        ("shortcut_gate", lambda f, x, g: f + (1 - g) * x),
        ("conv1x1", lambda f, x, g: f + np.log(g / (1 - g)) + 2.0),
        ("dropout", lambda f, x, g: f + x),
    ],
)
def test_skips_compute_the_formulas_of_the_paper(skip: str, expected) -> None:
    from keras_resnets.models.identity_mappings import SkipScaling

    rng = np.random.default_rng(0)
    f, x = rng.standard_normal((2, 2, 3, 3, 4)).astype("float32")
    layer = SkipScaling(skip, shortcut_scale=0.5, residual_scale=0.3, gate_bias=-2.0)
    layer.build([f.shape, x.shape])
    kernel = layer.weights[0].numpy()[0, 0] if layer.weights else np.zeros((4, 4))
    gate = 1 / (1 + np.exp(-(x @ kernel - 2.0)))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer([f, x])), expected(f, x, gate), atol=1e-5)


def test_options_outside_the_ablations_are_refused() -> None:
    with pytest.raises(ValueError, match="drop_path_rate"):
        kr.create_model("identity_mappings110_cifar", drop_path_rate=0.1)
    with pytest.raises(ValueError, match="activation_order must be one of 'original'"):
        kr.create_model("identity_mappings110_cifar", activation_order="e")


@pytest.mark.parametrize("skip", ["conv1x1", "exclusive_gate", "dropout"])
def test_compiled_as_it_is_step_by_step(skip: str) -> None:
    """A convolution after padded channels: graph rewriting once took the padding away."""
    network = kr.create_model("identity_mappings110_cifar", depth=1, skip=skip, input_shape=(8, 8, 3))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    eager = keras.ops.convert_to_numpy(network(images, training=False))
    np.testing.assert_allclose(network.predict(images, verbose=0), eager, rtol=1e-4, atol=1e-5)
