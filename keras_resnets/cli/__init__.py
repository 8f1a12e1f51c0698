"""The command `keras-resnets`: list, info, weights, download, convert, predict, export, verify, benchmark."""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from keras_resnets.cli import artifacts, networks, weights


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers bad usage as the commands answer bad input: one line, exit code 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code, 1 after a line that says what is wrong.

    `arguments` are the process's by default.
    """
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except BrokenPipeError:  # `head` and its like have seen enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"keras-resnets: error: {textwrap.shorten(str(error), 500, placeholder=' …')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells report an interrupt
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="keras-resnets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], None], description: str, among: Any = commands) -> Any:
        added = among.add_parser(name, help=description, description=description)
        added.set_defaults(command=run)
        added.add_argument("--json", action="store_true", help="print JSON instead of tables")
        return added

    listing = command("list", networks.show_networks, "Tabulate the networks.")
    listing.add_argument("pattern", nargs="?", default="*", help="names to show, such as 'resnext*'")
    listing.add_argument("--family", help="only that family")
    listing.add_argument("--pretrained", action="store_true", help="only networks with published weights")

    info = command("info", networks.show_network, "Show the facts about a network and its published weights.")
    info.add_argument("name")

    of_weights = commands.add_parser("weights", help="list: tabulate the published weights.")
    weights_commands = of_weights.add_subparsers(required=True, metavar="COMMAND")
    weights_listing = command("list", weights.show_weights, "Tabulate the published weights.", weights_commands)
    weights_listing.add_argument("pattern", nargs="?", default="*", help="networks to show, such as 'resnext*'")

    download = command("download", weights.download, "Bring published weights to this machine, checked and converted.")
    download.add_argument("weights", nargs="+", metavar="NAME[:TAG]", help="network and tag (default: its first)")

    convert = command("convert", weights.convert, "Turn a PyTorch checkpoint into a Keras model.")
    convert.add_argument("checkpoint", help=".safetensors, .pth or .pt file")
    convert.add_argument("name", help="network that it belongs to")
    convert.add_argument("path", help=".keras file to write")
    convert.add_argument("--overwrite", action="store_true", help="replace what is at the path")

    predict = command("predict", networks.predict, "Name what is in image files.")
    predict.add_argument("images", nargs="+", metavar="IMAGE")
    predict.add_argument("--model", default="resnet20_cifar", metavar="NAME[:TAG]",
                         help="network, or .keras file (default: %(default)s)")  # fmt: skip
    predict.add_argument("--weights", help="tag or file of weights (default: the network's first)")
    predict.add_argument("--top", type=int, help="classes per image (default: 5, or all of fewer)")

    artifacts.add_commands(command)
    return parser
