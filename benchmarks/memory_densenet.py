"""Training memory and time of DenseNets: kept intermediate maps, and `memory_efficient=True`, which makes them again.

python -m benchmarks.memory_densenet [NETWORK …] [--batch N] [--rounds N]
"""

import argparse
import dataclasses
import json
import time
from typing import Any

from benchmarks.harness import Plan, Summary, describe, environment
from benchmarks.memory import MIB, in_fresh_process, reset_peak, status
from benchmarks.table import Target, number, spread, write_files

NETWORKS, SIZE, STEPS = ("densenet121", "densenet201"), 224, 3
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
    batch: int
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

    def markdown(self) -> str:
        """The page of results."""
        lines = [f"# {self.title}", "", "| | " + " | ".join((*FORMS, "ratio")) + " |", "| --- |" + " ---: |" * 3]
        for network, forms in self.figures.items():
            for what in (GROWTH, PROCESS, STEP):
                cells = [spread(Summary.of([figures[what] for figures in forms[form]])) for form in FORMS]
                lines.append(
                    f"| {network}: {what} | {' | '.join(cells)} | {number(self.ratio(network, what).median)} |"
                )
        how = (
            "Growth is by how much the process grows at most over train steps as `fit` does them (SGD with momentum); weights, "
            "input and what a step on one image leaves behind are there before. Median (smallest–largest) of "
            f"{self.plan.rounds} fresh processes of {STEPS} steps each, the forms in turns, {self.plan.threads} threads; ratios "
            f"compare the processes of a turn. {describe(environment(self.plan))}."
        )
        return "\n".join([*lines, "", how, "", *[f"* {target}" for target in self.targets()]]) + "\n"

    def json(self) -> str:
        """The same for programs."""
        record: dict[str, Any] = {
            "title": self.title,
            "environment": environment(self.plan),
            "remarks": [str(target) for target in self.targets()],
            "figures_by_round": self.figures,
        }
        return json.dumps(record, indent=1) + "\n"

    @property
    def title(self) -> str:
        return f"Training memory of DenseNets, batch {self.batch} at {SIZE}x{SIZE}, float32, CPU"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_densenet", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(NETWORKS),
                        help="DenseNets for ImageNet (default: densenet121 densenet201)")  # fmt: skip
    parser.add_argument("--batch", type=int, default=32, help="images per step (default %(default)s, which takes 8 GB)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per form (default %(default)s)")
    options = parser.parse_args()
    for name in ("batch", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(options, name)}")
    from rich.progress import track

    import keras_resnets

    known = keras_resnets.list_models(family="DenseNet")
    for network in options.networks:
        if network not in known:
            parser.error(f"NETWORK must be one of {', '.join(known)}, not {network!r}")
    plan = Plan(rounds=options.rounds, seconds=0, warm_up_seconds=0)
    figures: dict[str, dict[str, list[dict[str, float]]]] = {
        network: {form: [] for form in FORMS} for network in options.networks
    }
    turns = [(network, form) for _ in range(plan.rounds) for network in options.networks for form in FORMS]
    for network, form in track(turns, "fresh processes"):
        call = f"measure({network!r}, {FORMS[form]}, {options.batch})"
        figures[network][form].append(in_fresh_process("memory_densenet", call, plan.threads))
    measured = Measured(figures, options.batch, plan)
    print(measured.markdown())
    print("wrote", *write_files("densenet_memory", {".md": measured.markdown(), ".json": measured.json()}))


if __name__ == "__main__":
    main()
