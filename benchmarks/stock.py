"""Networks as a Keras user would write them from stock layers: what the package is compared with.

With our weights copied into them they compute what ours compute. DenseNet-121 is that of `keras.applications`.
"""

import functools
from collections.abc import Callable

import keras

from benchmarks import stock_resnets
from benchmarks.stock_dpn import dpn
from benchmarks.stock_inception import inception_v3


def densenet121(
    input_shape: tuple[int, int, int] = (224, 224, 3), depths: tuple[int, ...] = (6, 12, 24, 16)
) -> keras.Model:
    """`keras.applications.DenseNet121` (or, with other depths, its relatives), giving logits."""
    from keras.src.applications.densenet import DenseNet  # what the public functions call with their depths

    return DenseNet(depths, weights=None, input_shape=input_shape, classifier_activation=None)


# By the names of `keras_resnets.create_model`.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    **stock_resnets.NETWORKS,
    "densenet121": densenet121,
    "dpn68": functools.partial(dpn, depths=(3, 4, 12, 3), growth=(16, 32, 32, 64), stem=(10, 3), width=128, filters=64),
    "inception_v3": inception_v3,
}
