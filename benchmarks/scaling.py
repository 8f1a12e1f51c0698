"""How the cost of a network grows with batch, resolution, depth, cardinality and radix, and the time to build one with its depth.

Every series is a line in a log-log plot: its slope is the power of the quantity that the time grows with.
"""

import argparse
import dataclasses
import functools
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Comparison, Contender, Plan, Summary, compare, describe
from benchmarks.options import add_options, chosen_plan, measured_lately
from benchmarks.table import Target, by_round, number, spread, write_page

TRAIN, INFERENCE, BUILD, TRACE = "train step", "inference", "build", "trace a train step"
LINEAR = 1.05
NAME = "scaling"
TITLE = "Growth with batch, resolution, depth, cardinality and radix, float32, CPU"


@dataclasses.dataclass(frozen=True)
class Point:
    """A network at one place of a series.

    Attributes:
        x: of the quantity that grows.
        network: its name.
        batch, size: images, and their side in pixels.
        options: of `keras_resnets.create_model`.
    """

    x: int
    network: str
    batch: int
    size: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Series:
    """Networks of which one quantity grows.

    Attributes:
        quantity: what `Point.x` counts.
        points: from small to large.
        measures: what is timed.
        linear: aim at times that grow at most as the quantity.
    """

    quantity: str
    points: tuple[Point, ...]
    measures: tuple[str, ...] = (TRAIN, INFERENCE)
    linear: bool = False


def _batches(network: str) -> Series:
    return Series("images", tuple(Point(n, network, n, 160) for n in (1, 2, 4, 8, 16)), linear=True)


def _sizes(network: str) -> Series:
    return Series("pixels", tuple(Point(n * n, network, 4, n) for n in (128, 160, 224, 320)), linear=True)


def _setting(text: str) -> Point:
    """A row of the ResNeXt paper's table 2, such as 32x4: equal work at any cardinality."""
    cardinality, width = map(int, text.split("x"))
    options = {"cardinality": cardinality, "base_width": width}
    return Point(cardinality, "resnext50_32x4d", 4, 160, options)


NETWORKS = ("resnet50", "resnext50_32x4d", "resnest50d")
DEPTHS = {8: "resnet26", 16: "resnet50", 33: "resnet101", 50: "resnet152"}
SERIES = {
    **{f"batch, {network}": _batches(network) for network in NETWORKS},
    **{f"resolution, {network}": _sizes(network) for network in NETWORKS},
    "depth, ResNet with bottlenecks": Series(
        "residual blocks", tuple(Point(blocks, name, 4, 128) for blocks, name in DEPTHS.items()), linear=True
    ),
    "cardinality, ResNeXt-50 of equal work": Series(
        "groups", tuple(map(_setting, ("1x64", "2x40", "4x24", "8x14", "32x4")))
    ),
    "radix, ResNeSt-50": Series(
        "splits", tuple(Point(radix, "resnest50d", 4, 160, {"radix": radix}) for radix in (1, 2, 4))
    ),
    "build time, ResNet for 32x32 images": Series(
        "residual blocks",
        tuple(Point(3 * depth, "resnet20_cifar", 2, 32, {"depth": depth}) for depth in (2, 6, 18, 36)),
        (BUILD, TRACE),
        linear=True,
    ),
}


def measure_name(measure: str, point: Point) -> str:
    """Of a measure of a point among those of its series' process."""
    return f"{measure}, {point.x}"


def series_measures(series: str) -> dict[str, Callable[[], Any]]:
    """Every measure of every point of `SERIES[series]`."""
    found: dict[str, Callable[[], Any]] = {}
    for point in SERIES[series].points:
        make = _construction if BUILD in SERIES[series].measures else _steps
        found |= {measure_name(measure, point): call for measure, call in make(point).items()}
    return found


def _create(point: Point) -> Any:
    import keras_resnets

    shape = (point.size, point.size, 3)
    return keras_resnets.create_model(point.network, classifier_activation=None, input_shape=shape, **point.options)


def _images(point: Point) -> Any:
    import tensorflow as tf

    return tf.random.stateless_normal((point.batch, point.size, point.size, 3), (1, 2))


def _steps(point: Point) -> dict[str, Callable[[], Any]]:
    """A step of `fit` and one of `predict`."""
    import keras
    import tensorflow as tf

    model, x = _create(point), _images(point)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    y = tf.range(point.batch) % model.output_shape[-1]
    return {TRAIN: lambda: model.train_on_batch(x, y), INFERENCE: lambda: model.predict_on_batch(x)}


def _construction(point: Point) -> dict[str, Callable[[], Any]]:
    """Making the network with its initial weights, and tracing its forward and backward pass and update, without running it."""
    import keras
    import tensorflow as tf

    model, x = _create(point), _images(point)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(model.trainable_variables)

    def trace() -> Any:
        @tf.function
        def step(x: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True))
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)

        return step.get_concrete_function(x)

    return {BUILD: _without_collection(lambda: _create(point)), TRACE: _without_collection(trace)}


def _without_collection(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` with Python's collector of garbage off, as in `timeit`: a full one takes longer than a network, and falls on any."""

    def called() -> Any:
        gc.disable()
        try:
            return call()
        finally:
            gc.enable()

    return called


@dataclasses.dataclass(frozen=True)
class Growth:
    """How the times of one measure of a series grow.

    Attributes:
        times: milliseconds by `Point.x`.
        slope: of log time over log x, by rounds.
        residual: how far the medians are from their line at most, as a fraction.
    """

    times: dict[int, Summary]
    slope: Summary
    residual: float


def line(times: Mapping[int, float]) -> tuple[float, float]:
    """Slope of log time over log x, least squares; and how far the times are from that line at most, as a fraction."""
    x, y = np.log(list(times)), np.log(list(times.values()))
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.abs(np.expm1(y - slope * x - offset)).max())


def growth(comparison: Comparison, series: str, measure: str) -> Growth:
    """Of the comparison that `measure_series` returns. A round counts with its fastest calls."""
    names = {point.x: measure_name(measure, point) for point in SERIES[series].points}
    turns = comparison.times[series]
    rounds = len(next(iter(turns.values())))
    slopes = [line({x: min(turns[name][turn]) for x, name in names.items()})[0] for turn in range(rounds)]
    times = {x: comparison.time(series, name) for x, name in names.items()}
    residual = line({x: summary.median for x, summary in times.items()})[1]
    return Growth(times, Summary.of(slopes), residual)


def measure_series(series: str, plan: Plan) -> Comparison:
    """Times every point of a series in one process, in turns."""
    return compare([Contender(series, "benchmarks.scaling:series_measures", {"series": series})], plan)


def growths(comparison: Comparison, series: str) -> dict[str, Growth]:
    """By measure."""
    return {measure: growth(comparison, series, measure) for measure in SERIES[series].measures}


def cells(measured: Mapping[str, Mapping[str, Growth]]) -> list[list[str]]:
    """Header and rows."""
    rows = [["series", "", "ms", "slope", "largest residual"]]
    for series, by_measure in measured.items():
        for measure, found in by_measure.items():
            times = ", ".join(f"{x:,}: {number(time.median)}" for x, time in found.times.items())
            row = [series, measure, f"{SERIES[series].quantity} {times}", spread(found.slope), f"{found.residual:.0%}"]
            rows.append(row)
    return rows


def targets(measured: Mapping[str, Mapping[str, Growth]]) -> list[Target]:
    """Slopes of what should be linear."""
    return [
        Target(f"slope of {measure} over {SERIES[series].quantity} ({series})", found.slope.median, at_most=LINEAR)
        for series, by_measure in measured.items()
        if SERIES[series].linear
        for measure, found in by_measure.items()
    ]


def work(series: str) -> dict[int, float]:
    """Billions of multiply-accumulates of one image at every point."""
    from keras_resnets.costs import measured

    return {point.x: measured(functools.partial(_create, point)).gmacs for point in SERIES[series].points}


def work_remark(series: str, by_measure: Mapping[str, Growth]) -> str:
    """How the time per multiply-accumulate changes, for series whose work does not grow with the quantity."""
    gmacs, texts = work(series), []
    first = next(iter(gmacs))
    for measure, found in by_measure.items():
        unit = found.times[first].median / gmacs[first]
        ratios = ", ".join(f"{x}: {number(time.median / gmacs[x] / unit)}" for x, time in found.times.items())
        texts.append(f"{measure} {ratios}")
    amounts = ", ".join(f"{x}: {amount:.2f}" for x, amount in gmacs.items())
    return f"{series}: GMAC per image {amounts}. Time per multiply-accumulate, {first} = 1: {'; '.join(texts)}."


def plot(figure: Any, measured: Mapping[str, Mapping[str, Growth]]) -> None:
    """A log-log panel for each quantity, a line for each network and measure."""
    from matplotlib import ticker

    groups: dict[str, list[str]] = {}
    for series in measured:
        groups.setdefault(series.split(",")[0], []).append(series)
    figure.set_size_inches(11, 4.5 * math.ceil(len(groups) / 3))
    panels = figure.subplots(math.ceil(len(groups) / 3), min(3, len(groups)), squeeze=False).flat
    for (group, names), panel in zip(groups.items(), panels, strict=False):
        panel.set(title=f"{group} (slopes)", xlabel=SERIES[names[0]].quantity, ylabel="ms", xscale="log", yscale="log")
        for name in names:
            for measure, found in measured[name].items():
                label = f"{name.partition(', ')[2]}, {measure}: {number(found.slope.median)}"
                panel.plot(list(found.times), [time.median for time in found.times.values()], marker="o", label=label)
        places = sorted({x for name in names for found in measured[name].values() for x in found.times})
        panel.set_xticks(places, [f"{x:,}" for x in places])
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_minor_formatter(ticker.NullFormatter())
        panel.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.15))
    for panel in list(panels):
        panel.remove()


def how(comparison: Comparison) -> str:
    """The paragraph below the table."""
    e = comparison.environment
    versions = ", ".join(
        f"{package} {version}" for package, version in next(iter(comparison.versions.values())).items()
    )
    return (
        "A slope is that of log time over log quantity, fitted by least squares to a round's fastest calls: the power of the "
        "quantity that the time grows with; median (smallest–largest) of the rounds. Milliseconds are medians of all calls; the "
        "residual is how far they are from their line at most. Train step: `train_on_batch`, SGD with momentum; inference: "
        "`predict_on_batch`; building and tracing: without Python's collection of garbage. All places of a series take turns in "
        f"one process with {e['threads']} threads, {e['rounds']} rounds. "
        f"{describe(e)}; {versions}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    add_options(parser, Plan(rounds=3, seconds=0.3, warm_up_seconds=0.0))
    options = parser.parse_args(arguments)
    if measured_lately(NAME, options):
        return
    plan = chosen_plan(options)
    measured: dict[str, dict[str, Growth]] = {}
    record: dict[str, Any] = {}
    for series in SERIES:
        print(series)
        comparison = measure_series(series, plan)
        measured[series] = growths(comparison, series)
        slopes = {measure: dataclasses.asdict(found.slope) for measure, found in measured[series].items()}
        record[series] = {"slopes": slopes, "milliseconds_by_round": by_round(comparison)[series]}
    remarks = [work_remark(series, measured[series]) for series in SERIES if not SERIES[series].linear]
    everything = {"environment": comparison.environment, "versions": comparison.versions, "series": record}
    write_page(NAME, TITLE, cells(measured), how(comparison), everything, targets(measured), remarks,
               lambda figure: plot(figure, measured))  # fmt: skip
