"""Multiply-accumulates and convolutional input/output, against published figures and by hand."""

import keras
import pytest

import keras_resnets as kr
from keras_resnets.costs import layer_costs
from keras_resnets.layers import Conv2D

# Millions of elements at 224x224 as printed by the HarDNet paper (arXiv 1909.00948, table 1 and figures). Its ResNets are v1.
# The counts of DenseNet, HarDNet-68 and the v1.5 forms to two decimals are this definition's, counted elsewhere.
PUBLISHED = {
    "resnet18": (4.7, 4.67),
    "resnet50_v1": (20.7, None),
    "resnet101_v1": (30.9, None),
    "resnet152_v1": (43.6, None),
    "resnet50": (None, 21.78),
    "resnet101": (None, 32.01),
    "resnet152": (None, 44.66),
    "densenet121": (21.9, 21.86),
    "densenet201": (31.8, 31.81),
    "hardnet68": (11.5, 11.47),
    "hardnet85": (None, 17.47),
    "hardnet39ds": (
        None,
        9.82,
    ),  # the paper's 8.2 and 15.3 discount depthwise convolutions by a factor it does not state
    "hardnet68ds": (None, 17.32),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_cio_is_the_published_one(name: str) -> None:
    printed, counted = PUBLISHED[name]
    millions = kr.model_info(name).cio / 1e6
    if printed is not None:
        assert millions == pytest.approx(printed, abs=0.06)  # the paper sometimes cuts digits off
    if counted is not None:
        assert round(millions, 2) == counted


def test_by_hand() -> None:
    inputs = keras.Input((8, 6, 4))
    x = Conv2D(10, 3, 2, padding=1, name="strided")(inputs)  # 4x3 positions
    x = keras.layers.Concatenate()([x, x])
    x = Conv2D(20, 1, groups=5, name="grouped")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(7, name="dense")(x))
    strided, grouped, dense = layer_costs(model)
    assert (strided.macs, strided.cio) == (4 * 3 * 10 * 9 * 4, 8 * 6 * 4 + 4 * 3 * 10)
    assert (grouped.macs, grouped.cio) == (4 * 3 * 20 * 4, 4 * 3 * 20 + 4 * 3 * 20)
    assert (dense.macs, dense.cio) == (140, 0)
    assert grouped.moc == 2 and strided.path == "strided"


def test_the_network_has_the_sum() -> None:
    info = kr.model_info("resnet20_cifar")
    costs = layer_costs(kr.create_model("resnet20_cifar"))
    assert info.cio == sum(cost.cio for cost in costs)
    assert info.moc == pytest.approx(sum(cost.macs for cost in costs) / info.cio, rel=1e-4)


def test_an_unknown_size_is_refused() -> None:
    model = keras.Sequential([keras.Input((None, 8, 3)), Conv2D(4, 3, name="conv")])
    with pytest.raises(ValueError, match="height or width of the input of '.*conv' is unknown"):
        layer_costs(model)
