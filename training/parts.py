"""Where the images of a training or test part are, and how they are read in the order of an epoch.

What is read first is a handle, which costs little: the number of an image, or its record as it is stored. `load` makes content
and label of it later, in parallel.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from training.draws import seed_for

# How many images after one that cannot be decoded are tried in its place.
SPARES = 7


@dataclasses.dataclass(frozen=True)
class Taken:
    """Which images of every step a process takes.

    Attributes:
        batch: different images per step, over all processes.
        low, high: the first of them that this process takes, and the first that it does not.
        steps: of an epoch.
    """

    batch: int
    low: int
    high: int
    steps: int


class Part(abc.ABC):
    """Images and their classes; `len` says how many.

    Attributes:
        always_decodable: whether nothing can go wrong with an image.
    """

    always_decodable = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def drawn(self, seed: tf.Tensor, taken: Taken, first: tf.Tensor) -> tf.data.Dataset:
        """The images of an epoch in random order, a step per element, from step `first` on.

        Args:
            seed: two integers: of the run, number of the epoch. The order follows from them and `taken.batch` alone.
            taken: which of them.
            first: number of a step in the epoch.

        Returns:
            Handles `(high - low, candidates)`: of each image, and of those that take its place if it cannot be decoded.
        """

    @abc.abstractmethod
    def in_order(self, start: int, stop: int) -> tf.data.Dataset:
        """Handles of the images from number `start` to before `stop` in an order that is always the same."""

    @abc.abstractmethod
    def load(self, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Content and label of an image: content of its file, a scalar string, or uint8 pixels `(height, width, 3)`."""

    @abc.abstractmethod
    def name(self, handle: tf.Tensor) -> str:
        """What to call an image, for people."""


class Numbered(Part):
    """A part whose images can be read in any order, by number."""

    def drawn(self, seed: tf.Tensor, taken: Taken, first: tf.Tensor) -> tf.data.Dataset:
        count = len(self)
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed_for("order", seed))
        wanted = tf.range(taken.low, taken.high)[:, tf.newaxis] + tf.range(1 if self.always_decodable else 1 + SPARES)

        def step(number: tf.Tensor) -> tf.Tensor:
            return tf.gather(order, (tf.cast(number, tf.int32) * taken.batch + wanted) % count)

        return tf.data.Dataset.range(tf.cast(first, tf.int64), taken.steps).map(step)

    def in_order(self, start: int, stop: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(start, stop, output_type=tf.int32)


@dataclasses.dataclass(frozen=True)
class Split(Numbered):
    """uint8 images `(count, height, width, 3)`, 0..255, and their classes `(count,)`, in memory."""

    images: np.ndarray
    labels: np.ndarray

    always_decodable = True

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope(), tf.device("CPU:0"):  # outside of graphs, which must not hold copies
            return tf.constant(self.images, tf.uint8), tf.constant(self.labels, tf.int32)

    def only(self, chosen: np.ndarray) -> "Split":
        """The images for which `chosen` is true."""
        return Split(self.images[chosen], self.labels[chosen])

    def load(self, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = self._tensors
        return images[handle], labels[handle]

    def name(self, handle: tf.Tensor) -> str:
        return f"image {int(handle)}"


@dataclasses.dataclass(frozen=True)
class Files(Numbered):
    """Image files and their classes.

    Attributes:
        paths: of the files.
        labels: `(count,)`.
    """

    paths: Sequence[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(list(self.paths), tf.string), tf.constant(self.labels, tf.int32)

    def load(self, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        paths, labels = self._tensors
        return tf.io.read_file(paths[handle]), labels[handle]

    def name(self, handle: tf.Tensor) -> str:
        return self.paths[int(handle)]


@dataclasses.dataclass(frozen=True)
class Contents(Numbered):
    """Contents of image files, held in memory, and their classes.

    Attributes:
        contents: of the files.
        labels: `(count,)`.
        title: what the images belong to.
    """

    contents: Sequence[bytes]
    labels: np.ndarray
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(list(self.contents), tf.string), tf.constant(self.labels, tf.int32)

    def only(self, chosen: np.ndarray) -> "Contents":
        """The images for which `chosen` is true."""
        places = np.flatnonzero(chosen)
        return Contents([self.contents[int(place)] for place in places], self.labels[places], self.title)

    def load(self, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        contents, labels = self._tensors
        return contents[handle], labels[handle]

    def name(self, handle: tf.Tensor) -> str:
        return f"{self.title}, image {int(handle)}"
