"""Grouped 3x3 convolutions on the CPU: this package's Conv2D, stock Keras' and PyTorch's."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Comparison, Contender, Plan, compare
from benchmarks.options import (
    CHANNELS_LAST,
    CONTIGUOUS,
    add_options,
    chosen_plan,
    measured_lately,
    peers_missing,
    torch_contenders,
)
from benchmarks.table import Target, by_round, how_measured, spread, write_page

BATCH = 8
STOCK_ROUNDS = 1  # stock Keras takes many seconds per call


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution whose filters are as many as its input's channels.

    Attributes:
        side: of the input in pixels.
        channels: of input and output.
        groups: that they are cut into.
    """

    side: int
    channels: int
    groups: int

    def __str__(self) -> str:
        return f"{self.side}x{self.side}x{self.channels}, {self.groups} groups"


# Every stage of ResNeXt-50 32x4d, and its third one with fewer groups.
CASES = (
    *(Case(side, channels, 32) for side, channels in ((56, 128), (28, 256), (14, 512), (7, 1024))),
    *(Case(14, 512, groups) for groups in (2, 4, 8)),
)
FORWARD, TRAIN = "forward", "forward + backward"
OURS, STOCK = "keras_resnets", "stock Keras"
WITHOUT_ONEDNN, WITH_XLA = f"{OURS}, oneDNN off", f"{OURS}, XLA forced"
NAME = "grouped_conv"
HERE = "benchmarks.grouped_conv"
TITLE = f"Grouped 3x3 convolutions, batch {BATCH}, float32, CPU"

Measures = dict[str, Callable[[], Any]]


def measure_name(measure: str, case: Case) -> str:
    """Of a measure of a case among those of a process."""
    return f"{case}, {measure}"


def keras_measures(layer: str, jit_compile: bool = False) -> Measures:
    """Forward, and gradients to input and kernel, of the "stock" or "ours" layer in a graph, as in `fit`."""
    import keras
    import tensorflow as tf

    import keras_resnets

    makers = {"stock": keras.layers.Conv2D, "ours": keras_resnets.layers.Conv2D}

    def measures(case: Case) -> Measures:
        conv = makers[layer](case.channels, 3, padding="same", groups=case.groups, use_bias=False)
        shape = (BATCH, case.side, case.side, case.channels)
        x, upstream = (tf.random.stateless_normal(shape, (1, seed)) for seed in (2, 3))
        conv.build(shape)

        @tf.function(jit_compile=jit_compile)
        def forward(x: Any) -> Any:
            return conv(x)

        @tf.function(jit_compile=jit_compile)
        def train(x: Any, upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = conv(x)
            # The output is returned as well: nothing else needs the forward convolution, and the graph would drop it.
            return y, tape.gradient(y, [x, conv.kernel.value], upstream)

        return {FORWARD: lambda: forward(x), TRAIN: lambda: train(x, upstream)}

    return {measure_name(name, case): call for case in CASES for name, call in measures(case).items()}


def torch_measures(channels_last: bool) -> Measures:
    """The same with `torch.nn.Conv2d`."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format

    def measures(case: Case) -> Measures:
        # Any, because PyTorch's stubs do not know that a module takes a memory format alone.
        conv: Any = torch.nn.Conv2d(case.channels, case.channels, 3, padding=1, groups=case.groups, bias=False)
        conv.to(memory_format=layout)
        shape = (BATCH, case.channels, case.side, case.side)
        x, upstream = (torch.randn(shape).to(memory_format=layout) for _ in "xu")
        x.requires_grad_()

        def forward() -> Any:
            with torch.no_grad():
                return conv(x)

        return {FORWARD: forward, TRAIN: lambda: torch.autograd.grad(conv(x), [x, conv.weight], upstream)}

    return {measure_name(name, case): call for case in CASES for name, call in measures(case).items()}


def contenders(torch: Sequence[Contender]) -> list[Contender]:
    """Every column of the table."""
    keras = f"{HERE}:keras_measures"
    return [
        Contender(OURS, keras, {"layer": "ours"}),
        *torch,
        Contender(WITHOUT_ONEDNN, keras, {"layer": "ours"}, environment={"TF_ENABLE_ONEDNN_OPTS": "0"}),
        Contender(WITH_XLA, keras, {"layer": "ours", "jit_compile": True}),
        Contender(STOCK, keras, {"layer": "stock"}, rounds=STOCK_ROUNDS),
    ]


def cells(comparison: Comparison) -> list[list[str]]:
    """Header and rows: a convolution each, our milliseconds and everybody's ratio to them."""
    others = [name for name in comparison.times if name != OURS]
    rows = [["convolution", "", f"{OURS}, ms", *(f"{name} ÷ {OURS}" for name in others)]]
    for case in CASES:
        for measure in (FORWARD, TRAIN):
            key = measure_name(measure, case)
            ratios = [spread(comparison.ratio(name, OURS, key)) for name in others]
            rows.append([str(case), measure, spread(comparison.time(OURS, key)), *ratios])
    return rows


def targets(comparison: Comparison) -> list[Target]:
    """Against stock Keras where ResNeXt is slowest there; against the better memory format of PyTorch everywhere."""
    first = measure_name(TRAIN, CASES[0])
    found = [Target(f"stock Keras ÷ ours, {first}", comparison.ratio(STOCK, OURS, first).median, at_least=100)]
    torch = [name for name in comparison.times if name in (CONTIGUOUS, CHANNELS_LAST)]
    if torch:
        keys = [measure_name(TRAIN, case) for case in CASES]
        ratios = [comparison.ratio(OURS, comparison.fastest(torch, key), key).median for key in keys]
        found.append(Target(f"ours ÷ the faster PyTorch, {TRAIN}, largest of all shapes", max(ratios), at_most=1.3))
    return found


def plot(figure: Any, comparison: Comparison) -> None:
    """A group of bars for each convolution, forward + backward: times divided by ours, on a logarithmic axis."""
    figure.set_size_inches(11, 5)
    panel = figure.subplots()
    others = [name for name in comparison.times if name != OURS]
    for i, name in enumerate(others):
        places = [place + (i - (len(others) - 1) / 2) * 0.8 / len(others) for place in range(len(CASES))]
        ratios = [comparison.ratio(name, OURS, measure_name(TRAIN, case)).median for case in CASES]
        panel.bar(places, ratios, 0.8 / len(others), label=name)
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set_xticks(range(len(CASES)), [str(case).replace(", ", "\n") for case in CASES])
    panel.set(title=TRAIN, ylabel=f"time ÷ {OURS}", yscale="log")
    panel.legend()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    add_options(parser, Plan(seconds=0.1, warm_up_seconds=0.1))
    options = parser.parse_args(arguments)
    if measured_lately(NAME, options):
        return
    torch = torch_contenders(options.peers_python, "torch", f"{HERE}:torch_measures")
    comparison = compare(contenders(torch), chosen_plan(options))
    record = {"environment": comparison.environment, "versions": comparison.versions,
              "milliseconds_by_round": by_round(comparison)}  # fmt: skip
    remarks = [
        f"{STOCK} took part in the first round only.",
        f'"{WITHOUT_ONEDNN}" and "{WITH_XLA}" are the fallback in chunks.',
        *peers_missing(options.peers_python, "torch"),
    ]
    write_page(NAME, TITLE, cells(comparison), how_measured(comparison, OURS), record, targets(comparison), remarks,
               lambda figure: plot(figure, comparison))  # fmt: skip
