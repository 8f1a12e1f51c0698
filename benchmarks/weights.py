"""What published weights cost the first time and later: seconds beyond building ResNet-50, and memory beyond the network's.

python -m benchmarks.run weights

The checkpoint is synthetic, of the right names and shapes, and lies in a folder: downloading is not timed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT, Plan, Summary, describe, environment
from benchmarks.options import add_options, chosen_plan, measured_lately
from benchmarks.plot import ranges
from benchmarks.table import Target, spread, write_page

CHECKPOINT = "resnet50.a1_in1k.safetensors"
MAKE = """
import sys
import numpy as np, safetensors.numpy
import keras_resnets as kr
parameters = kr.pytorch_parameters(kr.ResNet50(weights=None)).items()
safetensors.numpy.save_file({name: np.ascontiguousarray(to_torch(v.value)) for name, (v, to_torch) in parameters}, sys.argv[1])
"""
# Run in a fresh process every round, with an empty cache.
PROGRAM = """
import sys, threading, time
import keras_resnets as kr
from keras_resnets.registry import find
from keras_resnets.weights import load_weights, published

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

network, entry = kr.ResNet50(weights=None), published(find("resnet50"), "a1_in1k")
before, peak, done = resident(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, resident())

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
load_weights(network, entry)
converted = time.perf_counter()
done.set()
watcher.join()
again = time.perf_counter()
load_weights(network, entry)
print(converted - start, time.perf_counter() - again, (peak - before) / int(sys.argv[1]))
"""
STEPS = ("convert and load, s", "load what is converted, s", "extra memory of the first, files")
LIMITS = {STEPS[0]: 3.0, STEPS[2]: 2.0}


def run(program: str, argument: str, **variables: str) -> str:
    """What `program` prints in a fresh process."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [sys.executable, "-c", program, argument]
    finished = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"the timed program failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


def measure(folder: Path) -> list[float]:
    """The figures of one fresh process that starts with an empty cache."""
    size = (folder / CHECKPOINT).stat().st_size
    with tempfile.TemporaryDirectory() as home:
        out = run(PROGRAM, str(size), KERAS_RESNETS_HOME=home, KERAS_RESNETS_MIRROR=str(folder))
    return [float(word) for word in out.split()[-len(STEPS) :]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run weights", description=__doc__.splitlines()[0])
    add_options(parser, Plan(rounds=5))
    options = parser.parse_args(arguments)
    plan = chosen_plan(options)
    if measured_lately("weights", options):
        return
    from rich.progress import track

    with tempfile.TemporaryDirectory() as folder:
        run(MAKE, str(Path(folder) / CHECKPOINT))
        size = (Path(folder) / CHECKPOINT).stat().st_size
        samples = [measure(Path(folder)) for _ in track(range(plan.rounds), "fresh processes")]
    summaries = {step: Summary.of(figures) for step, figures in zip(STEPS, zip(*samples, strict=True), strict=True)}
    targets = [Target(step, summaries[step].median, at_most=limit) for step, limit in LIMITS.items()]
    here = environment(plan)
    how = f"Median (lowest–highest) of {plan.rounds} fresh processes. {describe(here)}."
    title = f"Weights of ResNet-50, a file of {size / 1e6:.1f} MB"
    table = [["", ""], *([step, spread(summary)] for step, summary in summaries.items())]
    seconds = {step: summary for step, summary in summaries.items() if step.endswith(", s")}
    record = {"environment": here, "processes": samples}
    write_page("weights", title, table, how, record, targets, draw=ranges(seconds, "seconds", title))
