"""The variables of two forms, brought together."""

from collections.abc import Iterable

import keras

from keras_resnets.weights.pytorch import REGULARISER_STATES


def stateful(model: keras.Model) -> list[keras.Variable]:
    """The model's variables but for the states of regularisers."""
    return [variable for variable in model.variables if not variable.path.endswith(REGULARISER_STATES)]


def signatures(model: keras.Model) -> list[str]:
    """Paths and shapes of `stateful` variables."""
    return [f"{variable.path} {tuple(variable.shape)}" for variable in stateful(model)]


def require_equal(given: Iterable[str], wanted: Iterable[str], source: keras.Model, target: keras.Model) -> None:
    """Raises ValueError if `given` of the source are not those `wanted` by the target."""
    difference = sorted(set(given) ^ set(wanted))
    if difference:
        raise ValueError(f"source {source.name!r} and target {target.name!r} are not forms of one network; they differ in "
                         f"{len(difference)} variables: {', '.join(difference[:5])} …")  # fmt: skip
