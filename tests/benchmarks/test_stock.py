"""What the package is compared with is the same network: with our weights in it, it computes what ours computes."""

import math
import re
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from benchmarks import stock
from keras_resnets.costs import without_values

# Fewer blocks, so that a test is quick; in every network one stage has blocks of both kinds.
DEPTHS = {"densenet121": (1, 2, 1, 2), "inception_v3": None}


@pytest.mark.parametrize("name", stock.NETWORKS)
def test_parameters(name: str) -> None:
    with without_values():
        network = stock.NETWORKS[name]((96, 96, 3))
    assert (
        sum(math.prod(variable.shape) for variable in network.trainable_variables) == reference.ENTRIES[name]["params"]
    )
    assert network.output_shape == (None, 1000)


def in_order(network: keras.Model, kind: type) -> list[Any]:
    """Layers in the order in which they were made, which Keras numbers; those with names of their own, as they lie."""
    positions = {id(variable): position for position, variable in enumerate(network.variables)}

    def order(layer: Any) -> int:
        number = re.fullmatch(r"(?:conv2d|batch_normalization|dense)(?:_(\d+))?", layer.name)
        return int(number[1] or 0) if number else positions[id(layer.weights[0])]

    return sorted((layer for layer in network._flatten_layers() if isinstance(layer, kind)), key=order)


@pytest.mark.parametrize("name", stock.NETWORKS)
def test_values(name: str) -> None:
    depths = DEPTHS.get(name, (1, 2, 1, 1))
    size = 64 if depths else 75
    options: dict[str, Any] = {"depths": depths} if depths else {}
    theirs = stock.NETWORKS[name]((size, size, 3), **options)
    if name == "densenet121":
        options["bn_epsilon"] = 1.001e-5  # keras.applications'
    ours = kr.create_model(name, classifier_activation=None, input_shape=(size, size, 3), **options)
    rng = np.random.default_rng(0)
    for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense):
        for our, their in zip(in_order(ours, kind), in_order(theirs, kind), strict=True):
            for variable, target in zip(our.weights, their.weights, strict=True):
                variable.assign(variable + 0.1 * rng.random(variable.shape) * float(np.std(variable) or 1))
                target.assign(variable)
    images = rng.standard_normal((2, size, size, 3)).astype("float32")
    a, b = (keras.ops.convert_to_numpy(network(images, training=True)) for network in (ours, theirs))
    assert np.abs(a - b).max() < 1e-3 * np.abs(a).max()
