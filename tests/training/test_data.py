"""The digits and their batches: sizes, split, values, and what follows from the seed."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from training.augment import random_affine
from training.data import LabelledImages, Split, load_data, training_batches
from training.recipe import AugmentRecipe, DataRecipe

STILL = AugmentRecipe()


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_data(DataRecipe(source="digits"))


def test_sizes_and_stratification(digits: LabelledImages) -> None:
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.images.shape == (1437, 32, 32, 3) and digits.train.images.dtype == np.uint8
    per_class = np.bincount(load_digits().target)
    np.testing.assert_allclose(np.bincount(digits.test.labels), per_class / 5, atol=1)
    assert digits.class_names == tuple("0123456789")


def test_every_image_is_in_one_part(digits: LabelledImages) -> None:
    """By the centres of the 8x8 cells, which show every source image without loss."""
    source = {image.tobytes() for image in load_digits().images.astype(np.uint8)}
    train, test = ([back.tobytes() for back in to_source(part.images)] for part in (digits.train, digits.test))
    assert not set(train) & set(test)
    assert set(train) | set(test) == source


def to_source(images: np.ndarray) -> np.ndarray:
    """The 8x8 images, values 0..16, of which `images` are bilinear enlargements: their mean over cells inverts a blur."""
    weights = np.zeros((8, 8))
    for cell in range(8):
        for place in (4 * cell + np.arange(4) + 0.5) / 4 - 0.5:
            low = int(np.floor(place))
            for neighbour, share in ((low, low + 1 - place), (low + 1, place - low)):
                weights[cell, np.clip(neighbour, 0, 7)] += share / 4
    inverse = np.linalg.inv(weights)
    cells = images[..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)) * (16 / 255)
    return np.rint(np.einsum("ij,njk,lk->nil", inverse, cells, inverse)).astype(np.uint8)


def test_image_size(digits: LabelledImages) -> None:
    """At 8 pixels they are the scans themselves; the split does not depend on it."""
    small, large = (load_data(DataRecipe(source="digits", image_size=size)) for size in (8, 75))
    assert large.train.images.shape == (1437, 75, 75, 3)
    scans = np.rint(small.test.images[..., 0] * (16 / 255)).astype(np.uint8)
    np.testing.assert_array_equal(scans, to_source(digits.test.images))
    np.testing.assert_array_equal(large.test.labels, digits.test.labels)


def test_split_follows_from_the_seed(digits: LabelledImages) -> None:
    again, other = (load_data(DataRecipe(source="digits", split_seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(digits.test.images, again.test.images)
    assert not np.array_equal(digits.test.labels, other.test.labels)


def numbered(count: int) -> Split:
    """Images that show their own number."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3))
    return Split(images, np.arange(count) % 2)


def batches(epochs: range, seed: int = 5, augment: AugmentRecipe = STILL) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = training_batches(numbered(11), 2, lambda x: x / 2, augment, batch_size=4, seed=seed, epochs=epochs)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def test_batches_of_an_epoch() -> None:
    """Two batches of four of the eleven images, none twice, halved by the preprocessing, with their own labels."""
    (first, first_labels), (second, second_labels) = batches(range(1))
    shown = 2 * np.concatenate([first, second])[:, 0, 0, 0]
    assert len(set(shown)) == 8 and set(shown) <= set(range(11))
    np.testing.assert_array_equal(np.concatenate([first_labels, second_labels]).argmax(axis=1), shown % 2)


def test_batches_from_the_middle_equal_those_of_the_whole_run() -> None:
    shaken = AugmentRecipe(shift=1, rotation=20)
    whole, rest = batches(range(4), augment=shaken), batches(range(2, 4), augment=shaken)
    assert len(whole) == 8 and len(rest) == 4
    for (images, labels), (same_images, same_labels) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)


def test_epochs_and_seeds_differ() -> None:
    one, two = batches(range(2))[0][0], batches(range(2))[2][0]
    other = batches(range(2), seed=6)[0][0]
    assert not np.array_equal(one, two) and not np.array_equal(one, other)


def moved(row: int, column: int, amounts: AugmentRecipe, draws: int = 300) -> np.ndarray:
    """Where a spot at `(row, column)` of a 33x33 image is after each of many augmentations, relative to the centre."""
    images = np.zeros((draws, 33, 33, 1), np.float32)
    images[:, row - 1 : row + 2, column - 1 : column + 2] = 255
    mass = random_affine(images, amounts, tf.constant([3, 4])).numpy()[..., 0]
    mass /= mass.sum(axis=(1, 2), keepdims=True)
    return np.stack([mass.sum(axis=axis) @ np.arange(33) - 16 for axis in (2, 1)], axis=1)


def test_nothing_asked_nothing_done(digits: LabelledImages) -> None:
    images = digits.test.images[:4]
    np.testing.assert_allclose(random_affine(images, STILL, tf.constant([0, 0])), images, atol=1e-3)


def test_shift_moves_up_to_its_amount() -> None:
    offsets = moved(16, 16, AugmentRecipe(shift=5))
    assert np.abs(offsets).max() <= 5 + 1e-3
    assert (offsets.max(axis=0) > 4).all() and (offsets.min(axis=0) < -4).all()


def test_rotation_keeps_the_distance_from_the_centre() -> None:
    offsets = moved(16, 26, AugmentRecipe(rotation=30))
    angles = np.degrees(np.arctan2(offsets[:, 0], offsets[:, 1]))
    np.testing.assert_allclose(np.hypot(*offsets.T), 10, atol=0.25)
    assert np.abs(angles).max() <= 30.5 and angles.max() > 25 and angles.min() < -25


def test_zoom_scales_the_distance_from_the_centre() -> None:
    offsets = moved(16, 26, AugmentRecipe(zoom=0.3))
    np.testing.assert_allclose(offsets[:, 0], 0, atol=0.05)
    assert offsets[:, 1].min() >= 7 - 0.1 and offsets[:, 1].max() <= 13 + 0.1
    assert offsets[:, 1].min() < 7.6 and offsets[:, 1].max() > 12.4


def test_shear_leans_the_vertical_axis() -> None:
    offsets = moved(6, 16, AugmentRecipe(shear=20))
    np.testing.assert_allclose(offsets[:, 0], -10, atol=0.1)
    reach = 10 * np.tan(np.radians(20))
    assert np.abs(offsets[:, 1]).max() <= reach + 0.1 and np.ptp(offsets[:, 1]) > 1.7 * reach
