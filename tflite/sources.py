"""Images for calibration and evaluation: the scanned digits, a folder, or a dataset of tensorflow-datasets.

digits              the scanned digits of scikit-learn
folder:PATH, PATH   image files: one folder per class, or `train` and `val` (`validation`, `test`) with such, or any
tfds:NAME[/SPLIT]   a prepared dataset of tensorflow-datasets
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from keras_resnets.preprocessing import read_image, to_rgb
from keras_resnets.registry import WeightsEntry
from keras_resnets.resize import centre_offset, resize_pillow, short_side
from training.data import load_data
from training.folders import SUFFIXES, scan, test_folder
from training.parts import Part, Split
from training.recipe import DataRecipe
from training.tfds import TEST_SPLITS, open_split

PartName = Literal["train", "test"]
AT_ONCE = 32  # images that are decoded together


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images of any size.

    Attributes:
        title: what they are, for people.
        class_names: in the order of the labels; None if the classes are not known.
        count: how many there are.
        contents: gives path, file content or pixels, and label (None if not known), of the images of the given ascending numbers.
        whole: the images are shown as they are, without cutting out their centre.
        apart: "train" and "test" are different images.
    """

    title: str
    class_names: tuple[str, ...] | None
    count: int
    contents: Callable[[Sequence[int]], Iterator[tuple[Path | bytes | np.ndarray, int | None]]]
    whole: bool = False
    apart: bool = False

    def spread(self, most: int | None) -> list[int]:
        """Numbers of at most `most` images, evenly over all: they may be sorted by class."""
        count = min(most or self.count, self.count)
        return [place * self.count // count for place in range(count)]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images as a network takes them, and what became of those that were asked for.

    Attributes:
        inputs: `(images, height, width, 3)`, float32.
        labels: `(images,)`, or None.
        skipped: why others could not be read.
    """

    inputs: np.ndarray
    labels: np.ndarray | None
    skipped: tuple[str, ...]


def open_pictures(text: str, part: PartName, size: int) -> Pictures:
    """The images that a command line names.

    Args:
        text: see the module.
        part: which of them, where there are two.
        size: of the network's input; the digits are drawn at it.

    Raises:
        ValueError: `text` names no images, or ones that are not there.
    """
    kind, _, place = text.partition(":")
    if text == "digits":
        data = load_data(DataRecipe(source="digits", image_size=size))
        return _of_part(getattr(data, part), f"digits ({part})", data.class_names, whole=True, apart=True)
    if kind == "tfds" and place:
        name, _, split = place.rpartition("/")
        if name and split in ("train", *TEST_SPLITS):
            images, names, title = open_split(name, (split,))
            return _of_part(images, title, names)
        images, names, title = open_split(place, ("train",) if part == "train" else TEST_SPLITS)
        return _of_part(images, title, names, apart=True)
    if kind == "folder" or Path(text).is_dir():
        return _folder(Path(place if kind == "folder" else text), part)
    raise ValueError(f"images must be 'digits', a folder (PATH or folder:PATH) or tfds:NAME[/SPLIT], not {text!r}")


def _of_part(images: Part, title: str, names: tuple[str, ...], whole: bool = False, apart: bool = False) -> Pictures:
    def contents(numbers: Sequence[int]) -> Iterator[tuple[bytes | np.ndarray, int]]:
        if isinstance(images, Split):
            yield from ((images.images[number], int(images.labels[number])) for number in numbers)
            return
        wanted = set(numbers)
        for number, handle in enumerate(images.in_order(0, max(numbers, default=-1) + 1)):
            if number in wanted:
                content, label = images.load(handle)
                yield content.numpy(), int(label)

    return Pictures(title, names, len(images), contents, whole, apart)


def _folder(path: Path, part: PartName) -> Pictures:
    """Files of class folders, which are labelled, or of any others."""
    if not path.is_dir():
        raise ValueError(f"images folder {str(path)!r} does not exist or is no folder")
    held_out = test_folder(path)
    if held_out is not None:
        path = held_out if part == "test" else path / "train"
    loose = any(entry.suffix.lower() in SUFFIXES for entry in path.iterdir())
    if loose or not any(entry.is_dir() for entry in path.iterdir()):
        files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"images folder {str(path)!r} holds no {', '.join(SUFFIXES)} files")
        names, labels = None, None
    else:
        names, files, labels = scan(path)

    def contents(numbers: Sequence[int]) -> Iterator[tuple[Path, int | None]]:
        yield from ((Path(files[n]), None if labels is None else int(labels[n])) for n in numbers)

    return Pictures(f"folder {path.name}", names, len(files), contents, apart=held_out is not None)


def batches(pictures: Pictures, entry: WeightsEntry, numbers: Sequence[int], size: int = AT_ONCE) -> Iterator[Batch]:
    """Images as `entry` wants them: resized, their centre cut out as in the evaluation of published weights, normalised.

    Args:
        pictures: the images.
        entry: size, crop, interpolation, mean and standard deviation.
        numbers: of the images, ascending.
        size: images per batch; unreadable ones are left out of theirs.
    """
    mean, std = (np.array(values, "float32") * np.float32(255) for values in (entry.mean, entry.std))
    examples = pictures.contents(numbers)

    def attempt(content: Path | bytes | np.ndarray) -> np.ndarray | str:
        try:
            return _fitted(_decoded(content), entry, pictures.whole)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as threads:
        for start in range(0, len(numbers), size):
            chunk = [next(examples) for _ in numbers[start : start + size]]
            made = list(threads.map(attempt, [content for content, _ in chunk]))
            read = [(image, label) for image, (_, label) in zip(made, chunk, strict=True) if not isinstance(image, str)]
            pixels = np.array([image for image, _ in read], "float32").reshape(
                -1, entry.input_size, entry.input_size, 3
            )
            labels = None if pictures.class_names is None else np.array([label for _, label in read], int)
            yield Batch((pixels - mean) / std, labels, tuple(reason for reason in made if isinstance(reason, str)))


def _decoded(content: Path | bytes | np.ndarray) -> Image.Image:
    if isinstance(content, Path):
        return read_image(content)
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    try:
        with Image.open(io.BytesIO(content)) as file:
            return to_rgb(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image cannot be decoded: {error}") from error


def _fitted(image: Image.Image, entry: WeightsEntry, whole: bool) -> np.ndarray:
    """uint8 pixels `(input_size, input_size, 3)`, as `keras_resnets.preprocessing.load_image` makes them of a file."""
    size = entry.input_size
    if whole and image.size == (size, size):
        return np.asarray(image)
    image = resize_pillow(image, short_side(size, entry.crop), entry.interpolation)
    left, top = (centre_offset(side, size) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def all_images(pictures: Pictures, entry: WeightsEntry, numbers: Sequence[int]) -> Batch:
    """The images of the given numbers in one array.

    Raises:
        ValueError: none of them can be read.
    """
    parts = list(batches(pictures, entry, numbers))
    skipped = tuple(reason for part in parts for reason in part.skipped)
    inputs = np.concatenate([part.inputs for part in parts])
    if not len(inputs):
        raise ValueError(f"none of the images of {pictures.title} can be read; the first: {skipped[0]}")
    labels = (
        None
        if pictures.class_names is None
        else np.concatenate([part.labels for part in parts if part.labels is not None])
    )
    return Batch(inputs, labels, skipped)
