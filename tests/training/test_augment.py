"""Changes of single images: values against Pillow, colorsys and published figures; distributions; what follows from the seed."""

import colorsys
import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from drawing import assert_share, assert_uncorrelated, draws
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from training import augment, colour
from training.augment import augment_image, erase, random_affine
from training.draws import seed_for
from training.recipe import AugmentRecipe

CHINA, FLOWER = load_sample_images().images
PHOTO = CHINA[100:164, 200:296]
EVERYTHING = AugmentRecipe(flip=True, shift=3, rotation=10, zoom=0.1, shear=5, brightness=0.4,
                           contrast=0.4, saturation=0.4, hue=0.1, lighting=0.1, erasing=0.5)  # fmt: skip


def augmented(image: np.ndarray, recipe: AugmentRecipe, count: int, run: int = 0) -> np.ndarray:
    return draws(lambda seed: augment_image(tf.constant(image), recipe, seed), count, run)


def test_nothing_asked_nothing_done() -> None:
    result = augment_image(tf.constant(PHOTO), AugmentRecipe(), tf.constant([1, 2]))
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, PHOTO)


def test_same_seed_same_image() -> None:
    """Bit for bit, whatever runs at the same time; no two seeds give the same."""

    @tf.function
    def change(seed: tf.Tensor) -> tf.Tensor:
        image = augment_image(tf.constant(PHOTO), EVERYTHING, seed)
        assert image.shape == PHOTO.shape
        return erase(image, EVERYTHING, seed)

    one, many, other = draws(change, 60), draws(change, 60, parallel=8), draws(change, 60, run=1)
    np.testing.assert_array_equal(one, many)
    assert len({image.tobytes() for image in (*one, *other)}) == 120


@pytest.mark.parametrize("first", [False, True])
def test_policy_comes_before_the_other_changes(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    """Unless it is done already, on the whole image."""
    recipe = AugmentRecipe(lighting=0.5, policy="randaugment", policy_first=first)
    seed = tf.constant([1, 2])
    expected = augment_image(tf.constant(PHOTO if first else 255 - PHOTO), AugmentRecipe(lighting=0.5), seed)
    monkeypatch.setattr(augment, "apply_policy", lambda image, recipe, seed: 255 - image)
    np.testing.assert_array_equal(augment_image(tf.constant(PHOTO), recipe, seed), expected)


def test_half_of_the_images_are_mirrored() -> None:
    results = augmented(PHOTO[:4, :6], AugmentRecipe(flip=True), 2000)
    mirrored = (results == PHOTO[:4, 5::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(results[~mirrored], np.broadcast_to(PHOTO[:4, :6], results[~mirrored].shape))
    assert_share(mirrored, 0.5)


def test_affine_map_of_an_image_is_that_of_a_batch() -> None:
    recipe, seed = AugmentRecipe(shift=4, rotation=12, zoom=0.15, shear=10), tf.constant([3, 7])
    (expected,) = random_affine(PHOTO[np.newaxis], recipe, seed_for("affine", seed))
    np.testing.assert_array_equal(augment_image(tf.constant(PHOTO), recipe, seed), expected)


@pytest.mark.parametrize(
    "change, kind",
    [
        (colour.brightness, ImageEnhance.Brightness),
        (colour.contrast, ImageEnhance.Contrast),
        (colour.saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("amount", [-0.4, -0.1, 0.25, 0.4])
def test_jitter_is_pillows_enhancement(change, kind: type, amount: float) -> None:
    """To what Pillow rounds: its result, the luminance, and the mean of the luminance."""
    ours = change(tf.constant(CHINA, tf.float32), tf.constant(amount))
    theirs = np.asarray(kind(Image.fromarray(CHINA)).enhance(1 + amount))
    assert np.abs(ours - theirs).max() <= 1.51
    assert tf.reduce_min(ours) >= 0 and tf.reduce_max(ours) <= 255


@pytest.mark.parametrize("turn", [-0.4, 0.1, 0.5])
def test_hue_is_turned_on_the_colour_circle(turn: float) -> None:
    patch = FLOWER[200:210, 300:310]
    ours = colour.hue(tf.constant(patch, tf.float32), tf.constant(turn)).numpy()
    for pixel, result in zip(patch.reshape(-1, 3), ours.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        np.testing.assert_allclose(
            result, 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)), atol=0.1
        )


def test_jitter_factors_are_uniform() -> None:
    factors = augmented(np.full((1, 1, 3), 100, np.uint8), AugmentRecipe(brightness=0.4), 4000)[:, 0, 0, 0] / 100
    assert factors.min() >= 0.6 and factors.max() <= 1.4
    for bound in np.linspace(0.65, 1.35, 8):
        assert_share(factors < bound, (bound - 0.6) / 0.8)


def test_jitter_is_in_every_order_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """With changes that append their number to a decimal fraction."""
    for number, name in enumerate(("brightness", "contrast", "saturation", "hue"), start=1):
        monkeypatch.setattr(colour, name, lambda image, amount, number=number: 10 * image + number)
    recipe = AugmentRecipe(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1)
    notes = augmented(np.zeros((1, 1, 3), np.uint8), recipe, 6000)[:, 0, 0, 0]
    for order in itertools.permutations("1234"):
        assert_share(notes == int("".join(order)), 1 / 24)


def test_jitter_amounts_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With changes that write their amounts down, each in its own channel."""
    for channel, name in enumerate(("brightness", "contrast", "saturation")):
        change = functools.partial(
            lambda image, amount, channel: image + amount * tf.one_hot(channel, 3), channel=channel
        )
        monkeypatch.setattr(colour, name, change)
    amounts = augmented(
        np.zeros((1, 1, 3), np.uint8), AugmentRecipe(brightness=0.1, contrast=0.2, saturation=0.3), 4000
    )
    amounts = amounts[:, 0, 0]
    np.testing.assert_allclose(np.abs(amounts).max(axis=0), [0.1, 0.2, 0.3], rtol=0.01)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert_uncorrelated(amounts[:, one], amounts[:, other])


def test_lighting_has_the_published_covariance() -> None:
    """Krizhevsky et al.: p1, p2, p3 of the components, times alpha ~ N(0, 0.1) and standard deviation; the figures of
    fb.resnet.torch for pixels of 0..1."""
    recipe = AugmentRecipe(lighting=0.1)
    shifts = augmented(PHOTO[:2, :2], recipe, 8000) - PHOTO[:2, :2]
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape), atol=1e-4)
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)
    along = shifts[:, 0, 0] @ vectors
    np.testing.assert_allclose(along.std(axis=0), 255 * 0.1 * np.array([0.2175, 0.0188, 0.0045]), rtol=0.04)
    assert np.abs(along.mean(axis=0) / along.std(axis=0)).max() <= 4.5 / np.sqrt(8000)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert_uncorrelated(along[:, one], along[:, other])


HEIGHT, WIDTH = 40, 60


def holes(probability: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First row and column, height and width of the rectangle in each erased image; and which images are erased."""
    recipe = AugmentRecipe(erasing=probability)
    zero = draws(lambda seed: erase(tf.ones((HEIGHT, WIDTH, 3)), recipe, seed), count) == 0
    erased = zero.any(axis=(1, 2, 3))
    found = []
    for mask in zero[erased]:
        (rows,), (columns,) = mask.any(axis=(1, 2)).nonzero(), mask.any(axis=(0, 2)).nonzero()
        top, left, height, width = rows[0], columns[0], len(rows), len(columns)
        assert mask[top : top + height, left : left + width].all() and mask.sum() == 3 * height * width
        found.append((top, left, height, width))
    return np.array(found), erased


def test_erased_rectangles() -> None:
    """Share of the area 0.02 to 1/3, height over width 0.3 to 10/3, whole pixels, anywhere."""
    found, erased = holes(1.0, 3000)
    assert erased.all()
    top, left, height, width = found.T
    assert ((height - 0.5) * (width - 0.5) <= HEIGHT * WIDTH / 3).all()  # both sides are rounded
    assert ((height + 0.5) * (width + 0.5) >= HEIGHT * WIDTH * 0.02).all()
    assert ((height - 0.5) <= (width + 0.5) * 10 / 3).all() and ((height + 0.5) >= (width - 0.5) * 0.3).all()
    area = height * width / (HEIGHT * WIDTH)
    assert 0.015 < area.min() < 0.025 and 0.31 < area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert 0.25 < (height / width).min() < 0.4 and 2.5 < (height / width).max() < 4
    for start, size, side in ((top, height, HEIGHT), (left, width, WIDTH)):
        assert start.min() == 0 and (start + size).max() == side and (size < side).all()
        free = start / np.maximum(side - size, 1)
        assert free[side - size > 10].mean() == pytest.approx(0.5, abs=0.03)


def test_erasing_probability() -> None:
    _, erased = holes(0.25, 3000)
    assert_share(erased, 0.25)
    image = tf.constant(PHOTO)
    assert erase(image, AugmentRecipe(), tf.constant([0, 0])) is image


def test_changes_are_independent_of_each_other() -> None:
    """A mirrored image is neither brighter nor more turned; and a change is the same whether or not there are others."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :8], image[:, 8:] = 50, 100
    recipe = AugmentRecipe(flip=True, brightness=0.4, lighting=0.1)
    results = augmented(image, recipe, 3000)
    mirrored = results[:, 0, 0, 0] > results[:, 0, -1, 0]
    contrasts = np.abs(results[:, 0, 0] - results[:, 0, -1]).mean(axis=1)  # 50 times the factor: lighting adds to both
    lights = results[:, 0].mean(axis=1)[:, 0] - 1.5 * contrasts
    for one, other in ((mirrored, contrasts), (mirrored, lights), (contrasts, lights)):
        assert_uncorrelated(one.astype(float), other)
    alone = augmented(image, dataclasses.replace(recipe, brightness=0.0, lighting=0.0), 3000)
    np.testing.assert_array_equal(alone[:, 0, 0, 0] > alone[:, 0, -1, 0], mirrored)


def test_seeds_for_purposes_are_unrelated() -> None:
    """Neither to each other nor to those of neighbouring examples and runs."""

    @tf.function
    def both(seed: tf.Tensor) -> tf.Tensor:
        seeds = seed, seed_for("one", seed), seed_for("other", seed), seed_for("one", seed_for("other", seed))
        return tf.stack([tf.random.stateless_uniform((), one) for one in seeds])

    here, there = draws(both, 3000), draws(both, 3000, run=1)
    columns = [*here.T, *there.T]
    for number, one in enumerate(columns):
        assert one.mean() == pytest.approx(0.5, abs=4.5 * np.sqrt(1 / 12 / 3000))
        assert_uncorrelated(one[1:], one[:-1])
        for other in columns[:number]:
            assert_uncorrelated(one, other)
