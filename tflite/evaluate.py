"""Accuracy of TFLite files on the held-out digits: `python -m tflite.evaluate digits.tflite digits_int8.tflite`.

Each file is run by LiteRT in a process without Keras.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from keras_resnets.export import run_artifact
from keras_resnets.preprocessing import preprocess_input
from tflite.sources import digits


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, 1 after a line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tflite.evaluate", description="Accuracy of TFLite files on the digits."
    )
    parser.add_argument("files", nargs="+", metavar="FILE.tflite")
    options = parser.parse_args(arguments)
    images, labels = digits("test")
    inputs = preprocess_input(images, "resnet20_cifar", "digits")
    table = Table(
        Column("file", overflow="fold"), "size (kB)", "accuracy (%)", "agreement with the first (%)", "ms per image"
    )
    answers: list[np.ndarray] = []
    try:
        for file in options.files:
            outputs, latency = run_artifact(file, inputs)
            answers.append(outputs.argmax(axis=-1))
            accuracy, agreement = (100 * np.mean(answers[-1] == truth) for truth in (labels, answers[0]))
            size = Path(file).stat().st_size / 1000
            table.add_row(file, f"{size:.0f}", f"{accuracy:.2f}", f"{agreement:.2f}", f"{latency:.2f}")
    except (ValueError, OSError) as error:
        print(f"tflite.evaluate: error: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
