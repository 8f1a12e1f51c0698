"""Policies: every operation against Pillow's, on photos; what is drawn, how often and how strong, against the papers."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from drawing import assert_share, assert_uncorrelated, draws
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from training import policies, policy_operations
from training.recipe import AugmentRecipe

CHINA, FLOWER = load_sample_images().images
IMAGES = {
    "china": CHINA[:224, :224],
    "flower": FLOWER[100:331, 200:397],
    "small": CHINA[:33, :32],
    "narrow": FLOWER[200:209, 300:303],
    "two rows": FLOWER[200:202, 300:309],
    "a pixel": FLOWER[200:201, 300:301],
    "flat": np.full((20, 30, 3), 77, np.uint8),
    "two levels": np.where(FLOWER[:50, 250:300] > 90, np.uint8(200), np.uint8(7)),
}
GREY = (128, 128, 128)
Pillow = Callable[..., Image.Image]


def enhanced(kind: Any) -> Pillow:
    return lambda image, factor: kind(image).enhance(factor)


def transformed(matrix: Callable[[float, int, int], tuple[float, ...]]) -> Pillow:
    def transform(image: Image.Image, amount: float) -> Image.Image:
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix(amount, *image.size), Image.Resampling.BILINEAR, fillcolor=GREY
        )

    return transform


def rotated(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=GREY)


def solarize_added(image: Image.Image, amount: float) -> Image.Image:
    """As in the code of AutoAugment; Pillow has no such operation of its own."""
    return image.point([min(255, level + int(amount)) if level < 128 else level for level in range(256)] * 3)


PILLOW: dict[str, Pillow] = {
    "auto_contrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "invert": ImageOps.invert,
    "posterize": ImageOps.posterize,
    "solarize": ImageOps.solarize,
    "solarize_add": solarize_added,
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
    "rotate": rotated,
    "shear_x": transformed(lambda amount, width, height: (1, amount, 0, 0, 1, 0)),
    "shear_y": transformed(lambda amount, width, height: (1, 0, 0, amount, 1, 0)),
    "translate_x": transformed(lambda amount, width, height: (1, 0, amount * width, 0, 1, 0)),
    "translate_y": transformed(lambda amount, width, height: (1, 0, 0, 0, 1, amount * height)),
}
FACTORS = (0.0, 0.1, 0.37, 1.0, 1.3, 1.9)
ARGUMENTS: dict[str, tuple] = {
    "posterize": (1, 2, 3, 4, 8),
    "solarize": (0, 1, 77, 128, 255, 256),
    "solarize_add": (0, 13, 110, 128),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), FACTORS),
    "rotate": (-30, -7.3, 0, 1, 12.9, 27),
    **dict.fromkeys(("shear_x", "shear_y"), (-0.3, -0.11, 0, 0.2, 0.27)),
    **dict.fromkeys(("translate_x", "translate_y"), (-0.45, -0.12, 0, 0.25, 0.31)),
}
INTERPOLATED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def assert_pillows(ours: tf.Tensor, theirs: Image.Image, levels: int) -> None:
    """Equal to so many levels. With levels, interpolated or scaled by a rounded factor, two pixels may be on the other side
    of the image's edge as well: a float's last digit decides."""
    difference = np.abs(ours.numpy().astype(int) - np.asarray(theirs).astype(int))
    assert ours.dtype == tf.uint8
    assert (difference > levels).any(axis=-1).sum() <= 2 * levels


@pytest.mark.parametrize("name", PILLOW)
def test_operations_are_pillows(name: str) -> None:
    """To the pixel; where Pillow cuts off the fraction of an interpolated value, to one level."""
    operation = getattr(policy_operations, name)
    for image in IMAGES.values():
        for argument in ARGUMENTS.get(name, (None,)):
            given = () if argument is None else (argument,)
            ours = operation(tf.constant(image), *(tf.constant(value, tf.float32) for value in given))
            assert_pillows(ours, PILLOW[name](Image.fromarray(image), *given), int(name in INTERPOLATED))


@pytest.mark.parametrize("name", INTERPOLATED)
def test_interpolation_rarely_differs(name: str) -> None:
    ours = getattr(policy_operations, name)(tf.constant(IMAGES["china"]), tf.constant(0.2345)).numpy()
    assert (ours != np.asarray(PILLOW[name](Image.fromarray(IMAGES["china"]), 0.2345))).mean() < 0.01


# What each operation is given at level 9 and sign -1, worked out by hand: rotation and shear are 9/10 of 30 degrees and 0.3,
# posterize keeps 4 - int(3.6) bits, solarize begins at 256 - int(230.4), the translation is 9/10 of 45 % of the side.
AT_NINE = {
    "auto_contrast": None, "equalize": None, "invert": None, "rotate": -27.0, "posterize": 1, "solarize": 26,
    "solarize_add": 99, "shear_x": -0.27, "shear_y": -0.27, "translate_x": -0.405, "translate_y": -0.405,
}  # fmt: skip


@pytest.mark.parametrize(
    "table, level, sign, arguments",
    [
        ("RANDAUGMENT", 9, -1, AT_NINE | dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 0.19)),
        ("RANDAUGMENT", 7, 1, {"color": 1.63, "rotate": 21.0, "posterize": 2, "solarize": 77, "solarize_add": 77}),
        ("RANDAUGMENT", 10, 1, {"color": 1.9, "brightness": 1.9, "posterize": 1, "solarize": 0, "solarize_add": 110}),
        ("RANDAUGMENT", 0, 1, {"color": 1.0, "rotate": 0.0, "posterize": 4, "solarize": 256, "shear_x": 0.0}),
        ("AUTOAUGMENT", 8, -1, {"color": 1.54, "contrast": 1.54, "posterize": 1, "rotate": -24.0, "solarize": 52}),
        ("AUTOAUGMENT", 7, 1, {"sharpness": 1.36, "posterize": 2, "solarize": 77}),
        ("AUTOAUGMENT", 5, 1, {"posterize": 2, "solarize": 128, "shear_x": 0.15}),
        ("AUTOAUGMENT", 0, 1, {"color": 0.1}),
    ],
)
def test_levels(table: str, level: float, sign: float, arguments: dict[str, float | None]) -> None:
    image = IMAGES["flower"]
    operations = getattr(policies, table)
    assert set(operations) == set(PILLOW)
    for name, argument in arguments.items():
        ours = operations[name](tf.constant(image), tf.constant(level, tf.float32), tf.constant(sign, tf.float32))
        given = () if argument is None else (argument,)
        assert_pillows(ours, PILLOW[name](Image.fromarray(image), *given), levels=1)


# Table 9 of the AutoAugment paper: names, probabilities and levels, the five repeated rows at the end.
PAPER = """Posterize .4/8 Rotate .6/9; Solarize .6/5 AutoContrast .6/5; Equalize .8/8 Equalize .6/3;
Posterize .6/7 Posterize .6/6; Equalize .4/7 Solarize .2/4; Equalize .4/4 Rotate .8/8; Solarize .6/3 Equalize .6/7;
Posterize .8/5 Equalize 1/2; Rotate .2/3 Solarize .6/8; Equalize .6/8 Posterize .4/6; Rotate .8/8 Color .4/0;
Rotate .4/9 Equalize .6/2; Equalize 0/7 Equalize .8/8; Invert .6/4 Equalize 1/8; Color .6/4 Contrast 1/8;
Rotate .8/8 Color 1/0; Color .8/8 Solarize .8/7; Sharpness .4/7 Invert .6/8; ShearX .6/5 Equalize 1/9;
Color .4/0 Equalize .6/3; Equalize .4/7 Solarize .2/4; Solarize .6/5 AutoContrast .6/5; Invert .6/4 Equalize 1/8;
Color .6/4 Contrast 1/8; Equalize .8/8 Equalize .6/3"""


def published() -> list[list[tuple[str, float, int]]]:
    rows = [re.findall(r"(\w+) ([.\d]+)/(\d)", row) for row in PAPER.split(";")]
    snake = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for row in rows for name, _, _ in row}
    return [[(snake[name], float(chance), int(level)) for name, chance, level in row] for row in rows]


def test_sub_policies_are_the_papers() -> None:
    assert [list(row) for row in policies.SUB_POLICIES] == published()


def recorder(number: int) -> policies.Operation:
    """Writes its number into the first free pixel, of four, with ten times the level and the sign."""

    def record(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
        note = tf.stack([float(number + 1), tf.round(level * 10), sign + 1])
        free = tf.argmax(image[0, :, 0] == 0)
        return image + tf.cast(tf.one_hot(free, 4)[tf.newaxis, :, tf.newaxis] * note, tf.uint8)

    return record


def recorded(monkeypatch: pytest.MonkeyPatch, count: int, **recipe: Any) -> np.ndarray:
    """Number (from 1; 0 for none), level and sign of the operations on each of `count` images: `(count, 4, 3)`."""
    for table in ("AUTOAUGMENT", "RANDAUGMENT"):
        names = list(getattr(policies, table))
        monkeypatch.setattr(policies, table, {name: recorder(number) for number, name in enumerate(names)})
    blank = tf.zeros((1, 4, 3), tf.uint8)
    notes = draws(lambda seed: policies.apply_policy(blank, AugmentRecipe(**recipe), seed), count)
    return notes[:, 0].astype(int) - np.where(notes[:, 0, :, :1] > 0, [0, 0, 1], 0)


def test_randaugment_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = recorded(monkeypatch, 6000, policy="randaugment", policy_ops=1, policy_magnitude=7.0, policy_noise=0.5)[
        :, 0
    ]
    applied = notes[notes[:, 0] > 0]
    assert_share(notes[:, 0] > 0, 0.5)
    for number in range(1, 16):
        assert_share(applied[:, 0] == number, 1 / 15)
    assert_share(applied[:, 2] == 1, 0.5)
    levels = applied[:, 1] / 10
    assert levels.mean() == pytest.approx(7, abs=0.05) and levels.std() == pytest.approx(0.5, abs=0.04)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert_uncorrelated(applied[:, one], applied[:, other])


def test_randaugment_levels_stay_within_their_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = recorded(monkeypatch, 1000, policy="randaugment", policy_ops=1, policy_magnitude=9.5, policy_noise=1.0)
    levels = notes[notes[..., 0] > 0][:, 1]
    assert levels.max() == 100
    assert_share(levels == 100, 0.3085 + 0.0115)  # a normal variable beyond 0.5 deviations, or rounded to that


def test_operations_of_an_image_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = recorded(monkeypatch, 3000, policy="randaugment", policy_ops=2, policy_noise=0.5)
    both = notes[notes[:, 1, 0] > 0]
    assert_share(notes[:, 1, 0] > 0, 0.25)
    assert_share(notes[:, 0, 0] > 0, 0.75)
    for place in range(3):
        assert_uncorrelated(both[:, 0, place], both[:, 1, place])


def test_autoaugment_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often each pair of operations, with its levels, occurs; expectations worked out from the paper's table."""
    names = list(policies.AUTOAUGMENT)
    notes = recorded(monkeypatch, 6000, policy="autoaugment")
    expected: Counter = Counter()
    for (one, chance, level), (other, other_chance, other_level) in published():
        first, second = (names.index(one) + 1, level), (names.index(other) + 1, other_level)
        expected[first, second] += chance * other_chance / 25
        expected[first, (0, 0)] += chance * (1 - other_chance) / 25
        expected[second, (0, 0)] += (1 - chance) * other_chance / 25
        expected[(0, 0), (0, 0)] += (1 - chance) * (1 - other_chance) / 25
    found = [tuple((int(number), int(level) // 10) for number, level, _ in note[:2]) for note in notes]
    assert set(found) <= {pair for pair, share in expected.items() if share}
    for pair, share in expected.items():
        assert_share(np.array([one == pair for one in found]), share)
    assert_share(notes[notes[:, 0, 0] > 0][:, 0, 2] == 1, 0.5)


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_same_seed_same_image(policy: str) -> None:
    """Bit for bit, whatever runs at the same time; other seeds give other images."""
    recipe = AugmentRecipe(policy=policy, policy_noise=0.5)
    photo = tf.constant(CHINA[100:164, 200:264])

    @tf.function
    def change(seed: tf.Tensor) -> tf.Tensor:
        return policies.apply_policy(photo, recipe, seed)

    one, many, other = draws(change, 64), draws(change, 64, parallel=8), draws(change, 64, run=1)
    np.testing.assert_array_equal(one, many)
    assert len({image.tobytes() for image in one}) > 20
    assert not np.array_equal(one, other)


def test_types_and_sizes() -> None:
    recipe = AugmentRecipe(policy="autoaugment")
    photo = CHINA[:50, :70].astype(np.float32)

    @tf.function
    def change(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        changed = policies.apply_policy(image, recipe, seed)
        assert changed.shape == image.shape and changed.dtype == image.dtype
        return changed

    whole, shaken = (draws(lambda seed, image=image: change(image, seed), 20) for image in (photo, photo + 0.3))
    np.testing.assert_array_equal(whole, np.rint(whole))
    np.testing.assert_array_equal(whole, shaken)
    same = tf.constant(photo + 0.3)
    assert policies.apply_policy(same, AugmentRecipe(), tf.constant([0, 0])) is same
