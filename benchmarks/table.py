"""Shows a comparison as a table on the terminal and writes it as Markdown and JSON."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from benchmarks.harness import RESULTS, Comparison, Summary, describe


@dataclasses.dataclass(frozen=True)
class Target:
    """A measured number that should be at most, or at least, some other."""

    text: str
    measured: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        return (self.at_most is None or self.measured <= self.at_most) and (
            self.at_least is None or self.measured >= self.at_least
        )

    def __str__(self) -> str:
        bound = f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"
        return f"{self.text}: {number(self.measured)} (target: {bound}; {'met' if self.met else 'MISSED'})"


def number(value: float) -> str:
    """Three significant digits, never in exponents: 0.123, 1.23, 12.3, 123, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


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


def markdown(title: str, comparison: Comparison, reference: str, remarks: list[str]) -> str:
    """A page with the table, how it was measured, and `remarks`."""
    lines = [f"# {title}", "", *markdown_table(cells(comparison, reference))]
    lines += ["", how_measured(comparison, reference), "", *[f"* {remark}" for remark in remarks]]
    return "\n".join(lines) + "\n"


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


def show(title: str, comparison: Comparison, reference: str, remarks: list[str]) -> None:
    """Prints the table to the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    header, *rows = cells(comparison, reference)
    table = Table(title=title)
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for remark in remarks:
        console.print(f"• {remark}", markup=False)


def write(name: str, title: str, comparison: Comparison, reference: str, remarks: list[str],
          folder: pathlib.Path = RESULTS) -> list[pathlib.Path]:  # fmt: skip
    """Writes `name`.md and `name`.json into `folder`; in the JSON the fastest and the median call of every round."""
    record = {"title": title, "environment": comparison.environment, "versions": comparison.versions, "remarks": remarks,
              "milliseconds_by_round": by_round(comparison)}  # fmt: skip
    texts = {".md": markdown(title, comparison, reference, remarks), ".json": json.dumps(record, indent=1) + "\n"}
    return write_files(name, texts, folder)


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
