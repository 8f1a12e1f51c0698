"""A TFLite file as a classifier: images in, scores out."""

import os
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_resnets.export.runner import dequantized, quantized
from training import native_messages_hidden


class Classifier:
    """An opened file with one input and one output `(batch, classes)`.

    Attributes:
        input_shape: `(batch, height, width, channels)`.
        classes: number of outputs.
        seconds: spent in the interpreter so far.

    Args:
        path: of the file.
        threads: of the interpreter; by default one per processor.

    Raises:
        ValueError: it is no such file, or no classifier.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            with native_messages_hidden():  # it says which delegate it uses
                self._interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
                self._interpreter.allocate_tensors()
            (self._source,), (self._target,) = (
                self._interpreter.get_input_details(),
                self._interpreter.get_output_details(),
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{str(path)!r} is not a TFLite file with one input and one output: {error}") from error
        self.input_shape = tuple(int(size) for size in self._source["shape"])
        shape = tuple(int(size) for size in self._target["shape"])
        if len(shape) != 2 or len(self.input_shape) != 4:
            raise ValueError(f"{str(path)!r} is no classifier of images: it makes {shape} of {self.input_shape}")
        self.classes = shape[1]
        self.seconds = 0.0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Scores `(images, classes)` of images as the network takes them; calls of the file's own batch, the last filled up."""
        size = self.input_shape[0]
        parts = [self._call(np.resize(images[start : start + size], (size, *images.shape[1:])))
                 for start in range(0, len(images), size)]  # fmt: skip
        return np.concatenate([np.empty((0, self.classes), "float32"), *parts])[: len(images)]

    def _call(self, batch: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._source["index"], quantized(batch, self._source))
        start = time.perf_counter()
        self._interpreter.invoke()
        self.seconds += time.perf_counter() - start
        return dequantized(self._interpreter.get_tensor(self._target["index"]), self._target)
