"""Folders of image files, one per class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("val", "validation", "test")


def scan(path: Path) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Image files in one folder per class, which has the name of the class; folders inside those count as well.

    Returns:
        Names of the classes in alphabetical order; paths of the files, sorted; and for each the place of its class.

    Raises:
        ValueError: there is no such folder, it has no class folders, or one of these has no image files.
    """
    if not path.is_dir():
        raise ValueError(f"data folder {str(path)!r} does not exist or is no folder")
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(
            f"data folder {str(path)!r} is empty of class folders: it must hold one folder of images per class"
        )
    files: list[str] = []
    labels: list[int] = []
    for label, entry in enumerate(classes):
        found = sorted(_image_files(entry), key=lambda file: file.split(os.sep))
        if not found:
            raise ValueError(f"class folder {str(entry)!r} has no image files ({', '.join(SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    return tuple(entry.name for entry in classes), files, np.array(labels)


def _image_files(path: Path) -> Iterator[str]:
    for place, _, names in os.walk(path):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(place, name)


def test_folder(path: Path) -> Path | None:
    """The folder of test images inside `path`, if that holds a folder `train` as well: then neither is a class."""
    return next((path / name for name in TEST_FOLDERS if (path / "train").is_dir() and (path / name).is_dir()), None)


def held_out(labels: np.ndarray, names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which images are for testing, drawn per class: `(count,)`, bool. Every class keeps one image at least in both parts.

    Raises:
        ValueError: a class has a single image.
    """
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        if len(places) < 2:
            raise ValueError(
                f"class {names[label]!r} has a single image: one to train on and one to test on are needed"
            )
        test[places[: min(max(round(fraction * len(places)), 1), len(places) - 1)]] = True
    return test
