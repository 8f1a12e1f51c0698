"""Converts a network to a TFLite file.

    python -m tflite.convert resnet20_cifar digits.tflite --weights digits
    python -m tflite.convert resnet20_cifar digits_int8.tflite --weights digits --quantization int8 --calibration digits

The file is run by LiteRT and compared with the network before it is kept; see docs/mobile.md. How much accuracy a quantised
file keeps on images of which the classes are known, `tflite.quantize` measures as well.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from tflite import conversion, program


def _body(options: argparse.Namespace, console: Console) -> None:
    opened = conversion.open_model(options)
    program.say(console, opened.described(options))
    with console.status("converting and proving"):
        report = conversion.export(opened, options.path, options.quantization, options)
    program.say(console, str(report))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    parser = program.Parser("convert", "Convert a network to a TFLite file.")
    conversion.add_arguments(parser)
    parser.add_argument("--quantization", choices=conversion.QUANTIZATIONS, help="(default: none, float32)")
    return program.run(parser, arguments, _body)


if __name__ == "__main__":
    sys.exit(main())
