"""The contact sheet of what a recipe does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.augment_sheet import contents, main, photographs, shown_images
from training.data import open_data
from training.recipe import load_recipe

STILL = [f"augment.{key}=0" for key in ("shift", "rotation", "zoom", "shear")]


def test_without_augmentation_the_images_are_shown_as_they_are() -> None:
    recipe = load_recipe("digits_resnet20", STILL)
    data = open_data(recipe.data)
    images = contents(data, 3)
    shown, shares = shown_images(images, recipe, 2)
    assert shown.shape == (2, 3, 32, 32, 3) and (shares == 1).all()
    for step in shown:  # through the preprocessing and back: to one level
        np.testing.assert_allclose(step.astype(int), np.stack(images).astype(int), atol=1)
    np.testing.assert_array_equal(images[1], data.train.images[479])  # a third of the 1437 further on


def test_mixed_pairs() -> None:
    recipe = load_recipe("digits_resnet20", [*STILL, "augment.mixup=1.0"])
    images = contents(open_data(recipe.data), 2)
    shown, shares = shown_images(images, recipe, 3)
    first, second = (image.numpy().astype(float) for image in images)
    assert len(set(shares)) == 3
    for (one, other), share in zip(shown, shares, strict=True):
        np.testing.assert_allclose(one, share * first + (1 - share) * second, atol=1.01)
        np.testing.assert_allclose(other, share * second + (1 - share) * first, atol=1.01)


def test_program(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["digits_resnet20", "--data", "digits", "--rows", "3", "--steps", "4", "--out", str(out)]
    assert main(arguments) == 0 and str(out) in capsys.readouterr().out
    with Image.open(out) as picture:
        width, height = picture.size
    assert (width, height) == (625, 455) and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["digits_resnet21"], "no recipe 'digits_resnet21'"),
        (["digits_resnet20", "--rows", "3"], "--rows must be from 1 to the number of images, 2, not 3"),
        (["digits_rsb", "--data", "digits", "--rows", "3"], "even for mixup and cutmix, not 3"),
        (["digits_resnet20", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["digits_resnet20", "--data", "digitz"], "digits"),
        (["digits_resnet20", "--steps", "1", "--out", "missing/sheet.png"], "missing"),
        (["digits_resnet20", "--steps", "1", "--out", "sheet.mp3"], "'mp3' is not supported"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_photographs() -> None:
    data = photographs()
    assert data.train_count == 2 and data.train.images.shape == (2, 427, 640, 3)
