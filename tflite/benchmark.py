"""How fast TFLite files are on this machine, and how much memory they take.

    python -m tflite.benchmark digits.tflite digits_int8.tflite --threads 1 2 --xnnpack both

Every measurement is a process of its own, and the files take turns (A B A B …), so that what else the machine does falls on all
of them alike. Writes `benchmark.png` and `benchmark.json`.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from tflite import program
from training import plots
from training.run_folder import write_text

TIMING = Path(__file__).with_name("timing.py")
COLUMNS = (
    "file",
    "threads",
    "XNNPACK",
    "partitions",
    "min ms",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "ms per image",
    "memory MB",
)
COLOURS = ("#1f5fa8", "#d1495b", "#e08e2b", "#4a4a4a", "#5b8c5a", "#7a5195")
XNNPACK = {"on": (True,), "off": (False,), "both": (True, False)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured."""

    file: Path
    threads: int
    xnnpack: bool


@dataclasses.dataclass(frozen=True)
class Timing:
    """What came out, over all turns of a setting.

    Attributes:
        setting: what was measured.
        milliseconds: of every call after the warm-up.
        peak_bytes: largest resident memory of the process, its Python and NumPy included; of the turns the smallest.
        own_bytes: how much of that came with the file.
        partitions: pieces that XNNPACK runs.
    """

    setting: Setting
    milliseconds: np.ndarray
    peak_bytes: int
    own_bytes: int
    partitions: int

    def percentile(self, share: float) -> float:
        """Milliseconds that `share` percent of the calls do not exceed."""
        return float(np.percentile(self.milliseconds, share))

    def figures(self, batch: int) -> dict[str, Any]:
        """For JSON."""
        named = {f"p{share}_ms": program.json_number(self.percentile(share), 4) for share in (50, 90, 99)}
        return {
            "file": str(self.setting.file), "bytes": self.setting.file.stat().st_size, "threads": self.setting.threads,
            "xnnpack": self.setting.xnnpack, "batch": batch, "calls": len(self.milliseconds),
            "min_ms": program.json_number(self.milliseconds.min(), 4), "mean_ms": program.json_number(self.milliseconds.mean(), 4),
            **named, "p50_ms_per_image": program.json_number(self.percentile(50) / batch, 4), "peak_bytes": self.peak_bytes,
            "own_bytes": self.own_bytes, "partitions": self.partitions,
        }  # fmt: skip


def settings(files: Sequence[Path], threads: Sequence[int], xnnpack: Sequence[bool]) -> list[Setting]:
    """All combinations; those of different files that are otherwise the same stand together."""
    return [Setting(file, count, on) for on, count, file in itertools.product(xnnpack, threads, files)]


def measure(chosen: Sequence[Setting], batch: int, warmup: int, runs: int, turns: int,
            advance: Callable[[], None] = lambda: None) -> list[Timing]:  # fmt: skip
    """Times every setting `turns` times, one after the other and from the beginning again.

    Args:
        chosen: the settings.
        batch: images per call.
        warmup: calls before those that count, in every turn.
        runs: calls that count, in every turn.
        turns: processes per setting.
        advance: is called after each of them.

    Raises:
        ValueError: a file does not run, or not with this batch.
    """
    parts: dict[Setting, list[dict[str, Any]]] = {setting: [] for setting in chosen}
    for _, setting in itertools.product(range(turns), chosen):
        parts[setting].append(_turn(setting, batch, warmup, runs))
        advance()
    return [
        Timing(setting, np.concatenate([part["milliseconds"] for part in made]), min(part["peak_bytes"] for part in made),
               min(part["own_bytes"] for part in made), made[0]["partitions"])
        for setting, made in parts.items()
    ]  # fmt: skip


def _turn(setting: Setting, batch: int, warmup: int, runs: int) -> dict[str, Any]:
    numbers = (setting.threads, int(setting.xnnpack), batch, warmup, runs)
    command = [sys.executable, str(TIMING), str(setting.file), *map(str, numbers)]
    child = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise ValueError(f"{str(setting.file)!r} does not run: {reason}")
    return json.loads(child.stdout.splitlines()[-1])


def labels(files: Sequence[Path]) -> dict[Path, str]:
    """Names of the files, or their paths where two have the same name."""
    names = [file.name for file in files]
    return {file: file.name if names.count(file.name) == 1 else str(file) for file in files}


def figure(timings: Sequence[Timing], title: str) -> Figure:
    """Bars of the median up to the 90th percentile, in groups of equal settings, a colour per file."""
    files = labels(list(dict.fromkeys(timing.setting.file for timing in timings)))
    groups = list(dict.fromkeys((timing.setting.threads, timing.setting.xnnpack) for timing in timings))
    made = Figure(figsize=(max(5.5, 1.1 * len(timings) + 2), 4.2), layout="constrained")
    axes, width = made.subplots(), 0.8 / len(files)
    for place, (file, label) in enumerate(files.items()):
        own = [timing for timing in timings if timing.setting.file == file]
        medians = [timing.percentile(50) for timing in own]
        above = [timing.percentile(90) - timing.percentile(50) for timing in own]
        below = [timing.percentile(50) - timing.milliseconds.min() for timing in own]
        at = [groups.index((timing.setting.threads, timing.setting.xnnpack)) + width * place for timing in own]
        bars = axes.bar(
            at, medians, width, yerr=[below, above], capsize=3, label=label, color=COLOURS[place % len(COLOURS)]
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    named = [f"{count} thread{'s' * (count > 1)}\nXNNPACK {'on' if on else 'off'}" for count, on in groups]
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(groups))], named)
    axes.set(ylabel="ms per call: median, minimum to p90", title=title)
    axes.margins(y=0.15)
    axes.legend(frameon=False)
    return made


def _body(options: argparse.Namespace, console: Console) -> None:
    files = list(dict.fromkeys(options.files))
    chosen = settings(files, list(dict.fromkeys(options.threads)), XNNPACK[options.xnnpack])
    program.say(console, f"Timing {len(files)} files in {len(chosen)} settings: {options.turns} turns of {options.runs} calls each "
                f"after {options.warmup} to warm up, {options.batch} images per call.")  # fmt: skip
    with program.progress(console, "timing") as bar:
        task = bar.add_task("", total=len(chosen) * options.turns)
        timings = measure(chosen, options.batch, options.warmup, options.runs, options.turns, lambda: bar.advance(task))
    folder = program.output_folder(options.out)
    title = f"{platform.machine()}, {os.cpu_count()} processors, batch {options.batch}"
    plots.save(figure(timings, title), folder / "benchmark.png")
    content = {"machine": platform.machine(), "system": platform.system(), "processors": os.cpu_count(),
               "warmup": options.warmup, "turns": options.turns,
               "settings": [timing.figures(options.batch) for timing in timings]}  # fmt: skip
    write_text(folder / "benchmark.json", json.dumps(content, indent=1) + "\n")
    named = labels(files)
    rows = [
        (named[timing.setting.file], str(timing.setting.threads), "on" if timing.setting.xnnpack else "off",
         str(timing.partitions), f"{timing.milliseconds.min():.2f}",
         *(f"{timing.percentile(share):.2f}" for share in (50, 90, 99)),
         f"{timing.percentile(50) / options.batch:.2f}", f"{timing.own_bytes / 1e6:.1f}")
        for timing in timings
    ]  # fmt: skip
    console.print(program.table(title, COLUMNS, rows))
    program.say(console, f"Memory is what came with the file, at its peak. Picture and figures are in {folder}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    parser = program.Parser("benchmark", "Latency and memory of TFLite files on this machine.")
    parser.add_argument("files", nargs="+", type=program.tflite_file, metavar="FILE.tflite")
    parser.add_argument("--threads", nargs="+", type=program.whole_number, default=[1], metavar="N",
                        help="numbers of threads to try (default: 1)")  # fmt: skip
    parser.add_argument("--xnnpack", choices=XNNPACK, default="on", help="the delegate for processors (default: on)")
    parser.add_argument("--batch", type=program.whole_number, default=1, help="images per call (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=program.whole_number, default=5, help="calls that do not count (default: %(default)s)"
    )
    parser.add_argument("--runs", type=program.whole_number, default=50, help="calls per turn (default: %(default)s)")
    parser.add_argument(
        "--turns", type=program.whole_number, default=3, help="processes per setting (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), metavar="FOLDER",
                        help="for the results (default: %(default)s)")  # fmt: skip
    return program.run(parser, arguments, _body)


if __name__ == "__main__":
    sys.exit(main())
