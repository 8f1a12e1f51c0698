"""Converts a network to TFLite.

    python -m tflite.convert resnet20_cifar digits.tflite --weights digits --quantization int8 --calibration digits

The file is run by LiteRT and compared with the network before it is kept; see docs/export.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import keras

import keras_resnets as kr
from keras_resnets.assembly import Network
from tflite.sources import calibration_images


def open_network(name: str, weights: str | None) -> Network:
    """A network by name with the weights asked for, or a `.keras` file of this package.

    Raises:
        ValueError: there is no such network or file, or no weights were named for a network.
    """
    if name.endswith(".keras"):
        if not Path(name).is_file():
            raise ValueError(f"model {name!r} is not a file")
        network = keras.saving.load_model(name)
        if not isinstance(network, Network):
            raise ValueError(f"model {name!r} is not a network of keras_resnets")
        return network
    if weights is None:
        raise ValueError(
            f"--weights is needed for {name!r}: one of {', '.join(kr.model_info(name).weights) or 'your files'}"
        )
    return kr.create_model(name, weights=weights)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, 1 after a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tflite.convert", description="Convert a network to a TFLite file.")
    parser.add_argument("model", help="network or .keras file")
    parser.add_argument("path", help="file to write, ending in .tflite")
    parser.add_argument("--weights", help="tag or file of weights")
    parser.add_argument("--quantization", choices=("float16", "int8"), help="default: float32")
    parser.add_argument("--calibration", help="for int8: 'digits' or a folder of real images")
    parser.add_argument("--calibration-images", type=int, default=500, help="at most how many (default: %(default)s)")
    parser.add_argument("--interface", choices=("int8", "float32"), help="of an int8 file (default: int8)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    options = parser.parse_args(arguments)
    try:
        if (options.quantization == "int8") != (options.calibration is not None):
            raise ValueError("--calibration goes with --quantization int8: 'digits' or a folder of real images")
        network = open_network(options.model, options.weights)
        extra = {}
        if options.calibration is not None:
            extra["calibration"] = calibration_images(options.calibration, network, options.calibration_images)
            extra["interface"] = options.interface
        report = kr.export(network, options.path, format="tflite", quantization=options.quantization,
                           overwrite=options.overwrite, **extra)  # fmt: skip
    except (ValueError, OSError, ImportError) as error:
        print(f"tflite.convert: error: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
