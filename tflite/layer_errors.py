"""How far a quantised TFLite file is from the float32 one at every operator, and how much of that each operator adds."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tflite.graph import Graph, Operator
from tflite.matching import matched, titles


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The errors at one operator; each is relative, 0 for none.

    Attributes:
        depth: place of the operator in the float32 file.
        name: of the layer.
        kind: of the operator.
        channels: of its output.
        rms: root mean square of the float32 values.
        accumulated: root mean square error of the quantised values by `rms`: of this operator and all before it.
        own: the same against what the float32 operator computes of the quantised file's inputs: what this one operator
            adds. None where its inputs have no counterpart.
        lost: the same by channel, each against the spread of its own values: the root mean square over the channels, none
            counting more than 1. An operator with one very large channel has a small `own`, and has lost all the others.
    """

    depth: int
    name: str
    kind: str
    channels: int
    rms: float
    accumulated: float
    own: float | None
    lost: float | None

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise of the accumulated error, in decibels."""
        return -20 * math.log10(max(self.accumulated, 1e-12))


class _Sums:
    """Running sums over images, by channel."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.values, self.squares, self.accumulated, self.own = np.zeros((4, channels))

    def add(self, exact: np.ndarray, quantised: np.ndarray, alone: np.ndarray | None) -> None:
        exact, quantised = (np.float64(values.reshape(-1, values.shape[-1])) for values in (exact, quantised))
        self.count += len(exact)
        self.values += exact.sum(0)
        self.squares += (exact**2).sum(0)
        self.accumulated += ((quantised - exact) ** 2).sum(0)
        if alone is not None:
            self.own += ((quantised - alone.reshape(quantised.shape)) ** 2).sum(0)

    def relative(self, errors: np.ndarray) -> float:
        return float(np.sqrt(errors.sum() / max(self.squares.sum(), 1e-30)))

    def lost(self) -> float:
        spread = self.squares - self.values**2 / self.count
        alive = spread > 1e-9 * max(float(spread.max()), 1e-30)  # a channel that never fires has nothing to lose
        if not alive.any():
            return 0.0
        return float(np.sqrt(np.minimum(self.own[alive] / spread[alive], 1).mean()))


def layer_errors(reference: Graph, quantised: Graph, images: np.ndarray,
                 advance: Callable[[int], None] = lambda count: None) -> list[LayerError]:  # fmt: skip
    """The errors at all operators that both files have, in the order of execution.

    Args:
        reference: the float32 file.
        quantised: made of the same network.
        images: `(images, height, width, channels)` as the network takes them; what does not fill a batch is left out.
        advance: is told how many images are done.

    Raises:
        ValueError: the files take images of different shapes, or have no operators in common.
    """
    if reference.input_shape != quantised.input_shape:
        raise ValueError(f"the files take different images, {reference.input_shape} and {quantised.input_shape}")
    pairs = matched(reference.operators, quantised.operators)
    pairs = {place: other for place, other in pairs.items()
             if reference.is_floating(reference.operators[place].output) and quantised.is_floating(other.output)}  # fmt: skip
    if not pairs:
        raise ValueError("the files have no operators in common: they were not made of the same network")
    counterparts = {reference.operators[place].output: other.output for place, other in pairs.items()}
    counterparts[reference.input] = quantised.input
    alone = {place: reference.alone(reference.operators[place]) for place in pairs
             if all(tensor in counterparts for tensor in reference.operators[place].inputs)}  # fmt: skip
    sums = {place: _Sums(_channels(reference.operators[place])) for place in pairs}
    size = reference.input_shape[0]
    for start in range(0, len(images) - size + 1, size):
        batch = images[start : start + size]
        exact, computed = reference.values(batch), quantised.values(batch)
        for place, other in pairs.items():
            operator = reference.operators[place]
            inputs = [computed[counterparts[tensor]] for tensor in operator.inputs] if place in alone else []
            by_itself = alone[place](inputs) if place in alone else None
            sums[place].add(exact[operator.output], computed[other.output], by_itself)
        advance(size)
    names = titles(reference.operators)
    return [_error(reference.operators[place], names[place], sums[place], place in alone) for place in sorted(pairs)]


def _channels(operator: Operator) -> int:
    return operator.shape[-1] if operator.shape else 1


def _error(operator: Operator, name: str, sums: _Sums, alone: bool) -> LayerError:
    rms = math.sqrt(sums.squares.sum() / (sums.count * len(sums.squares)))
    own, lost = (sums.relative(sums.own), sums.lost()) if alone else (None, None)
    return LayerError(
        operator.place, name, operator.kind, _channels(operator), rms, sums.relative(sums.accumulated), own, lost
    )


def worst_first(errors: list[LayerError]) -> list[LayerError]:
    """By what each operator loses; those of which that is not known come last, by their accumulated error."""
    return sorted(errors, key=lambda error: (error.lost is None, -(error.lost or 0), -error.accumulated))
