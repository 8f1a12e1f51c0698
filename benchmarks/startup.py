"""What a user waits for: import, build, load weights, first prediction of ResNet-50, beside keras.applications."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Plan, Summary, describe, environment
from benchmarks.memory_growth import log_slope
from benchmarks.options import add_options, chosen_plan, measured_lately
from benchmarks.plot import Draw
from benchmarks.startup_programs import BUILD, IMPORT, LOAD, PREDICT, TOTAL
from benchmarks.table import Target, number, spread, write_page

NAME, OURS, THEIRS = "startup", "keras_resnets", "keras.applications"
TITLE = "Start-up: ResNet-50 from nothing to the first prediction, seconds"
STEPS = (IMPORT, BUILD, LOAD, PREDICT, TOTAL)
PACKAGE = {IMPORT: ("import keras_resnets after keras, s", 0.5), BUILD: ("ResNet152(weights=None), s", 10.0)}
DEPTHS = (20, 32, 44, 56, 110, 1202)
SLOPE_AT_MOST = 1.05

# Of each form: what its processes returned, round by round.
Rounds = dict[str, list[dict[str, float]]]


def measure(plan: Plan) -> Rounds:
    """Fresh processes in turns, after one of each that is not counted: it fills the caches of files and of weights."""
    from rich.progress import track

    rounds: Rounds = {OURS: [], THEIRS: [], "package": []}
    with tempfile.TemporaryDirectory() as name:
        checkpoint, file = Path(name) / "resnet50.a1_in1k.safetensors", Path(name) / "resnet50.weights.h5"
        module, threads = "startup_programs", plan.threads
        in_fresh_process(module, f"make_files({str(checkpoint)!r}, {str(file)!r})", threads)
        cache = {"KERAS_RESNETS_HOME": str(Path(name) / "home"), "KERAS_RESNETS_MIRROR": name}
        calls = {OURS: "ours()", THEIRS: f"keras_applications({str(file)!r})", "package": "package()"}
        for turn in track(range(plan.rounds + 1), "fresh processes"):
            for form, call in calls.items():
                seconds = in_fresh_process(module, call, threads, environment=cache)
                if turn:
                    rounds[form].append(seconds)
    return rounds


def ratio(rounds: Rounds, step: str) -> Summary:
    """Ours per theirs, round by round."""
    return Summary.of([a[step] / b[step] for a, b in zip(rounds[OURS], rounds[THEIRS], strict=True)])


def targets(rounds: Rounds, points: Sequence[tuple[float, float]]) -> list[Target]:
    """The whole against keras.applications, the package's own limits, and the growth of the build."""
    text = "start-up of ResNet-50 (import, build, load weights, first prediction), ours ÷ keras.applications"
    found = [Target(text, ratio(rounds, TOTAL).median, at_most=1.0, headline=True)]
    for step, (what, limit) in PACKAGE.items():
        found.append(Target(what, Summary.of([seconds[step] for seconds in rounds["package"]]).median, at_most=limit))
    low, high = points[0][0], points[-1][0]
    text = f"build time against depth, resnet{low:g}_cifar to resnet{high:g}_cifar, log-log slope"
    return [*found, Target(text, log_slope(points), at_most=SLOPE_AT_MOST, headline=True)]


def table(rounds: Rounds) -> list[list[str]]:
    """A row for every step."""
    rows = [["", OURS, THEIRS, f"ours ÷ {THEIRS}"]]
    for step in STEPS:
        times = [spread(Summary.of([seconds[step] for seconds in rounds[form]])) for form in (OURS, THEIRS)]
        rows.append([step, *times, spread(ratio(rounds, step))])
    return rows


def drawing(rounds: Rounds, points: Sequence[tuple[float, float]]) -> Draw:
    """The steps piled up, and build time against depth."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        bottom = {OURS: 0.0, THEIRS: 0.0}
        for step in STEPS[:-1]:
            times = [Summary.of([seconds[step] for seconds in rounds[form]]).median for form in bottom]
            left.bar(list(bottom), times, bottom=list(bottom.values()), label=step)
            bottom = {form: low + time for (form, low), time in zip(bottom.items(), times, strict=True)}
        left.set(ylabel="seconds", title="ResNet-50")
        left.legend()
        right.loglog(*zip(*points, strict=True), marker="o")
        right.set(xlabel="depth", ylabel="CPU seconds", title="build, CIFAR ResNets")

    return draw


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    add_options(parser, Plan(rounds=5, seconds=0, warm_up_seconds=0))
    options = parser.parse_args(arguments)
    if measured_lately(NAME, options):
        return
    plan = chosen_plan(options)
    rounds = measure(plan)
    times = in_fresh_process("startup_programs", f"build_times({list(DEPTHS)})", plan.threads)
    points = list(zip(map(float, DEPTHS), times, strict=True))
    surroundings = environment(plan)
    how = (
        'Both read weights that are on this machine: ours `weights="imagenet"` from its cache, where a first process has put '
        f"them, {THEIRS} `weights=PATH` from a file of `save_weights`. Median (smallest–largest) of {plan.rounds} fresh "
        "processes each, in turns, after one that is not counted; ratios compare the processes of a turn. "
        f"{describe(surroundings)}."
    )
    built = ", ".join(f"{depth:g}: {number(seconds)}" for depth, seconds in points)
    remarks = [f"CPU seconds of building the CIFAR ResNets, by depth: {built}."]
    record = {"environment": surroundings, "seconds_by_round": rounds, "build_seconds": points}
    write_page(NAME, TITLE, table(rounds), how, record, targets(rounds, points), remarks, drawing(rounds, points))
