"""Labelled images to evaluate on, read one at a time, of any size; and which output of a network each of their classes is."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from keras_resnets.assembly import nearest
from keras_resnets.preprocessing import read_image
from training.data import Split, load_data
from training.folders import scan
from training.recipe import DataRecipe


@dataclasses.dataclass(frozen=True)
class Source:
    """Images of which the classes are known.

    Attributes:
        title: what the images are, for people.
        class_names: of the classes that occur.
        labels: `(count,)`, for each image the place of its class in `class_names`.
        read: gives an image by number; ValueError if it cannot be decoded.
    """

    title: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.labels)


def arrays(title: str, split: Split, class_names: Sequence[str]) -> Source:
    """Images that are in memory."""
    return Source(title, tuple(class_names), split.labels, lambda number: Image.fromarray(split.images[number]))


def digits() -> Source:
    """The held-out digits, as `training.data` holds them out unless a recipe says otherwise."""
    data = load_data(DataRecipe(source="digits"))
    return arrays("held-out digits", data.test, data.class_names)


def folder(path: Path) -> Source:
    """Image files in one folder per class; raises as `training.folders.scan` does."""
    names, files, labels = scan(path)
    return Source(f"folder {path.name}", names, labels, lambda number: read_image(files[number]))


def open_source(text: str) -> Source:
    """The images that a command line names: "digits" or "folder:PATH".

    Raises:
        ValueError: it names nothing of these, or a folder without classes and images.
    """
    kind, _, place = text.partition(":")
    if text == "digits":
        return digits()
    if kind == "folder" and place:
        return folder(Path(place))
    raise ValueError(f"data must be 'digits' or 'folder:PATH', not {text!r}: {nearest(kind, ('digits', 'folder'))}")


def outputs_of_classes(names: Sequence[str], classes: int, known: Sequence[tuple[str, str]] | None) -> np.ndarray:
    """Which of a network's outputs each class of the images is.

    By name where the outputs have known names, of which those of the images may be some; else by number, if that is what the
    classes are called; else in the order of the names, as PyTorch's image folders do.

    Args:
        names: of the images' classes.
        classes: how many outputs the network has.
        known: `(synset, label)` of each output, or None.

    Returns:
        `(len(names),)`, the number of an output for each name.

    Raises:
        ValueError: neither fits.
    """
    places = {name: place for place, pair in enumerate(known or ()) for name in pair if name}
    if known is not None and all(name in places for name in names):
        return np.array([places[name] for name in names])
    if sorted(names) == sorted(map(str, range(classes))):
        return np.array([int(name) for name in names])
    if len(names) == classes:
        return np.arange(classes)
    count = f"the images have {len(names)} classes ({', '.join(list(names)[:5])}{' …' if len(names) > 5 else ''}), "
    if known is None:
        raise ValueError(f"{count}the network has {classes}")
    strange = next(name for name in names if name not in places)
    raise ValueError(
        f"{count}the network has {classes}; and {strange!r} is no name of one of them: {nearest(strange, places)}"
    )
