"""Peak memory of a training step of one 7x7 involution: this package's layer and the naive formulation in TensorFlow.

python -m benchmarks.memory [--rounds N]
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import ROOT, Plan, Summary, describe, environment
from benchmarks.table import Target, spread, write_files

KERNEL_SIZE = 7
SHAPES = ((8, 56, 56, 64), (8, 28, 28, 128))
OURS, EXTRACTED, STACKED = "keras_resnets", "naive, tf.image.extract_patches", "naive, stacked slices"
FORMS = (OURS, EXTRACTED, STACKED)
MIB = 2**20
TITLE = f"Peak training memory of one {KERNEL_SIZE}x{KERNEL_SIZE} involution, float32, CPU"


def make_layer(form: str) -> Any:
    """One of `FORMS`."""
    if form == OURS:
        import keras_resnets

        return keras_resnets.layers.Involution(KERNEL_SIZE, norm={"epsilon": 1e-5, "momentum": 0.9})
    from benchmarks import naive_involution as naive

    return naive.NaiveInvolution(KERNEL_SIZE, {EXTRACTED: naive.extracted, STACKED: naive.stacked}[form])


def status(field: str) -> int:
    """A field of this process's memory, in bytes; Linux."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def peak(form: str, shape: tuple[int, ...]) -> int:
    """Bytes by which the process grows, at most, over one step: output, and gradients to the input and all weights.

    Weights, input and upstream gradient are there before; so is all that the first step at another, tiny size leaves behind.
    """
    import tensorflow as tf

    layer = make_layer(form)
    layer.build((None, *shape[1:]))

    @tf.function
    def step(x: Any, upstream: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, [x, *[variable.value for variable in layer.trainable_variables]], upstream)

    tiny = tf.ones((1, KERNEL_SIZE, KERNEL_SIZE, shape[-1]))
    step(tiny, tiny)
    x, upstream = (tf.random.stateless_normal(shape, (1, seed)) for seed in (2, 3))
    step.get_concrete_function(x, upstream)
    before = reset_peak()
    step(x, upstream)
    return status("VmHWM") - before


def in_fresh_process(module: str, call: str, threads: int, python: str = sys.executable,
                     environment: Mapping[str, str] | None = None) -> Any:  # fmt: skip
    """What a call of a function of `benchmarks.MODULE` returns, as JSON can say it, in a process of its own.

    The process runs the interpreter `python`, with `environment` added to its variables.

    Raises:
        RuntimeError: the process failed; the message ends with what it printed.
    """
    pools = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    finished = subprocess.run(
        [python, "-c", f"import json; from benchmarks import {module}; print(json.dumps({module}.{call}))"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **{pool: str(threads) for pool in pools}, **(environment or {})},
    )  # fmt: skip
    if finished.returncode:
        raise RuntimeError(f"the process of {call} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def reset_peak() -> int:
    """Resets the high-water mark of this process's memory; returns its size now, in bytes."""
    now = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return now


def label(shape: tuple[int, ...]) -> str:
    """A shape in words."""
    return "x".join(map(str, shape))


@dataclasses.dataclass(frozen=True)
class Measured:
    """Peaks in MiB by shape and form, one per round, and how they were measured."""

    peaks: dict[tuple[int, ...], dict[str, list[float]]]
    plan: Plan

    def targets(self) -> list[Target]:
        """Ours against the thriftier naive form, shape by shape."""
        targets = []
        for shape, peaks in self.peaks.items():
            medians = {form: Summary.of(values).median for form, values in peaks.items()}
            least = min((EXTRACTED, STACKED), key=lambda form: medians[form])
            targets.append(Target(f"{label(shape)}, ours ÷ {least}", medians[OURS] / medians[least], at_most=0.4))
        return targets

    def markdown(self) -> str:
        """The page of results."""
        lines = [f"# {TITLE}", "", "".join(f"| {cell} " for cell in ("", *map(label, self.peaks))) + "|"]
        lines.append("| --- |" + " ---: |" * len(self.peaks))
        for form in FORMS:
            cells = [spread(Summary.of(peaks[form])) for peaks in self.peaks.values()]
            lines.append(" | ".join([f"| {form}", *cells]) + " |")
        how = (
            "MiB by which the process grows, at most, in a training step: output, and gradients to the input and all "
            "weights; the input and the upstream gradient are there before. Median (smallest–largest) of "
            f"{self.plan.rounds} fresh processes with {self.plan.threads} threads. {describe(environment(self.plan))}."
        )
        return "\n".join([*lines, "", how, "", *[f"* {target}" for target in self.targets()]]) + "\n"

    def json(self) -> str:
        """The same for programs."""
        record = {
            "title": TITLE,
            "environment": environment(self.plan),
            "remarks": [str(target) for target in self.targets()],
            "mebibytes_by_round": {label(shape): peaks for shape, peaks in self.peaks.items()},
        }
        return json.dumps(record, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per figure (default %(default)s)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds must be at least 1, not {rounds}")
    from rich.progress import track

    plan = Plan(rounds=rounds, seconds=0, warm_up_seconds=0)
    peaks: dict[tuple[int, ...], dict[str, list[float]]] = {shape: {form: [] for form in FORMS} for shape in SHAPES}
    turns = [(shape, form) for _ in range(rounds) for shape in SHAPES for form in FORMS]
    for shape, form in track(turns, "fresh processes"):
        peaks[shape][form].append(in_fresh_process("memory", f"peak({form!r}, {shape})", plan.threads) / MIB)
    measured = Measured(peaks, plan)
    print(measured.markdown())
    print("wrote", *write_files("involution_memory", {".md": measured.markdown(), ".json": measured.json()}))


if __name__ == "__main__":
    main()
