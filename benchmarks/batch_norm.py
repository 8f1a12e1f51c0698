"""Batch normalisation in training, forward and backward, alone and with the ReLU after it: this package, stock Keras, PyTorch.

The shapes are those of ResNet-50's normalisations at 224x224.
"""

import argparse
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
from benchmarks.table import Target, by_round, geometric_mean, how_measured, spread, write_page

BATCH = 8
# Side and channels.
SHAPES = ((112, 64), (56, 64), (56, 256), (28, 128), (28, 512), (14, 256), (14, 1024), (7, 512), (7, 2048))
# In a row, so that what a call costs by itself, which a network pays once per step, does not hide a small layer.
LAYERS = 4
EPSILON, MOMENTUM = 1e-5, 0.9
OURS, STOCK = "keras_resnets", "keras.layers.BatchNormalization"
NAME = "batch_norm"
HERE = "benchmarks.batch_norm"
TITLE = f"{LAYERS} batch normalisations in a row, forward + backward in training, batch {BATCH}, float32, CPU"


def measure_name(side: int, channels: int, relu: bool) -> str:
    """Of a shape, with a ReLU or without."""
    return f"{side}x{side}x{channels}" + (" + ReLU" if relu else "")


CASES = {measure_name(*shape, relu): (*shape, relu) for relu in (False, True) for shape in SHAPES}


def make_layers(stock: bool) -> list[Any]:
    """Normalisations of Keras or of this package."""
    import keras

    import keras_resnets

    kind = keras.layers.BatchNormalization if stock else keras_resnets.layers.BatchNorm
    return [kind(epsilon=EPSILON, momentum=MOMENTUM) for _ in range(LAYERS)]


def keras_call(layers: Sequence[Any], relu: bool, x: Any, upstream: Any) -> Callable[[], Any]:
    """Output, gradients to input, scales and offsets, and the updates of the moving statistics; in a graph, as in `fit`."""
    import keras
    import tensorflow as tf

    for layer in layers:
        layer.build(x.shape)
    weights = [weight.value for layer in layers for weight in (layer.gamma, layer.beta)]

    @tf.function
    def step(x: Any, upstream: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in layers:
                y = layer(y, training=True)
                y = keras.activations.relu(y) if relu else y
        return y, tape.gradient(y, [x, *weights], upstream)

    return lambda: step(x, upstream)


def keras_measures(stock: bool = False) -> dict[str, Callable[[], Any]]:
    """Every case."""
    import tensorflow as tf

    found = {}
    for name, (side, channels, relu) in CASES.items():
        x, upstream = (tf.random.stateless_normal((BATCH, side, side, channels), (1, seed)) for seed in (2, 3))
        found[name] = keras_call(make_layers(stock), relu, x, upstream)
    return found


def torch_call(layers: Sequence[Any], relu: bool, x: Any, upstream: Any) -> Callable[[], Any]:
    """The same in PyTorch."""
    import torch

    x.requires_grad_()
    weights = [weight for layer in layers for weight in (layer.weight, layer.bias)]

    def step() -> Any:
        y = x
        for layer in layers:
            y = layer(y)
            y = torch.relu_(y) if relu else y
        return y, torch.autograd.grad(y, [x, *weights], upstream)

    return step


def torch_measures(channels_last: bool) -> dict[str, Callable[[], Any]]:
    """Every case in PyTorch."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    found = {}
    for name, (side, channels, relu) in CASES.items():
        x, upstream = (torch.randn(BATCH, channels, side, side).to(memory_format=layout) for _ in "xu")
        layers = [torch.nn.BatchNorm2d(channels, eps=EPSILON, momentum=1 - MOMENTUM) for _ in range(LAYERS)]
        found[name] = torch_call(layers, relu, x, upstream)
    return found


def contenders(torch: Sequence[Contender]) -> list[Contender]:
    """Every column of the table."""
    keras = f"{HERE}:keras_measures"
    return [Contender(OURS, keras), *torch, Contender(STOCK, keras, {"stock": True})]


def cells(comparison: Comparison) -> list[list[str]]:
    """Header and rows: a case each, our milliseconds and everybody's ratio to them."""
    others = [name for name in comparison.times if name != OURS]
    rows = [["shape", f"{OURS}, ms", *(f"{name} ÷ {OURS}" for name in others)]]
    for case in CASES:
        ratios = [spread(comparison.ratio(name, OURS, case)) for name in others]
        rows.append([case, spread(comparison.time(OURS, case)), *ratios])
    return rows


def targets(comparison: Comparison) -> list[Target]:
    """The geometric mean over the cases against stock Keras, and case by case against the better memory format of PyTorch."""
    torch = [name for name in comparison.times if name in (CONTIGUOUS, CHANNELS_LAST)]
    others = {"stock Keras": [STOCK], "the faster PyTorch": torch}
    found = []
    for title, names in others.items():
        for relu in (False, True):
            what = "with ReLU" if relu else "alone"
            cases = [name for name, (_, _, has_relu) in CASES.items() if has_relu == relu]
            if names:
                ratios = [comparison.ratio(OURS, comparison.fastest(names, case), case).median for case in cases]
                found.append(Target(f"ours ÷ {title}, {what}, geometric mean", geometric_mean(ratios), at_most=1.0))
    return found


def plot(figure: Any, comparison: Comparison) -> None:
    """A group of bars for each case: times divided by ours."""
    figure.set_size_inches(11, 5)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, relu in zip(panels, (False, True), strict=True):
        cases = [name for name, (_, _, has_relu) in CASES.items() if has_relu == relu]
        others = [name for name in comparison.times if name != OURS]
        for i, name in enumerate(others):
            places = [place + (i - (len(others) - 1) / 2) * 0.8 / len(others) for place in range(len(cases))]
            ratios = [comparison.ratio(name, OURS, case) for case in cases]
            ends = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
            panel.bar(places, [r.median for r in ratios], 0.8 / len(others), yerr=ends, label=name)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xticks(range(len(cases)), [case.partition(" ")[0] for case in cases], rotation=45, ha="right")
        panel.set(title="with ReLU" if relu else "alone", ylabel=f"time ÷ {OURS}")
    panels[0].legend()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    add_options(parser, Plan(seconds=0.2, warm_up_seconds=0.2))
    options = parser.parse_args(arguments)
    if measured_lately(NAME, options):
        return
    torch = torch_contenders(options.peers_python, "torch", f"{HERE}:torch_measures")
    comparison = compare(contenders(torch), chosen_plan(options))
    record = {"environment": comparison.environment, "versions": comparison.versions,
              "milliseconds_by_round": by_round(comparison)}  # fmt: skip
    write_page(NAME, TITLE, cells(comparison), how_measured(comparison, OURS), record, targets(comparison),
               peers_missing(options.peers_python, "torch"), lambda figure: plot(figure, comparison))  # fmt: skip
