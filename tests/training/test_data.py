"""The sources: which images there are, with which classes, and which are held out."""

from pathlib import Path

import numpy as np
import photos
import pytest
from sklearn.datasets import load_digits

from training.data import Data, LabelledImages, load_data, open_data
from training.parts import Files
from training.recipe import DataRecipe


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


def test_opened_by_name(digits: LabelledImages) -> None:
    data = open_data(DataRecipe(source="digits"))
    assert (data.train_count, data.test_count, data.title) == (1437, 360, "handwritten digits") and not data.problems()


def opened(path: Path, **options: object) -> tuple[Data, list[str], list[str]]:
    """The data of a folder, with the files of both parts relative to it."""
    data = open_data(DataRecipe(source=f"folder:{path}", **options))  # type: ignore[arg-type]
    assert isinstance(data.train, Files) and isinstance(data.test, Files)
    train, test = ([str(Path(file).relative_to(path)) for file in part.paths] for part in (data.train, data.test))
    return data, train, test


def test_class_folders_are_divided_per_class(tmp_path: Path) -> None:
    photos.make_folder(tmp_path, ["bee", "ant"], photos.numbered_photos(10))
    photos.make_folder(tmp_path, ["cow/calf"], photos.numbered_photos(2))
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    data, train, test = opened(tmp_path)
    assert data.class_names == ("ant", "bee", "cow") and data.title == f"folder {tmp_path.name}"
    everything = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")}
    assert len(train) + len(test) == len(everything) == 22 and {*train, *test} == everything
    assert [file.split("/")[0] for file in test] == ["ant"] * 2 + ["bee"] * 2 + ["cow"]
    for part, files in ((data.train, train), (data.test, test)):
        assert [data.class_names[label] for label in part.labels] == [file.split("/")[0] for file in files]
    assert opened(tmp_path)[2] == test != opened(tmp_path, split_seed=1)[2]
    assert len(opened(tmp_path, test_fraction=0.5)[2]) == 11


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_folders_with_a_test_part(tmp_path: Path, name: str) -> None:
    """A class without test images is one all the same."""
    photos.make_folder(tmp_path / "train", ["ant", "bee", "cow"], photos.numbered_photos(3))
    photos.make_folder(tmp_path / name, ["ant", "cow"], photos.numbered_photos(2))
    data, train, test = opened(tmp_path)
    assert data.class_names == ("ant", "bee", "cow") and len(train) == 9
    assert test == [f"{name}/{kind}/{number}.png" for kind in ("ant", "cow") for number in (0, 1)]
    assert data.test.labels.tolist() == [0, 0, 2, 2]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    photos.make_folder(tmp_path, ["train", "tram"], photos.numbered_photos(2))
    assert opened(tmp_path)[0].class_names == ("train", "tram")


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    photos.make_folder(tmp_path / "lone", ["ant"], photos.numbered_photos(1))
    photos.make_folder(tmp_path / "more" / "train", ["ant", "bee"], photos.numbered_photos(1))
    photos.make_folder(tmp_path / "more" / "val", ["ant", "been"], photos.numbered_photos(1))
    (tmp_path / "bare" / "ant").mkdir(parents=True)
    for name, message in [
        ("absent", "does not exist"),
        ("lone", "class 'ant' has a single image"),
        ("more", "class 'been' of .* has no folder in .*did you mean 'bee'"),
        ("bare", "has no image files"),
        ("bare/ant", "one folder of images per class"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_data(DataRecipe(source=f"folder:{tmp_path / name}"))
