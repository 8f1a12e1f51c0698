"""Images and labels to train and test on: where they are, and which of them are held out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnets.assembly import nearest
from training.folders import held_out, scan, test_folder
from training.parts import Files, Part, Split
from training.recipe import DataRecipe
from training.tfds import open_tfds
from training.tfrecords import open_tfrecords


@dataclasses.dataclass(frozen=True)
class Data:
    """Images to train on and images held out.

    Attributes:
        class_names: in the order of the labels.
        title: what the images are, for people.
    """

    train: Part
    test: Part
    class_names: tuple[str, ...]
    title: str
    _problems: dict[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def train_count(self) -> int:
        """How many images there are to train on."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """How many images are held out."""
        return len(self.test)

    def note_problem(self, name: str, reason: str) -> None:
        """Remembers that an image could not be decoded."""
        self._problems[name] = reason

    def problems(self) -> list[tuple[str, str]]:
        """Names of the images that could not be decoded so far, by this process, and why; others took their place."""
        return sorted(self._problems.items())


@dataclasses.dataclass(frozen=True)
class LabelledImages(Data):
    """Images of equal size, all in memory."""

    train: Split
    test: Split
    title: str = "images in memory"


def digits(recipe: DataRecipe) -> LabelledImages:
    """The 1,797 scanned digits of scikit-learn: 8x8 with values 0..16, enlarged, as RGB with values 0..255.

    The held-out images are drawn per class, so that every digit has the same share in both parts.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    grey = source.images[..., np.newaxis] * (255 / 16)
    large = tf.image.resize(grey, (recipe.image_size, recipe.image_size), "bilinear").numpy()
    images = np.repeat(np.rint(large).astype(np.uint8), 3, axis=-1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, source.target, test_size=recipe.test_fraction, random_state=recipe.split_seed, stratify=source.target
    )
    return LabelledImages(
        Split(train_images, train_labels),
        Split(test_images, test_labels),
        tuple(str(name) for name in source.target_names),
        "handwritten digits",
    )


SOURCES: dict[str, Callable[[DataRecipe], LabelledImages]] = {"digits": digits}


def load_data(recipe: DataRecipe) -> LabelledImages:
    """The images of the source that `recipe` names, one of those that are small enough to be in memory."""
    return SOURCES[recipe.source](recipe)


def open_data(recipe: DataRecipe) -> Data:
    """The images of the source that `recipe` names.

    Raises:
        ValueError: it cannot be read.
    """
    kind, _, place = recipe.source.partition(":")
    if recipe.source == "digits":
        return digits(recipe)
    return OPENERS[kind](place, recipe)


def folder(place: str, recipe: DataRecipe) -> Data:
    """Class folders, of which a share is held out; or a folder `train` and one of `val`, `validation`, `test` of such.

    Raises:
        ValueError: there are no images, or a class is among those for testing only.
    """
    path = Path(place)
    title, test_path = f"folder {path.name}", test_folder(path)
    if test_path is None:
        names, files, labels = scan(path)
        test = held_out(labels, names, recipe.test_fraction, recipe.split_seed)
        train, held = (
            Files([files[place] for place in np.flatnonzero(chosen)], labels[chosen]) for chosen in (~test, test)
        )
        return Data(train, held, names, title)
    names, files, labels = scan(path / "train")
    test_names, test_files, test_labels = scan(test_path)
    for name in test_names:
        if name not in names:
            raise ValueError(f"class {name!r} of {str(test_path)!r} has no folder in {str(path / 'train')!r}: "
                             + nearest(name, names))  # fmt: skip
    places = np.array([names.index(name) for name in test_names])
    return Data(Files(files, labels), Files(test_files, places[test_labels]), names, title)


def tfds(name: str, recipe: DataRecipe) -> Data:
    """A prepared dataset of tensorflow-datasets, see `training.tfds`."""
    return Data(*open_tfds(name, recipe), f"tfds:{name}")


def tfrecord(place: str, recipe: DataRecipe) -> Data:
    """What `training.make_tfrecords` wrote into a folder; test images are those that it set apart."""
    return Data(*open_tfrecords(Path(place)), f"records of {Path(place).name}")


OPENERS: dict[str, Callable[[str, DataRecipe], Data]] = {"folder": folder, "tfds": tfds, "tfrecord": tfrecord}
