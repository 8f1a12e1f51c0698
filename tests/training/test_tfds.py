"""Datasets of tensorflow-datasets: made up by its own mock, and one that is prepared here."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import photos
import pytest
import tensorflow as tf

from training import tfds as source
from training.data import Data, open_data
from training.parts import Contents, Split, Taken
from training.pipeline import training_batches
from training.recipe import AugmentRecipe, DataRecipe, ModelRecipe, OptimizerRecipe, Recipe
from training.records import Records

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
RECIPE = Recipe(
    name="tfds",
    model=ModelRecipe(name="resnet20_cifar"),
    data=DataRecipe(source="tfds:cifar10", image_size=32),
    augment=AugmentRecipe(crop="random_area"),
    optimizer=OptimizerRecipe(lr=0.1),
    epochs=1,
    batch_size=4,
)


def opened(name: str) -> Data:
    return open_data(dataclasses.replace(RECIPE.data, source=f"tfds:{name}"))


@pytest.mark.parametrize(
    "name, classes, kind",
    [("cifar10", 10, Split), ("cifar100", 100, Split), ("imagenet2012", 1000, Contents), ("mnist", 10, Split)],
)
def test_made_up_images(name: str, classes: int, kind: type) -> None:
    """Photos of any size stay encoded, small images of one size become pixels of three channels."""
    with tfds.testing.mock_data(num_examples=9):
        data = opened(name)
    assert isinstance(data.train, kind) and isinstance(data.test, kind) and data.title == f"tfds:{name}"
    assert data.train_count == data.test_count == 9 and len(data.class_names) == classes
    for images, labels in training_batches(data, RECIPE, lambda images: images / 255):
        assert images.shape == (4, 32, 32, 3) and labels.shape == (4, classes)
        assert images.numpy().std() > 0.05 and (labels.numpy().sum(axis=1) == 1).all()
    assert data.problems() == []


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Images that show their number, of different sizes."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("train", "test")

    def _info(self) -> Any:
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "kind": tfds.features.ClassLabel(names=["even", "odd"]),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "kind")
        )

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(12 if split == "train" else 5):
            picture = np.full((20 + number, 30, 3), number, np.uint8)
            yield str(number), {"picture": picture, "kind": number % 2, "file_name": f"{split}{number}.png"}


class TinyTrainOnly(TinyPhotos):
    """The same without a test part."""

    SPLITS = ("train",)


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyPhotos, TinyTrainOnly):
        builder(data_dir=str(folder)).download_and_prepare()
    tfds.core.add_data_dir(str(folder))


def test_in_memory() -> None:
    data = opened("tiny_photos")
    assert isinstance(data.train, Contents) and (data.train_count, data.test_count) == (12, 5)
    assert data.class_names == ("even", "odd")
    shown = [int(photos.by_pillow(content)[0, 0, 0]) for content in data.train.contents]
    assert sorted(shown) == list(range(12)) and (np.array(shown) % 2 == data.train.labels).all()


def test_from_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large datasets are read."""
    monkeypatch.setattr(source, "IN_MEMORY", 0)
    data = opened("tiny_photos")
    assert isinstance(data.train, Records) and (data.train_count, data.test_count) == (12, 5)
    shown = []
    for step in data.train.drawn(tf.constant([1, 0]), Taken(4, 0, 4, 3), tf.constant(0)):
        for handles in step:
            content, label = data.train.load(handles[0])
            number = int(photos.by_pillow(content.numpy())[0, 0, 0])
            assert data.train.name(handles[0]) == f"tfds:tiny_photos train, train{number}.png" and label == number % 2
            shown.append(number)
    assert sorted(shown) == list(range(12)) != shown
    assert len(list(training_batches(data, RECIPE, lambda images: images))) == 3


def test_without_a_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened("tiny_train_only")
    assert (data.train_count, data.test_count) == (10, 2) and sorted(data.test.labels) == [0, 1]  # type: ignore[attr-defined]
    monkeypatch.setattr(source, "IN_MEMORY", 0)
    with pytest.raises(ValueError, match="tfds:tiny_train_only has none of the splits validation, test"):
        opened("tiny_train_only")


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar10", "tfds:cifar10 is not prepared in .*: run `tfds build cifar10`"),
        ("cifar1", "no dataset 'cifar1': did you mean 'cifar10'"),
        ("wikipedia", "is no dataset of images with a class each"),
    ],
)
def test_datasets_that_will_not_do(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(name)
