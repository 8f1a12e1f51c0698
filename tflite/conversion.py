"""From a network on the command line to a TFLite file: what `tflite.convert` and `tflite.quantize` share."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import keras_resnets as kr
from keras_resnets.assembly import Network
from keras_resnets.cli.networks import open_network
from keras_resnets.export import ExportReport
from keras_resnets.preprocessing import expected_input
from keras_resnets.registry import WeightsEntry
from tflite import program
from tflite.sources import Batch, all_images, open_pictures

QUANTIZATIONS = ("float16", "dynamic", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")
INTERFACES = ("int8", "uint8", "int16", "float32")
QUANTIZERS = ("best", "converter", "litert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what to convert and how."""
    parser.add_argument("model", help="network or network:tag of published weights, or a .keras file")
    parser.add_argument("path", type=Path, help="file to write, ending in .tflite")
    parser.add_argument("--weights", help="tag or file of weights (default: the network's first)")
    parser.add_argument("--calibration", metavar="IMAGES",
                        help="for int8 and int16x8: real images, digits, a folder (PATH or folder:PATH), or "
                        "tfds:NAME[/SPLIT]")  # fmt: skip
    parser.add_argument("--calibration-images", type=program.whole_number, default=300, metavar="N",
                        help="at most how many (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--interface", choices=INTERFACES, help="type of input and output (default: int8, for int16x8 float32)"
    )
    parser.add_argument("--quantizer", choices=QUANTIZERS, help="which one (default: the more accurate)")
    parser.add_argument("--batch-size", type=program.whole_number, help="images per call (default: 1)")
    parser.add_argument("--input-size", type=program.whole_number, metavar="PIXELS",
                        help="side of the input (default: the network's)")  # fmt: skip
    parser.add_argument(
        "--labels", metavar="FILE", help="names of the classes, one a line (default: those of the weights)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


@dataclasses.dataclass(frozen=True)
class Opened:
    """What is to be converted.

    Attributes:
        network: with its weights.
        entry: what its images are to be, at the size of the file's input.
        calibration: real images, or None.
    """

    network: Network
    entry: WeightsEntry
    calibration: Batch | None

    def described(self, options: argparse.Namespace) -> str:
        """A sentence about what will be done."""
        images = (
            "" if self.calibration is None else f" on {len(self.calibration.inputs)} images of {options.calibration}"
        )
        return (f"Converting {options.model} to {options.quantization or 'float32'}{images}: {options.path}, "
                f"{self.entry.input_size} x {self.entry.input_size} pixels.")  # fmt: skip


def open_model(options: argparse.Namespace) -> Opened:
    """The network and the calibration images of a command line.

    Raises:
        ValueError: there is no such network, file or images; or calibration is missing, or given where none is made.
    """
    calibrated = options.quantization in CALIBRATED
    if calibrated and options.calibration is None:
        raise ValueError(f"--quantization {options.quantization} needs --calibration: real images (digits, a folder, "
                         "tfds:NAME), from which the scales are taken")  # fmt: skip
    if not calibrated and options.calibration is not None:
        raise ValueError(f"--calibration goes with --quantization {' or '.join(CALIBRATED)}")
    check_path(options.path, options.overwrite)
    network = open_network(options.model, options.weights)
    if not isinstance(network, Network):
        raise ValueError(f"model {options.model!r} is not a network of keras_resnets: its preprocessing is unknown")
    entry = expected_input(network)
    size = options.input_size or network.input_shape[1] or entry.input_size
    entry = dataclasses.replace(entry, input_size=size)
    if options.calibration is None:
        return Opened(network, entry, None)
    pictures = open_pictures(options.calibration, "train", size)
    return Opened(network, entry, all_images(pictures, entry, pictures.spread(options.calibration_images)))


def check_path(path: Path, overwrite: bool) -> None:
    """What the export checks too, before any work is done."""
    if path.suffix != ".tflite":
        raise ValueError(f"path must end in '.tflite', not {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"path {str(path)!r} is in a directory that does not exist")
    if path.exists() and not overwrite:
        raise ValueError(f"path {str(path)!r} exists: give --overwrite to replace it")


def export(opened: Opened, path: Path, quantization: str | None, options: argparse.Namespace,
           **changed: Any) -> ExportReport:  # fmt: skip
    """Writes the file as the command line says; `changed` options take the place of its own."""
    given: dict[str, Any] = {
        "batch_size": options.batch_size,
        "input_size": options.input_size,
        "labels": options.labels,
    }
    if quantization in CALIBRATED:
        assert opened.calibration is not None
        given |= {
            "calibration": opened.calibration.inputs,
            "interface": options.interface,
            "quantizer": options.quantizer,
        }
    given |= changed
    return kr.export(opened.network, path, format="tflite", quantization=quantization,
                     overwrite=options.overwrite, **{key: value for key, value in given.items() if value is not None})  # fmt: skip
