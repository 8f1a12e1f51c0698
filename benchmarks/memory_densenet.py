"""Training memory and time of DenseNets: kept intermediate maps, and `memory_efficient=True`, which makes them again."""

import argparse
import dataclasses
import time
from typing import Any

from benchmarks.fresh import MIB, in_fresh_process, reset_peak, status
from benchmarks.harness import Plan, Summary, describe, environment
from benchmarks.options import chosen_plan, measured_lately
from benchmarks.plot import Draw
from benchmarks.table import Target, number, spread, write_page

NAME = "densenet_memory"
NETWORKS, BATCH, SIZE, STEPS = ("densenet121", "densenet201"), 32, 224, 3
TITLE = f"Training memory of DenseNets, batch {BATCH} at {SIZE}x{SIZE}, float32, CPU"
FORMS = {"plain": False, "memory_efficient": True}
GROWTH, PROCESS, STEP = "growth of the process, MiB", "whole process, MiB", "fastest step, s"


def measure(network: str, memory_efficient: bool, batch: int) -> dict[str, float]:
    """A few train steps of `fit`: by how much the process grows at most, its largest size, and the fastest step.

    Weights, input and whatever a step on a single image leaves behind are there before.
    """
    import keras
    import tensorflow as tf

    import keras_resnets

    model = keras_resnets.create_model(network, classifier_activation=None, memory_efficient=memory_efficient)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    x, y = tf.random.stateless_normal((batch, SIZE, SIZE, 3), (1, 2)), tf.range(batch)
    model.train_on_batch(x[:1], y[:1])
    before, seconds = reset_peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - start)
    peak = status("VmHWM")
    return {GROWTH: (peak - before) / MIB, PROCESS: peak / MIB, STEP: min(seconds)}


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures by network, form and round, and how they were measured."""

    figures: dict[str, dict[str, list[dict[str, float]]]]
    plan: Plan

    def ratio(self, network: str, what: str) -> Summary:
        """The memory-efficient form's figure per the plain one's, round by round."""
        plain, efficient = (self.figures[network][form] for form in FORMS)
        return Summary.of([ours[what] / theirs[what] for ours, theirs in zip(efficient, plain, strict=True)])

    def targets(self) -> list[Target]:
        """Memory and time of the memory-efficient form against the plain one."""
        bounds = {GROWTH: 0.45, STEP: 1.35}
        return [
            Target(f"{network}, {what}: memory_efficient ÷ plain", self.ratio(network, what).median, at_most=bound)
            for network in self.figures
            for what, bound in bounds.items()
        ]

    def table(self) -> list[list[str]]:
        """A row for every network and figure."""
        rows = [["", *FORMS, "ratio"]]
        for network, forms in self.figures.items():
            for what in (GROWTH, PROCESS, STEP):
                cells = [spread(Summary.of([figures[what] for figures in forms[form]])) for form in FORMS]
                rows.append([f"{network}: {what}", *cells, number(self.ratio(network, what).median)])
        return rows

    def write(self) -> None:
        """Writes the page of results."""
        surroundings = environment(self.plan)
        how = (
            "Growth is by how much the process grows at most over train steps as `fit` does them (SGD with momentum); weights, "
            "input and what a step on one image leaves behind are there before. Median (smallest–largest) of "
            f"{self.plan.rounds} fresh processes of {STEPS} steps each, the forms in turns, {self.plan.threads} threads; ratios "
            f"compare the processes of a turn. {describe(surroundings)}."
        )
        record = {"environment": surroundings, "figures_by_round": self.figures}
        write_page(NAME, TITLE, self.table(), how, record, self.targets(), draw=self.drawing())

    def drawing(self) -> Draw:
        """The ratios by network."""

        def draw(figure: Any) -> None:
            panel, names = figure.subplots(), (GROWTH, PROCESS, STEP)
            for place, what in enumerate(names):
                ratios = [self.ratio(network, what).median for network in self.figures]
                panel.bar([i + 0.27 * (place - 1) for i in range(len(ratios))], ratios, 0.27, label=what)
            panel.set_xticks(range(len(self.figures)), list(self.figures))
            panel.axhline(1, color="black", linewidth=0.8)
            panel.set(ylabel="memory_efficient ÷ plain", title=TITLE)
            panel.legend()

        return draw


def measure_all(options: argparse.Namespace) -> None:
    """Measures and writes the page; takes 9 GB."""
    from rich.progress import track

    if measured_lately(NAME, options):
        return
    plan = chosen_plan(options)
    figures: dict[str, dict[str, list[dict[str, float]]]] = {
        network: {form: [] for form in FORMS} for network in NETWORKS
    }
    turns = [(network, form) for _ in range(plan.rounds) for network in NETWORKS for form in FORMS]
    for network, form in track(turns, "DenseNets"):
        call = f"measure({network!r}, {FORMS[form]}, {BATCH})"
        figures[network][form].append(in_fresh_process("memory_densenet", call, plan.threads))
    Measured(figures, plan).write()
