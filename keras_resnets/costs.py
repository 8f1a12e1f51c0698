"""What a network costs to run: multiply-accumulates, and the traffic of its feature maps."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
from keras.src.backend.common import global_state


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one convolution or dense layer costs for one image.

    Attributes:
        path: of the layer in its network.
        macs: multiply-accumulates.
        cio: elements of the feature maps that a convolution reads and writes (convolutional input/output; Chao et al.,
            2019, arXiv 1909.00948, section 2): a concatenated input counts in every layer that reads it, weights do not
            count. 0 for dense layers.
    """

    path: str
    macs: int
    cio: int

    @property
    def moc(self) -> float:
        """Multiply-accumulates per element of `cio`. A layer with a low one waits for memory."""
        return self.macs / self.cio if self.cio else math.inf


def layer_costs(model: keras.Model) -> list[LayerCost]:
    """The costs of every convolution and dense layer of `model`, at any depth, for one image of the model's input size.

    Raises:
        ValueError: the model's height or width is unknown.
    """
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Dense))
    ]
    return [_cost(layer) for layer in layers]


def _cost(layer: keras.layers.Layer) -> LayerCost:
    given = layer.get_build_config()["input_shape"]
    made = layer.compute_output_shape(given)
    if None in (*given[1:], *made[1:]):
        raise ValueError(
            f"the height or width of the input of {layer.path!r} is unknown; give the model an input_shape"
        )
    macs = math.prod(layer.kernel.shape) * math.prod(made[1:-1])
    dense = isinstance(layer, keras.layers.Dense)
    return LayerCost(layer.path, macs, 0 if dense else math.prod(given[1:]) + math.prod(made[1:]))


class Sizes(NamedTuple):
    """What `ModelInfo` says of a network's size."""

    params: int
    gmacs: float
    cio: int


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Networks made inside have variables with shapes but no values, and nothing is allocated for them.

    At its end a `keras.StatelessScope` gives values to the variables made inside, or leaves it to the next scope's end: they
    are taken off that list, for which Keras has no public name.
    """
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def measured(build: Callable[[], keras.Model]) -> Sizes:
    """The sizes of the model that `build` makes, which is built without allocating its variables: the largest takes seconds
    and no memory."""
    with without_values():
        model = build()
        params = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        costs = layer_costs(model)
    macs, cio = sum(cost.macs for cost in costs), sum(cost.cio for cost in costs)
    return Sizes(params, round(macs / 1e9, 6), cio)
