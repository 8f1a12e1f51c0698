"""Networks to evaluate, each with the preprocessing of its weights, and the mean of their probabilities."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_resnets.assembly import Network
from keras_resnets.features import without_auxiliary
from keras_resnets.preprocessing import expected_input, preprocess_input
from keras_resnets.registry import WeightsEntry, create_model
from keras_resnets.weights.labels import class_names
from training.crops import views
from training.run_folder import RunFolder
from training.sources import Source


@dataclasses.dataclass(frozen=True)
class Member:
    """A network, what its images are to be, and what it was called on the command line."""

    title: str
    network: Network
    entry: WeightsEntry

    @property
    def classes(self) -> int:
        return self.network.output_shape[-1]

    @property
    def known_classes(self) -> Sequence[tuple[str, str]] | None:
        """`(synset, label)` of the outputs, as far as the weights or their number tell them."""
        if self.entry.tag == "digits" and self.classes == 10:
            return class_names("digits")
        return class_names("imagenet") if self.classes == 1000 else None

    def probabilities(self, shown: np.ndarray, batch_size: int) -> np.ndarray:
        """Of views `(images, crops, size, size, 3)`, uint8, the mean over the crops: `(images, classes)`."""
        images, crops = shown.shape[:2]
        pixels = shown.reshape(images * crops, *shown.shape[2:])
        parts = []
        for start in range(0, len(pixels), batch_size):
            inputs = preprocess_input(pixels[start : start + batch_size], self.network)
            parts.append(np.asarray(self.network.predict_on_batch(inputs)))
        outputs = np.concatenate(parts)
        if keras.activations.serialize(self.network.get_layer("predictions").activation) != "softmax":
            outputs = keras.ops.convert_to_numpy(keras.ops.softmax(outputs))
        return outputs.reshape(images, crops, -1).mean(axis=1)


def load_network(path: Path) -> Network:
    """A network that `training.train` saved.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{str(path)!r} does not exist: train first, or until the end, with python -m training.train")
    return keras.models.load_model(path, compile=False)


def open_member(text: str, test_size: bool = False, best: bool = False) -> Member:
    """The network that a command line names.

    Args:
        text: NETWORK or NETWORK:TAG of published weights, the path of a `.keras` file, or a run folder of `training.train`.
        test_size: in the larger setting in which the weights were evaluated as well.
        best: of a run folder, the weights with the best test accuracy, not the last.

    Raises:
        ValueError: there is no such network or file, it is no classifier of this package, it has no weights of that name, or
            they have no test setting.
        ImportError, OSError: the weights cannot be downloaded.
    """
    path = Path(text)
    if path.suffix == ".keras" or path.is_dir():
        folder = RunFolder(path)
        network = load_network(path if path.suffix == ".keras" else folder.best if best else folder.final)
        if not isinstance(network, Network):
            raise ValueError(f"model {text!r} is not a network of keras_resnets: its preprocessing is unknown")
        entry = expected_input(network, test_size=test_size)
    else:
        name, _, tag = text.partition(":")
        entry = expected_input(name, tag or None, test_size)
        if not entry.source:
            raise ValueError(f"model {text!r} has no published weights: give a .keras file or a run folder")
        network = create_model(name, weights=entry.tag, input_shape=(entry.input_size, entry.input_size, 3))
    network = without_auxiliary(network)
    if network.layers[-1].name != "predictions":
        raise ValueError(f"model {text!r} is no classifier: it was built without its top")
    return Member(text, network, entry)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What networks say about the images that could be read.

    Attributes:
        read: numbers of these images.
        by_member: probabilities `(members, images, classes)`.
        skipped: number and reason of every other image.
    """

    read: np.ndarray
    by_member: np.ndarray
    skipped: list[tuple[int, str]]

    @property
    def probabilities(self) -> np.ndarray:
        """The ensemble's: the mean over its members."""
        return self.by_member.mean(axis=0)


def ask(members: Sequence[Member], source: Source, crops: int, batch_size: int,
        advance: Callable[[int], None] = lambda count: None) -> Answers:  # fmt: skip
    """Shows all images to all networks; every image is decoded once.

    Args:
        members: with the same number of classes.
        source: the images.
        crops: views of each image, see `training.crops.views`.
        batch_size: views per step.
        advance: is told how many images are done.

    Raises:
        ValueError: no image could be read.
    """
    read: list[int] = []
    skipped: list[tuple[int, str]] = []
    parts: list[list[np.ndarray]] = [[] for _ in members]

    def attempt(number: int) -> Image.Image | str:
        try:
            return source.read(number)
        except ValueError as error:
            return str(error)

    at_once = max(1, batch_size // crops)
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(source), at_once):
            numbers = range(start, min(start + at_once, len(source)))
            images: list[Image.Image] = []
            for number, image in zip(numbers, threads.map(attempt, numbers), strict=True):
                if isinstance(image, str):
                    skipped.append((number, image))
                else:
                    read.append(number)
                    images.append(image)
            for member, part in zip(members, parts, strict=True):
                if images:
                    shown = np.stack(
                        list(threads.map(lambda image, entry=member.entry: views(image, entry, crops), images))
                    )
                    part.append(member.probabilities(shown, batch_size))
            advance(len(numbers))
    if not read:
        raise ValueError(f"none of the {len(source)} images can be read; the first: {skipped[0][1]}")
    return Answers(np.array(read), np.stack([np.concatenate(part) for part in parts]), skipped)
