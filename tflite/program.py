"""What the programs have in common: their arguments, their errors, and files that are there whole or not at all."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
PIPED_WIDTH = 150  # columns of tables that go to a file or another program


class Parser(argparse.ArgumentParser):
    """Arguments of a program of this folder; what is wrong with them is one line, and exit code 1."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(prog=f"python -m tflite.{name}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog.removeprefix('python -m ')}: error: {message}\n")


def run(parser: Parser, arguments: Sequence[str] | None, body: Callable[[argparse.Namespace, Console], None]) -> int:
    """Runs a program and returns its exit code: 0, 1 after a line that says what is wrong, 130 after Ctrl-C."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    try:
        body(parser.parse_args(arguments), console)
    except SystemExit as stop:
        return int(stop.code or 0)
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog.removeprefix('python -m ')}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted: nothing was written.")
        return INTERRUPTED
    return 0


def say(console: Console, text: str) -> None:
    """Prints names and paths as they are."""
    console.print(text, markup=False, soft_wrap=True)


def progress(console: Console, label: str) -> Progress:
    """A bar with the time that is left, gone when it is full; none where nobody looks."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for people: the first column is text, the others are figures."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def whole_number(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, not {text!r}")
    return int(text)


def tflite_file(text: str) -> Path:
    """An argument that names an existing `.tflite` file."""
    if not text.endswith(".tflite"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .tflite")
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} does not exist or is no file")
    return Path(text)


def output_folder(path: Path) -> Path:
    """Makes the folder of a program's results if there is none; ValueError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {str(path)!r} cannot be a folder: {error}") from error
    return path


def json_number(value: float | None, digits: int = 6) -> Any:
    """A figure as JSON has it: of six decimals, and null where it is not known."""
    return None if value is None else round(float(value), digits)
