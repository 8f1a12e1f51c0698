"""Learning rates over the steps of a run."""

import abc
import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from training.recipe import Recipe


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> "WarmupSchedule":
    """The learning rate over a run of `recipe`, scaled for its batch size.

    Raises:
        ValueError: there is no step after the warm-up, or the rate is to fall within it.
    """
    wanted = recipe.schedule
    peak = recipe.optimizer.lr
    if recipe.optimizer.lr_batch:
        peak *= recipe.batch_size / recipe.optimizer.lr_batch

    def steps(epochs: float) -> int:
        return round(epochs * steps_per_epoch)

    warmup: dict[str, Any] = {"warmup_from": wanted.warmup_from, "warmup": wanted.warmup}
    warmup_steps, total_steps = steps(wanted.warmup_epochs), recipe.epochs * steps_per_epoch
    if warmup_steps >= total_steps:
        raise ValueError(
            f"schedule.warmup_epochs {wanted.warmup_epochs:g} must be less than the {recipe.epochs} epochs"
        )
    if wanted.name == "cosine":
        return WarmupCosine(peak, warmup_steps, total_steps, wanted.final, **warmup)
    if wanted.name == "step":
        drops = [steps(epoch) for epoch in wanted.drop_epochs]
        return WarmupSteps(peak, warmup_steps, drops, wanted.factor, **warmup)
    if wanted.name == "exponential":
        return WarmupExponential(peak, warmup_steps, max(steps(wanted.every_epochs), 1), wanted.factor, **warmup)
    return WarmupSteps(peak, warmup_steps, [], **warmup)


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """A rate that rises to its peak before it falls.

    Step t, counted from 0, while t < warmup_steps: `peak * (t + 1) / warmup_steps`, or, with a share f = `warmup_from`,
    `peak * (f + (1 - f) * t / warmup_steps)`, or `peak * f` all the time for the warm-up "constant".

    Args:
        peak: the highest rate.
        warmup_steps: may be 0.
        warmup_from: share of the peak that the warm-up starts with; 0 for the first of `warmup_steps` equal parts.
        warmup: "linear" or "constant".

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, peak: float, warmup_steps: int, warmup_from: float = 0.0,
                 warmup: Literal["linear", "constant"] = "linear") -> None:  # fmt: skip
        if not warmup_steps >= 0:
            raise ValueError(f"warmup_steps must be at least 0, not {warmup_steps!r}")
        if not 0 <= warmup_from <= 1:
            raise ValueError(f"warmup_from must be between 0 and 1, not {warmup_from!r}")
        if warmup not in ("linear", "constant") or (warmup == "constant" and not warmup_from):
            raise ValueError(f"warmup must be 'linear', or 'constant' with a share warmup_from above 0, not {warmup!r}")
        self.peak, self.warmup_steps, self.warmup_from, self.warmup = peak, warmup_steps, warmup_from, warmup

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, keras.config.floatx())
        return self.peak * ops.where(step < self.warmup_steps, self._rising(step), self.falling(step))

    def _rising(self, step: Any) -> Any:
        start, length = self.warmup_from, max(self.warmup_steps, 1)
        if self.warmup == "constant":
            return ops.full_like(step, start)
        return start + (1 - start) * step / length if start else (step + 1) / length

    @abc.abstractmethod
    def falling(self, step: Any) -> Any:
        """Share of the peak after the warm-up."""

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("peak", "warmup_steps", "warmup_from", "warmup")}


@keras.saving.register_keras_serializable("keras_resnets_training")
class WarmupCosine(WarmupSchedule):
    """Warm-up, then half a cosine down to zero (He et al., 2019, arXiv 1812.01187, sections 3.1 and 5.1).

    Step t after the warm-up: `peak * (final + (1 - final) / 2 * (1 + cos(pi * p)))`, with
    `p = (t - warmup_steps) / (total_steps - warmup_steps)`.

    Args:
        peak, warmup_steps, warmup_from, warmup: see `WarmupSchedule`.
        total_steps: more than `warmup_steps`.
        final: share of the peak at the end.

    Raises:
        ValueError: there is no step after the warm-up, or an argument is out of range.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int, final: float = 0.0, **kwargs: Any) -> None:
        super().__init__(peak, warmup_steps, **kwargs)
        if not warmup_steps < total_steps:
            raise ValueError(f"the warm-up of {warmup_steps} steps must be shorter than the run of {total_steps} steps")
        if not 0 <= final <= 1:
            raise ValueError(f"final must be between 0 and 1, not {final!r}")
        self.total_steps, self.final = total_steps, final

    def falling(self, step: Any) -> Any:
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        cosine = 0.5 * (1 + ops.cos(math.pi * ops.clip(progress, 0, 1)))
        return self.final + (1 - self.final) * cosine

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "total_steps": self.total_steps, "final": self.final}


@keras.saving.register_keras_serializable("keras_resnets_training")
class WarmupSteps(WarmupSchedule):
    """Warm-up, then a rate that is divided at given steps: that of the first ResNets (a tenth at 30, 60, 90 epochs).

    Step t after the warm-up: `peak * factor ** n` with n the number of `drops` that are at most t.

    Args:
        peak, warmup_steps, warmup_from, warmup: see `WarmupSchedule`.
        drops: steps at which the rate is multiplied by `factor`, ascending, after the warm-up; none for a constant rate.
        factor: above 0, at most 1.

    Raises:
        ValueError: `drops` do not ascend or begin within the warm-up, or an argument is out of range.
    """

    def __init__(
        self, peak: float, warmup_steps: int, drops: Sequence[int], factor: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(peak, warmup_steps, **kwargs)
        drops = list(drops)
        if drops != sorted(set(drops)) or (drops and drops[0] < max(warmup_steps, 1)):
            raise ValueError(f"drops must ascend and come after the warm-up of {warmup_steps} steps, not {drops}")
        _require_factor(factor)
        self.drops, self.factor = drops, factor

    def falling(self, step: Any) -> Any:
        dtype = keras.config.floatx()
        dropped = sum((ops.cast(step >= drop, dtype) for drop in self.drops), ops.zeros((), dtype))
        return ops.power(ops.cast(self.factor, dtype), dropped)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "drops": self.drops, "factor": self.factor}


@keras.saving.register_keras_serializable("keras_resnets_training")
class WarmupExponential(WarmupSchedule):
    """Warm-up, then a rate multiplied by the same factor again and again, as for the Inceptions (0.94 every two epochs).

    Step t after the warm-up: `peak * factor ** floor(t / every)`; the steps of the warm-up count.

    Args:
        peak, warmup_steps, warmup_from, warmup: see `WarmupSchedule`.
        every: steps with the same rate, at least 1.
        factor: above 0, at most 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, peak: float, warmup_steps: int, every: int, factor: float, **kwargs: Any) -> None:
        super().__init__(peak, warmup_steps, **kwargs)
        if not every >= 1:
            raise ValueError(f"every must be at least 1, not {every!r}")
        _require_factor(factor)
        self.every, self.factor = every, factor

    def falling(self, step: Any) -> Any:
        return ops.power(ops.cast(self.factor, step.dtype), ops.floor(step / self.every))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "every": self.every, "factor": self.factor}


def _require_factor(factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"factor must be above 0 and at most 1, not {factor!r}")
