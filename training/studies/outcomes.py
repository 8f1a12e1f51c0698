"""What a study found: a row per variant, its statistics over the seeds, files, and sentences that claim no more than they show."""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.report import markdown
from training.run_folder import replacing, write_text

HEADER = ("variant", "parameters", "million multiply-adds", "training error %", "test error %")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A variant and all its runs.

    Attributes:
        label: of the variant.
        parameters: that are trained.
        mmacs: million multiply-accumulates per image.
        logs: of the runs, a tuple of rows each, as in `log.csv`.
    """

    label: str
    parameters: int
    mmacs: float
    logs: tuple[tuple[dict[str, float], ...], ...]

    @property
    def train_errors(self) -> np.ndarray:
        """Per run: percent of wrong predictions in the last epoch, on augmented images."""
        return np.array([100 * (1 - log[-1]["train_accuracy"]) for log in self.logs])

    @property
    def test_errors(self) -> np.ndarray:
        """Per run: percent of wrong predictions on the images held out, at the end."""
        return np.array([100 * (1 - log[-1]["test_accuracy"]) for log in self.logs])


def spread(values: np.ndarray) -> str:
    """Mean and, of several values, standard deviation: "3.4 ± 0.2"."""
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much higher one variant's errors are than another's, run by run.

    Attributes:
        mean: in points.
        low, high: of the 95 % confidence interval of the mean (Student's t over the pairs of runs with the same seed); of a
            single pair nothing is known.
        pairs: of runs.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def clear(self) -> bool:
        """The interval is all on one side of zero."""
        return self.low > 0 or self.high < 0

    @property
    def amount(self) -> str:
        """In words, to be said before "than": "2.1 points more"."""
        return f"{abs(self.mean):.1f} points {'more' if self.mean > 0 else 'less'}"

    @property
    def remark(self) -> str:
        """How sure that is."""
        if self.pairs == 1:
            return " (one run each: no measure of chance)"
        interval = f"(95 % interval {self.low:+.1f} to {self.high:+.1f}, {self.pairs} pairs of runs)"
        return f" {interval}" if self.clear else f", which is within the noise {interval}"

    def __str__(self) -> str:
        return self.amount + self.remark


def difference(more: np.ndarray, less: np.ndarray) -> Difference:
    """Of the errors of two variants, in the order of the seeds."""
    from scipy.stats import t

    pairs = np.asarray(more) - np.asarray(less)
    if len(pairs) == 1:
        return Difference(float(pairs[0]), -np.inf, np.inf, 1)
    half = t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs))
    return Difference(float(pairs.mean()), float(pairs.mean() - half), float(pairs.mean() + half), len(pairs))


def compared(one: Outcome, other: Outcome) -> str:
    """A sentence about the test errors of two variants."""
    gap = difference(one.test_errors, other.test_errors)
    return (f"{one.label}: test error {spread(one.test_errors)} %, {gap.amount} than {other.label} "
            f"with {spread(other.test_errors)} %{gap.remark}.")  # fmt: skip


def ranking(table: Sequence[Outcome]) -> str:
    """A sentence about the best and the worst of several variants."""
    best, worst = (choose(table, key=lambda row: row.test_errors.mean()) for choose in (min, max))
    gap = difference(worst.test_errors, best.test_errors)
    return (f"Lowest test error: {best.label}, {spread(best.test_errors)} %; highest: {worst.label}, "
            f"{spread(worst.test_errors)} %, {gap}.")  # fmt: skip


def small_scale(table: Sequence[Outcome]) -> str:
    """What every table is labelled with."""
    runs = len(table[0].logs)
    return (f"Small scale: 8x8 digits, minutes of training, {runs} {'seeds' if runs > 1 else 'seed'}. Directions may carry over to "
            "large networks and images; the figures do not.")  # fmt: skip


def cells(table: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Header and rows of the table for people; ± is the standard deviation over the seeds."""
    rows = [(row.label, f"{row.parameters:,}", f"{row.mmacs:.2f}", spread(row.train_errors), spread(row.test_errors))
            for row in table]  # fmt: skip
    return [HEADER, *rows]


def write(folder: Path, title: str, question: str, table: Sequence[Outcome], findings: Sequence[str]) -> None:
    """Writes `table.csv` with a row per run, `results.json` and `study.md`, each whole."""
    runs = [{"variant": row.label, "seed": seed, "parameters": row.parameters, "mmacs": round(row.mmacs, 4),
             "train_error": round(row.train_errors[seed], 4), "test_error": round(row.test_errors[seed], 4)}
            for row in table for seed in range(len(row.logs))]  # fmt: skip
    with replacing(folder / "table.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(runs[0]))
        writer.writeheader()
        writer.writerows(runs)
    logs = [[{key: value if math.isfinite(value) else None for key, value in line.items()} for line in log]
            for row in table for log in row.logs]  # fmt: skip
    results = {"title": title, "scale": small_scale(table), "findings": findings,
               "runs": [{**run, "log": log} for run, log in zip(runs, logs, strict=True)]}  # fmt: skip
    write_text(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    said = "".join(f"* {sentence}\n" for sentence in findings)
    write_text(
        folder / "study.md", f"# {title}\n\n{question}\n\n{small_scale(table)}\n\n{markdown(cells(table))}\n\n{said}"
    )
