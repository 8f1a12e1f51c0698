"""How the peak memory of training grows with the batch and with the depth of a network."""

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import describe, environment
from benchmarks.memory_steps import BEFORE, PEAK, SIZE
from benchmarks.options import CHANNELS_LAST, TORCH_ENVIRONMENT, chosen_plan, measured_lately, peers_missing
from benchmarks.plot import Draw
from benchmarks.table import Target, number, write_page

NAME, OURS = "memory_growth", "keras_resnets"
TITLE = "Growth of the peak memory of training with batch and depth, float32, CPU"
BATCHES, DEPTHS, CIFAR_BATCH = (2, 4, 8, 16, 32), (20, 32, 56, 110), 128
BATCH, DEPTH = f"resnet50 at {SIZE}x{SIZE}: batch", f"resnet20…110_cifar, batch {CIFAR_BATCH}: layers"
SLOPE_AT_MOST = 1.05


def log_slope(points: Sequence[tuple[float, float]]) -> float:
    """The exponent `a` of the `b · xᵃ` nearest to the points, in logarithms."""
    x, y = zip(*[(math.log(x), math.log(y)) for x, y in points], strict=True)
    return statistics.linear_regression(x, y).slope


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """What each further unit adds, and what is there without any: least squares."""
    fitted = statistics.linear_regression(*zip(*points, strict=True))
    return fitted.slope, fitted.intercept


def measure_all(options: argparse.Namespace) -> None:
    """Measures and writes the page, one fresh process per point."""
    from rich.progress import track

    if measured_lately(NAME, options):
        return
    plan, missing = chosen_plan(options), peers_missing(options.peers_python, "torch", "timm")
    peer: dict[str, Any] = {"python": options.peers_python, "environment": TORCH_ENVIRONMENT}
    jobs: list[tuple[str, str, int, str, dict[str, Any]]] = []
    for batch in BATCHES:
        jobs.append((BATCH, OURS, batch, f"keras_peak('resnet50', {batch})", {}))
        if not missing:
            jobs.append((BATCH, CHANNELS_LAST, batch, f"timm_peak('resnet50', {batch}, True)", peer))
    for depth in DEPTHS:
        jobs.append((DEPTH, OURS, depth, f"keras_peak('resnet{depth}_cifar', {CIFAR_BATCH}, 32)", {}))
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for what, form, x, call, where in track(jobs, "growth"):
        figures = in_fresh_process("memory_steps", call, plan.threads, **where)
        series.setdefault((what, form), []).append((x, figures[PEAK] - figures[BEFORE]))
    surroundings = environment(plan)
    record = {
        "environment": surroundings,
        "mebibytes": [{"series": what, "form": form, "points": points} for (what, form), points in series.items()],
    }
    how = f"Growth of the process as on the page of the networks. {describe(surroundings)}."
    write_page(NAME, TITLE, table(series), how, record, targets(series), missing, drawing(series))


def table(series: dict[tuple[str, str], list[tuple[float, float]]]) -> list[list[str]]:
    """A row for every series."""
    rows = [["", "", "growth, MiB", "MiB for each further", "MiB besides", "log-log slope"]]
    for (what, form), points in series.items():
        each, besides = line(points)
        grown = ", ".join(f"{x:g}: {number(y)}" for x, y in points)
        rows.append([what, form, grown, number(each), number(besides), f"{log_slope(points):.2f}"])
    return rows


def targets(series: dict[tuple[str, str], list[tuple[float, float]]]) -> list[Target]:
    """No more than linear, ours alone."""
    return [
        Target(f"{what}, log-log slope", log_slope(points), at_most=SLOPE_AT_MOST)
        for (what, form), points in series.items()
        if form == OURS
    ]


def drawing(series: dict[tuple[str, str], list[tuple[float, float]]]) -> Draw:
    """A panel for the batch, one for the depth."""

    def draw(figure: Any) -> None:
        for panel, what in zip(figure.subplots(1, 2), (BATCH, DEPTH), strict=True):
            for (name, form), points in series.items():
                if name == what:
                    panel.plot(*zip(*points, strict=True), marker="o", label=form)
            panel.set(xlabel=what, ylabel="growth, MiB", xlim=(0, None), ylim=(0, None))
            panel.legend()
        figure.suptitle(TITLE)

    return draw
