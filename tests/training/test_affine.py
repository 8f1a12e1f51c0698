"""The affine map of `training.augment`: where it takes a spot."""

import numpy as np
import tensorflow as tf

from training.augment import random_affine
from training.data import load_data
from training.recipe import AugmentRecipe, DataRecipe


def moved(row: int, column: int, amounts: AugmentRecipe, draws: int = 300) -> np.ndarray:
    """Where a spot at `(row, column)` of a 33x33 image is after each of many augmentations, relative to the centre."""
    images = np.zeros((draws, 33, 33, 1), np.float32)
    images[:, row - 1 : row + 2, column - 1 : column + 2] = 255
    mass = random_affine(images, amounts, tf.constant([3, 4])).numpy()[..., 0]
    mass /= mass.sum(axis=(1, 2), keepdims=True)
    return np.stack([mass.sum(axis=axis) @ np.arange(33) - 16 for axis in (2, 1)], axis=1)


def test_nothing_asked_nothing_done() -> None:
    images = load_data(DataRecipe(source="digits")).test.images[:4]
    np.testing.assert_allclose(random_affine(images, AugmentRecipe(), tf.constant([0, 0])), images, atol=1e-3)


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
