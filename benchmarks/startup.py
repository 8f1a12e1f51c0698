"""What a user waits for before the first step: `import keras_resnets` beyond `import keras`, and building ResNet-152.

python -m benchmarks.startup [--rounds N]
"""

import argparse
import os
import subprocess
import sys

from benchmarks.harness import ROOT, Plan, Summary, describe, environment
from benchmarks.table import Target, spread, write_files

# Run in a fresh process every round.
PROGRAM = """
import time
times = [time.perf_counter()]
import keras
times.append(time.perf_counter())
import keras_resnets
times.append(time.perf_counter())
keras_resnets.ResNet152(weights=None)
times.append(time.perf_counter())
print(*[after - before for before, after in zip(times, times[1:])])
"""
STEPS = ("import keras", "import keras_resnets after it", "ResNet152(weights=None)")
LIMITS = {STEPS[1]: 0.5, STEPS[2]: 10.0}


def seconds_of_each_step() -> list[float]:
    """The three times of one fresh process."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"the timed program failed:\n{finished.stderr[-2000:]}")
    return [float(word) for word in finished.stdout.split()[-len(STEPS) :]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes (default %(default)s)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds must be at least 1, not {rounds}")
    from rich.progress import track

    samples = [seconds_of_each_step() for _ in track(range(rounds), "fresh processes")]
    lines = ["# Before the first step", "", "|  | seconds |", "| --- | ---: |"]
    targets = []
    for step, times in zip(STEPS, zip(*samples, strict=True), strict=True):
        summary = Summary.of(times)
        lines.append(f"| {step} | {spread(summary)} |")
        if step in LIMITS:
            targets.append(Target(f"seconds for {step}", summary.median, at_most=LIMITS[step]))
    here = environment(Plan(rounds=rounds))
    lines += ["", f"Median (fastest–slowest) of {rounds} fresh processes. {describe(here)}.", ""]
    text = "\n".join([*lines, *[f"* {target}" for target in targets]]) + "\n"
    print(text)
    write_files("startup", {".md": text})


if __name__ == "__main__":
    main()
