"""Shows results as tables on the terminal and writes them as Markdown, JSON and a picture."""

import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import RESULTS, Comparison, Summary, describe
from benchmarks.plot import Draw, bars, save


@dataclasses.dataclass(frozen=True)
class Target:
    """A measured number that should be at most, or at least, some other.

    Attributes:
        text: what was measured.
        measured: the number.
        at_most, at_least: one of them is given.
        headline: whether README's table shows it.
    """

    text: str
    measured: float
    at_most: float | None = None
    at_least: float | None = None
    headline: bool = False

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Target":
        """What `record` was made from."""
        return cls(**{field.name: record[field.name] for field in dataclasses.fields(cls)})

    @property
    def met(self) -> bool:
        return (self.at_most is None or self.measured <= self.at_most) and (
            self.at_least is None or self.measured >= self.at_least
        )

    @property
    def bound(self) -> str:
        """The number to reach, in words."""
        return f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"

    @property
    def shown(self) -> str:
        """The number measured, with as many digits as tell it from the one to reach: 1.055 misses 1.05, 1.05 does not."""
        return next(text for text in (number(self.measured, digits) for digits in range(3, 18))
                    if dataclasses.replace(self, measured=float(text.replace(",", ""))).met == self.met)  # fmt: skip

    def record(self) -> dict[str, Any]:
        """The target for programs."""
        return {**dataclasses.asdict(self), "met": self.met}

    def __str__(self) -> str:
        return f"{self.text}: {self.shown} (target: {self.bound}; {'met' if self.met else 'MISSED'})"


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, and all that are before the point: 0.123, 1.23, 12.3, 123, 1,234."""
    return f"{value:,.{digits - 3}f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean of ratios: a half and a double cancel."""
    return statistics.geometric_mean(ratios)


def spread(summary: Summary) -> str:
    """Median, then the range in brackets."""
    return f"{number(summary.median)} ({number(summary.low)}–{number(summary.high)})"


def cells(comparison: Comparison, reference: str) -> list[list[str]]:
    """Header and rows: of each measure the milliseconds per call and the ratio to `reference`; "–" where not measured."""
    measures = list(comparison.times[reference])
    header = [""]
    for measure in measures:
        header += [f"{measure}, ms", f"÷ {reference}"]
    rows = [header]
    for contender, times in comparison.times.items():
        row = [contender]
        for measure in measures:
            if times.get(measure):
                row += [
                    spread(comparison.time(contender, measure)),
                    spread(comparison.ratio(contender, reference, measure)),
                ]
            else:
                row += ["–", "–"]
        rows.append(row)
    return rows


def markdown_table(cells: list[list[str]]) -> list[str]:
    """The lines of a table, the first row being its header."""
    header, *rows = (" | ".join(["", *row, ""]).strip() for row in cells)
    return [header, "|" + " --- |" * len(cells[0]), *rows]


def how_measured(comparison: Comparison, reference: str) -> str:
    """The paragraph below the table."""
    e = comparison.environment
    versions = {f"{package} {version}" for found in comparison.versions.values() for package, version in found.items()}
    return (
        "Milliseconds are the median (fastest–slowest) of all calls. Ratios are the median (smallest–largest) over rounds of "
        f"fastest call ÷ fastest call of {reference} in the same round: above 1 is slower than {reference}. "
        f"{e['rounds']} rounds, each contender at least {e['seconds']:g} s per measure and round, each in its own process "
        f"on the same {e['threads']} cores with {e['threads']} threads. {describe(e)}; {', '.join(sorted(versions))}."
    )


def write(name: str, title: str, comparison: Comparison, reference: str, targets: Sequence[Target],
          remarks: Sequence[str] = (), folder: pathlib.Path = RESULTS) -> list[pathlib.Path]:  # fmt: skip
    """Shows a comparison and writes it: `write_page` with a row per contender and a picture of the ratios."""
    record = {
        "environment": comparison.environment,
        "versions": comparison.versions,
        "milliseconds_by_round": by_round(comparison),
    }
    table, how = cells(comparison, reference), how_measured(comparison, reference)
    return write_page(name, title, table, how, record, targets, remarks, bars(comparison, reference, title), folder)


def write_page(
    name: str,
    title: str,
    table: list[list[str]],
    how: str,
    record: dict[str, Any],
    targets: Sequence[Target],
    remarks: Sequence[str] = (),
    draw: Draw | None = None,
    folder: pathlib.Path = RESULTS,
) -> list[pathlib.Path]:
    """Shows a page of results on the terminal and writes it into `folder` as `name`.md, .json and, where there is a picture, .svg.

    Args:
        name: of the files.
        title: of the page.
        table: its first row is the header.
        how: a paragraph on how this was measured.
        record: what the JSON has besides title, targets and remarks; "environment" is what `harness.environment` returns.
        targets: what was aimed at.
        remarks: lines below them.
        draw: fills in the picture; left out with a notice where matplotlib is not installed.
        folder: where to write.

    Returns:
        The files written.
    """
    lines = [*map(str, targets), *remarks]
    _print(title, table, lines)
    text = "\n".join([f"# {title}", "", *markdown_table(table), "", how, "", *(f"* {line}" for line in lines)]).rstrip()
    record = {"title": title, **record, "targets": [target.record() for target in targets], "remarks": list(remarks)}
    files = write_files(name, {".md": text + "\n", ".json": json.dumps(record, indent=1) + "\n"}, folder)
    if draw is not None:
        try:
            files.append(save(folder / f"{name}.svg", draw))
        except ImportError:
            print("matplotlib is not installed here: no picture")
    print("wrote", *files)
    return files


def _print(title: str, cells: list[list[str]], remarks: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    header, *rows = cells
    table = Table(title=title)
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for remark in remarks:
        console.print(f"• {remark}", markup=False)


def by_round(comparison: Comparison) -> dict[str, Any]:
    """The fastest and the median call of every round by contender and measure."""
    return {
        contender: {
            measure: [
                {"fastest": Summary.of(turn).low, "median": Summary.of(turn).median, "calls": len(turn)}
                for turn in turns
            ]
            for measure, turns in measures.items()
        }
        for contender, measures in comparison.times.items()
    }


def write_files(name: str, texts: dict[str, str], folder: pathlib.Path = RESULTS) -> list[pathlib.Path]:
    """Writes each text into `folder`/`name` + its suffix, by renaming a finished file."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        partial = folder / f"{name}{suffix}.partial"
        partial.write_text(text, "utf-8")
        os.replace(partial, folder / f"{name}{suffix}")
    return [folder / f"{name}{suffix}" for suffix in texts]
