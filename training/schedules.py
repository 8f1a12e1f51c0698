"""Learning rates over the steps of a run."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_resnets_training")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine down to zero (He et al., 2019, arXiv 1812.01187, sections 3.1 and 5.1).

    Step t, counted from 0: `peak * (t + 1) / warmup_steps` while t < warmup_steps, then
    `peak / 2 * (1 + cos(pi * (t - warmup_steps) / (total_steps - warmup_steps)))`.

    Args:
        peak: the highest rate.
        warmup_steps: may be 0.
        total_steps: more than `warmup_steps`.

    Raises:
        ValueError: there is no step after the warm-up.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"the warm-up of {warmup_steps} steps must be shorter than the run of {total_steps} steps")
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, keras.config.floatx())
        rising = (step + 1) / max(self.warmup_steps, 1)
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        falling = 0.5 * (1 + ops.cos(math.pi * ops.clip(progress, 0, 1)))
        return self.peak * ops.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


@keras.saving.register_keras_serializable("keras_resnets_training")
class WarmupSteps(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a rate that is divided at given steps: the schedule of the first ResNets (a tenth at 30, 60, 90 epochs).

    Step t, counted from 0: `peak * (t + 1) / warmup_steps` while t < warmup_steps, then `peak * factor ** n` with n the number
    of `drops` that are at most t.

    Args:
        peak: the highest rate.
        warmup_steps: may be 0.
        drops: steps at which the rate is multiplied by `factor`, ascending, after the warm-up.
        factor: above 0, at most 1.

    Raises:
        ValueError: `drops` do not ascend or begin within the warm-up, or `factor` is out of range.
    """

    def __init__(self, peak: float, warmup_steps: int, drops: Sequence[int], factor: float = 0.1) -> None:
        drops = list(drops)
        if drops != sorted(set(drops)) or (drops and drops[0] < max(warmup_steps, 1)):
            raise ValueError(f"drops must ascend and come after the warm-up of {warmup_steps} steps, not {drops}")
        if not 0 < factor <= 1:
            raise ValueError(f"factor must be above 0 and at most 1, not {factor!r}")
        self.peak, self.warmup_steps, self.drops, self.factor = peak, warmup_steps, drops, factor

    def __call__(self, step: Any) -> Any:
        dtype = keras.config.floatx()
        step = ops.cast(step, dtype)
        rising = (step + 1) / max(self.warmup_steps, 1)
        dropped = sum((ops.cast(step >= drop, dtype) for drop in self.drops), ops.zeros((), dtype))
        falling = ops.power(ops.cast(self.factor, dtype), dropped)
        return self.peak * ops.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "drops": self.drops, "factor": self.factor}
