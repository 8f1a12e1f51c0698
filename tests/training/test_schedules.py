"""Learning rates against their formulas, the PyTorch trajectory's and those that the recipes' papers state."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import reference

from training.recipe import load_recipe
from training.schedules import WarmupCosine, WarmupExponential, WarmupSteps, make_schedule

TRAJECTORY = json.loads((reference.FOLDER / "trajectory.json").read_text("utf-8"))


def test_warmup_cosine_of_the_trajectory() -> None:
    """The rates that the PyTorch reference was trained with."""
    schedule = WarmupCosine(0.0003, 4, 10)
    np.testing.assert_allclose(
        [float(schedule(step)) for step in range(10)], TRAJECTORY["models"]["resnet18"]["lr"], rtol=1e-5, atol=1e-10
    )


def test_warmup_cosine_at_known_angles() -> None:
    schedule = WarmupCosine(2.0, 5, 17)
    known = {0: 0.4, 4: 2.0, 5: 2.0, 5 + 4: 1.5, 5 + 6: 1.0, 5 + 8: 0.5, 17: 0.0, 30: 0.0}
    np.testing.assert_allclose([float(schedule(step)) for step in known], list(known.values()), atol=1e-6)


def test_no_warmup() -> None:
    assert float(WarmupCosine(0.1, 0, 8)(0)) == pytest.approx(0.1)


def test_warmup_as_long_as_the_run() -> None:
    with pytest.raises(ValueError, match="shorter than the run of 10 steps"):
        WarmupCosine(0.1, 10, 10)


def test_steps_of_the_first_resnets() -> None:
    """A tenth at epochs 30, 60, 90 of ten steps each, after two epochs of warm-up."""
    schedule = WarmupSteps(0.1, 20, [300, 600, 900])
    known = {
        0: 0.005,
        9: 0.05,
        19: 0.1,
        20: 0.1,
        299: 0.1,
        300: 0.01,
        599: 0.01,
        600: 1e-3,
        899: 1e-3,
        900: 1e-4,
        2000: 1e-4,
    }
    np.testing.assert_allclose([float(schedule(step)) for step in known], list(known.values()), rtol=1e-5)
    assert float(WarmupSteps(0.5, 0, [], 0.1)(7)) == 0.5
    halves = WarmupSteps(8.0, 0, [1, 3], 0.5)
    np.testing.assert_allclose([float(halves(step)) for step in range(5)], [8, 4, 4, 2, 2])


def test_rates_of_inception() -> None:
    """0.94 every three steps, counted from the first step, after two steps of warm-up."""
    schedule = WarmupExponential(0.045, 2, 3, 0.94)
    known = {0: 0.0225, 1: 0.045, 2: 0.045, 3: 0.0423, 5: 0.0423, 6: 0.039762, 300: 0.045 * 0.94**100}
    np.testing.assert_allclose([float(schedule(step)) for step in known], list(known.values()), rtol=1e-5)


def test_warmup_from_a_share() -> None:
    """From a tenth of the rate by equal parts; or at a tenth of it until the end of the warm-up."""
    rising = WarmupSteps(2.0, 4, [], warmup_from=0.1)
    np.testing.assert_allclose([float(rising(step)) for step in range(6)], [0.2, 0.65, 1.1, 1.55, 2, 2], rtol=1e-6)
    waiting = WarmupSteps(2.0, 4, [5], warmup_from=0.1, warmup="constant")
    np.testing.assert_allclose(
        [float(waiting(step)) for step in range(7)], [0.2, 0.2, 0.2, 0.2, 2, 0.2, 0.2], rtol=1e-6
    )


def test_cosine_to_a_share() -> None:
    schedule = WarmupCosine(2.0, 1, 9, final=0.1)
    known = {0: 2.0, 1: 2.0, 5: 1.1, 9: 0.2, 20: 0.2}
    np.testing.assert_allclose([float(schedule(step)) for step in known], list(known.values()), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WarmupSteps(0.1, 2, [], warmup_from=1.5), "warmup_from must be between 0 and 1, not 1.5"),
        (lambda: WarmupSteps(0.1, 2, [], warmup="constant"), "'constant' with a share warmup_from above 0"),
        (lambda: WarmupSteps(0.1, 2, [], warmup_from=0.1, warmup="fast"), "warmup must be 'linear'.*not 'fast'"),
        (lambda: WarmupSteps(0.1, -1, []), "warmup_steps must be at least 0, not -1"),
        (lambda: WarmupCosine(0.1, 0, 5, final=-0.1), "final must be between 0 and 1, not -0.1"),
        (lambda: WarmupExponential(0.1, 0, 0, 0.9), "every must be at least 1, not 0"),
        (lambda: WarmupExponential(0.1, 0, 1, 1.2), "factor must be above 0 and at most 1, not 1.2"),
    ],
)
def test_schedules_refuse(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_schedules_of_recipes() -> None:
    """Ten steps per epoch; the rate of a recipe is for `lr_batch` images, and in proportion for others."""
    rate = make_schedule(load_recipe("bag_of_tricks"), 10)  # 0.1 for 256, batch 1024, 5 of 200 epochs of warm-up
    for step, expected in {0: 0.4 / 50, 49: 0.4, 50: 0.4, 50 + 975: 0.2, 2000: 0.0}.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-8), step
    rate = make_schedule(load_recipe("he2015", ["batch_size=64"]), 10)
    for step, expected in {0: 0.025, 299: 0.025, 300: 0.0025, 600: 2.5e-4, 1199: 2.5e-5}.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5), step
    rate = make_schedule(load_recipe("inception_v3"), 10)  # without a scale
    for step, expected in {0: 0.045, 19: 0.045, 20: 0.0423, 999: 0.045 * 0.94**49}.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5), step
    rate = make_schedule(load_recipe("cifar_resnet", ["model.name=resnet110_cifar"]), 390)
    for step, expected in {0: 0.01, 389: 0.01, 390: 0.1, 82 * 390: 0.01, 163 * 390: 0.001}.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5), step
    rate = make_schedule(load_recipe("digits_resnet20", ["schedule={name: constant}"]), 10)
    assert float(rate(0)) == float(rate(10**6)) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup, drops, factor", [(0, [5, 5], 0.1), (0, [5, 4], 0.1), (6, [5], 0.1), (0, [0], 0.1), (0, [5], 0.0),
                                                   (0, [5], 1.5)])  # fmt: skip
def test_steps_refuse(warmup: int, drops: list[int], factor: float) -> None:
    with pytest.raises(ValueError, match=r"drops must ascend|factor must be"):
        WarmupSteps(0.1, warmup, drops, factor)
