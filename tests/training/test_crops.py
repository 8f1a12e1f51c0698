"""Crops of an image whose pixels carry their own position, against slices written out here."""

import dataclasses
import fractions
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_resnets.preprocessing import expected_input, load_image
from training.crops import five_crops, inception_144_crop, ten_crop, views

CHINA, FLOWER = load_sample_images().images
PORTRAIT = np.ascontiguousarray(FLOWER.transpose(1, 0, 2))


def positions(height: int, width: int) -> np.ndarray:
    """Every pixel holds its row and column."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)


SHAPES = [(10, 10), (10, 17), (33, 11), (41, 28), (10, 11), (13, 10)]


@pytest.mark.parametrize("height, width", SHAPES)
@pytest.mark.parametrize("size", [1, 7, 10])
def test_ten_crops_begin_where_they_should(height: int, width: int, size: int) -> None:
    crops = ten_crop(positions(height, width), size)
    assert crops.shape == (10, size, size, 2)
    centre = [round((height - size) / 2), round((width - size) / 2)]
    starts = [[0, 0], [0, width - size], [height - size, 0], [height - size, width - size], centre]
    for crop, mirrored, start in zip(crops[:5], crops[5:], starts, strict=True):
        np.testing.assert_array_equal(crop, positions(size, size) + start)
        np.testing.assert_array_equal(mirrored[:, 0], crop[:, -1])
        np.testing.assert_array_equal(mirrored[:, -1], crop[:, 0])
        np.testing.assert_array_equal(mirrored[..., 0], crop[..., 0])


def test_mirrored_crops_are_the_crops_of_the_mirrored_image() -> None:
    image = positions(20, 30)
    mirrored = five_crops(image[:, ::-1], 10)[[1, 0, 3, 2, 4]]  # left and right change places
    np.testing.assert_array_equal(ten_crop(image, 10)[5:], mirrored)


@pytest.mark.parametrize("size", [0, 11, -1])
def test_crops_larger_than_the_image(size: int) -> None:
    with pytest.raises(ValueError, match="from 1 to the image's shorter side, 10"):
        five_crops(positions(10, 20), size)


def slices(photo: np.ndarray, size: int, resampling: Image.Resampling) -> list[np.ndarray]:
    """The 72 views that are not mirrored, after section 7 of the paper, step by step."""
    result = []
    for scale in (256, 288, 320, 352):
        short = math.floor(fractions.Fraction(scale, 224) * size)
        height, width = photo.shape[:2]
        ratio = fractions.Fraction(max(height, width), min(height, width))
        long = math.floor(short * ratio)
        shape = (long, short) if width > height else (short, long)
        scaled = Image.fromarray(photo).resize(shape, resampling)
        for start in (0, round((long - short) / 2), long - short):
            box = (start, 0, start + short, short) if width > height else (0, start, short, start + short)
            square = scaled.crop(box)
            middle, end = round((short - size) / 2), short - size
            for left, top in ((0, 0), (end, 0), (0, end), (end, end), (middle, middle)):
                result.append(np.asarray(square.crop((left, top, left + size, top + size))))
            result.append(np.asarray(square.resize((size, size), resampling)))
    return result


@pytest.mark.parametrize(
    "photo, size", [(CHINA, 224), (PORTRAIT, 96), (CHINA[:200, :200], 75), (CHINA[:301, :427], 161)],
    ids=["landscape", "portrait", "square", "odd sides"],
)  # fmt: skip
def test_144_crops(photo: np.ndarray, size: int) -> None:
    crops = inception_144_crop(Image.fromarray(photo), size)
    assert crops.shape == (144, size, size, 3) and crops.dtype == np.uint8
    for crop, expected in zip(crops, slices(photo, size, Image.Resampling.BICUBIC), strict=False):
        np.testing.assert_array_equal(crop, expected)
    np.testing.assert_array_equal(crops[72:], np.flip(crops[:72], axis=2))


def test_views_follow_the_entry(tmp_path: Path) -> None:
    entry = dataclasses.replace(expected_input("resnet50"), input_size=64, crop=0.8, interpolation="bilinear")
    image = Image.fromarray(CHINA)
    image.save(tmp_path / "china.png")
    (one,) = views(image, entry, 1)
    np.testing.assert_array_equal(one, load_image(tmp_path / "china.png", entry))
    ten = views(image, entry, 10)
    np.testing.assert_array_equal(ten[4], one)
    resized = np.asarray(image.resize((119, 80), Image.Resampling.BILINEAR))  # 640 x 427 with a short side of 64 / 0.8
    np.testing.assert_array_equal(ten[0], resized[:64, :64])
    np.testing.assert_array_equal(ten[3], resized[16:, 55:])
    np.testing.assert_array_equal(views(image, entry, 144), inception_144_crop(image, 64, "bilinear"))
    with pytest.raises(ValueError, match="1, 10 or 144, not 12"):
        views(image, entry, 12)


def test_same_size_needs_no_pixels_more() -> None:
    """Digits are as large as their network wants them: all five crops are the image."""
    entry = dataclasses.replace(expected_input("resnet50"), input_size=32, crop=1.0)
    image = CHINA[:32, :32]
    ten = views(Image.fromarray(image), entry, 10)
    assert all((crop == image).all() for crop in ten[:5]) and all((crop == image[:, ::-1]).all() for crop in ten[5:])
