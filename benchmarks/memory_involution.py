"""Peak memory of a training step of one 7x7 involution: this package's layer and the naive formulation in TensorFlow."""

import argparse
import dataclasses
from typing import Any

from benchmarks.fresh import MIB, in_fresh_process, reset_peak, status
from benchmarks.harness import Plan, Summary, describe, environment
from benchmarks.options import chosen_plan, measured_lately
from benchmarks.plot import Draw
from benchmarks.table import Target, spread, write_page

NAME = "involution_memory"
KERNEL_SIZE = 7
SHAPES = ((8, 56, 56, 64), (8, 28, 28, 128))
OURS, EXTRACTED, STACKED = "keras_resnets", "naive, tf.image.extract_patches", "naive, stacked slices"
FORMS = (OURS, EXTRACTED, STACKED)
TITLE = f"Peak training memory of one {KERNEL_SIZE}x{KERNEL_SIZE} involution, float32, CPU"


def make_layer(form: str) -> Any:
    """One of `FORMS`."""
    if form == OURS:
        import keras_resnets

        return keras_resnets.layers.Involution(KERNEL_SIZE, norm={"epsilon": 1e-5, "momentum": 0.9})
    from benchmarks import naive_involution as naive

    return naive.NaiveInvolution(KERNEL_SIZE, {EXTRACTED: naive.extracted, STACKED: naive.stacked}[form])


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

    def table(self) -> list[list[str]]:
        """A row for every form."""
        header = ["", *[f"{label(shape)}, MiB" for shape in self.peaks]]
        return [header, *([form, *[spread(Summary.of(p[form])) for p in self.peaks.values()]] for form in FORMS)]

    def write(self) -> None:
        """Writes the page of results."""
        surroundings = environment(self.plan)
        how = (
            "MiB by which the process grows, at most, in a training step: output, and gradients to the input and all "
            "weights; the input and the upstream gradient are there before. Median (smallest–largest) of "
            f"{self.plan.rounds} fresh processes with {self.plan.threads} threads. {describe(surroundings)}."
        )
        by_round = {label(shape): peaks for shape, peaks in self.peaks.items()}
        record = {"environment": surroundings, "mebibytes_by_round": by_round}
        write_page(NAME, TITLE, self.table(), how, record, self.targets(), draw=self.drawing())

    def drawing(self) -> Draw:
        """The medians by shape and form."""

        def draw(figure: Any) -> None:
            for panel, (shape, peaks) in zip(
                figure.subplots(1, len(self.peaks), sharey=True), self.peaks.items(), strict=True
            ):
                panel.barh(FORMS, [Summary.of(peaks[form]).median for form in FORMS])
                panel.set(xlabel="MiB", title=label(shape))
            figure.suptitle(TITLE)

        return draw


def measure_all(options: argparse.Namespace) -> None:
    """Measures and writes the page."""
    from rich.progress import track

    if measured_lately(NAME, options):
        return
    plan = chosen_plan(options)
    peaks: dict[tuple[int, ...], dict[str, list[float]]] = {shape: {form: [] for form in FORMS} for shape in SHAPES}
    turns = [(shape, form) for _ in range(plan.rounds) for shape in SHAPES for form in FORMS]
    for shape, form in track(turns, "involution"):
        peaks[shape][form].append(in_fresh_process("memory_involution", f"peak({form!r}, {shape})", plan.threads) / MIB)
    Measured(peaks, plan).write()
