"""Mixup and cutmix: values and boxes against the papers' formulas, shares against the Beta distribution."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from drawing import assert_share, assert_uncorrelated, draws

from training.mixing import beta, mix
from training.recipe import AugmentRecipe

MIXUP, CUTMIX = AugmentRecipe(mixup=0.2), AugmentRecipe(cutmix=1.0)
PARTNER = np.array([1, 0, 3, 2, 5, 4])
IMAGES = np.random.default_rng(0).uniform(-2, 2, (6, 12, 20, 3)).astype(np.float32)
LABELS = np.eye(6, 9, dtype=np.float32)


def mixed(
    recipe: AugmentRecipe, count: int, epoch: int = 0, images: np.ndarray = IMAGES
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `count` batches."""
    return draws(lambda seed: mix(tf.constant(images), tf.constant(LABELS[: len(images)]), recipe, seed, epoch), count)


def shares(labels: np.ndarray) -> np.ndarray:
    """Of the first example in its own mixture, for each batch."""
    return labels[:, 0, 0]


def assert_labels_follow(labels: np.ndarray) -> None:
    """One share per batch, with the neighbour."""
    share = shares(labels)[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(labels, share * LABELS + (1 - share) * LABELS[PARTNER], atol=1e-6)


def test_mixup_is_the_formula() -> None:
    images, labels = mixed(MIXUP, 50)
    assert_labels_follow(labels)
    share = shares(labels)[:, np.newaxis, np.newaxis, np.newaxis, np.newaxis]
    np.testing.assert_allclose(images, share * IMAGES + (1 - share) * IMAGES[PARTNER], atol=1e-5)


def test_cutmix_pastes_one_box() -> None:
    """Of the neighbour; the label's share is the area that is left."""
    images, labels = mixed(CUTMIX, 200)
    assert_labels_follow(labels)
    for batch, share in zip(images, shares(labels), strict=True):
        foreign = (batch != IMAGES).any(axis=(0, 3))
        np.testing.assert_array_equal(batch, np.where(foreign[..., np.newaxis], IMAGES[PARTNER], IMAGES))
        (rows,), (columns,) = foreign.any(axis=1).nonzero(), foreign.any(axis=0).nonzero()
        assert foreign.sum() == len(rows) * len(columns)
        if len(rows):
            assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert share == pytest.approx(1 - foreign.mean(), abs=1e-6)


def paper_boxes(count: int, height: int, width: int) -> np.ndarray:
    """The area left by `rand_bbox` of the paper's code with Beta(1, 1)."""
    random = np.random.default_rng(1)
    left = []
    for _ in range(count):
        cut = np.sqrt(1 - random.beta(1.0, 1.0))
        rows, columns = int(height * cut), int(width * cut)
        y, x = random.integers(height), random.integers(width)
        top, bottom = np.clip([y - rows // 2, y + rows // 2], 0, height)
        start, end = np.clip([x - columns // 2, x + columns // 2], 0, width)
        left.append(1 - (bottom - top) * (end - start) / (height * width))
    return np.array(left)


def test_cutmix_areas_are_distributed_as_the_papers() -> None:
    _, labels = mixed(CUTMIX, 3000)
    ours, theirs = shares(labels).round(6), paper_boxes(20000, 12, 20).astype(np.float32).round(6)
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.2, 0.4, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    found = beta(alpha, tf.constant([1, 2]), (50_000,)).numpy()
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    expected = scipy.stats.beta(alpha, alpha)
    # Below float32's smallest difference from 1 all are 1: compared where both ends are far enough.
    for bound in (1e-6, 1e-3, 0.1, 0.3, 0.5, 0.9, 0.999):
        assert_share(found < bound, expected.cdf(bound))
    for order in (1, 2, 4):
        deviation = np.sqrt((expected.moment(2 * order) - expected.moment(order) ** 2) / len(found))
        assert abs((found**order).mean() - expected.moment(order)) <= 4.5 * deviation + 1e-6


def test_shares_of_consecutive_steps_are_independent() -> None:
    found = draws(lambda seed: beta(1.0, seed), 4000)
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-3
    assert_uncorrelated(found[1:], found[:-1])


def test_both_take_turns_at_random() -> None:
    images, labels = mixed(AugmentRecipe(mixup=1.0, cutmix=1.0), 2000)
    pasted = np.isin(images[:, 0], np.stack([IMAGES[0], IMAGES[1]])).all(axis=(1, 2, 3))
    assert_share(pasted, 0.5)
    assert_uncorrelated(pasted[1:].astype(float), pasted[:-1].astype(float))
    assert_labels_follow(labels)


def test_until_an_epoch() -> None:
    recipe = dataclasses.replace(MIXUP, mixup_off_epoch=3)
    for epoch, same in ((2, False), (3, True), (4, True)):
        images, labels = mixed(recipe, 5, epoch)
        assert (images == IMAGES).all() == same and (labels == LABELS).all() == same


def test_none_asked_none_done() -> None:
    images, labels = tf.constant(IMAGES), tf.constant(LABELS)
    given = mix(images, labels, AugmentRecipe(), tf.constant([0, 0]), tf.constant(0))
    assert given[0] is images and given[1] is labels


@pytest.mark.parametrize("recipe", [MIXUP, CUTMIX, AugmentRecipe(mixup=0.3, cutmix=1.0)])
def test_parts_of_a_batch_are_mixed_as_the_whole(recipe: AugmentRecipe) -> None:
    """By replicas that have two and four of its examples: the same, bit for bit."""
    whole, part, rest = (mixed(recipe, 20, images=IMAGES[start:stop])[0] for start, stop in ((0, 6), (0, 2), (2, 6)))
    np.testing.assert_array_equal(whole, np.concatenate([part, rest], axis=1))


def test_odd_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size per replica must be even for mixup and cutmix, not 5"):
        mix(tf.constant(IMAGES[:5]), tf.constant(LABELS[:5]), MIXUP, tf.constant([0, 0]), tf.constant(0))
