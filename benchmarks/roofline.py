"""How near each network comes to what the machine can do: its roofline, from a matrix product and a copy timed in the same run.

The work is `model_info(network).gmacs`, the traffic `cio` and `params`. The least time is the longer of operations ÷ peak and
bytes ÷ bandwidth (Williams, Waterman and Patterson, 2009).
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Comparison, Contender, Plan, Summary, can_import, compare, describe
from benchmarks.networks import TEN
from benchmarks.options import (
    TORCH_ENVIRONMENT,
    add_options,
    choose,
    chosen_plan,
    measured_lately,
    peers_missing,
)
from benchmarks.roofline_contenders import (
    BATCH,
    COPY,
    ELEMENTS,
    FLOAT,
    INFERENCE,
    ORT,
    OURS,
    SIDES,
    SIZE,
    TF_PEAK,
    TORCH_PEAK,
    TRAIN,
    product,
)
from benchmarks.table import by_round, geometric_mean, number, spread, write_page

NAME = "roofline"
CONTENDERS = "benchmarks.roofline_contenders"
TITLE = f"Fraction of the machine's roofline, batch {BATCH} at {SIZE}x{SIZE}, float32, CPU"


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the machine reached.

    Attributes:
        peak: FLOP per second of the fastest matrix product.
        bandwidth: bytes per second, read and written, of the fastest copy.
    """

    peak: float
    bandwidth: float

    @classmethod
    def of(cls, comparison: Comparison, turn: int) -> "Machine":
        """In a round, by whichever library was faster."""
        present = [comparison.times[name] for name in (TF_PEAK, TORCH_PEAK) if name in comparison.times]

        def fastest(measure: str) -> float:
            return min(min(times[measure][turn]) for times in present) / 1000

        return cls(max(2 * side**3 / fastest(product(side)) for side in SIDES), 2 * FLOAT * ELEMENTS / fastest(COPY))


@dataclasses.dataclass(frozen=True)
class Load:
    """What a step has to do.

    Attributes:
        flops: two per multiply-accumulate.
        bytes: that go through memory at least.
    """

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes

    def seconds(self, machine: Machine) -> float:
        """The roofline: less than this cannot be."""
        return max(self.flops / machine.peak, self.bytes / machine.bandwidth)


def loads(gmacs: float, cio: int, params: int, batch: int = BATCH) -> dict[str, Load]:
    """Of inference and of a train step.

    Maps count once where a convolution reads them and once where one writes them; weights once. Training makes three such
    passes over the maps (forward, gradient to the input, gradient to the kernel) and has eight accesses per weight: read in two
    of the passes, its gradient written, and read, together with weight and momentum, by the update, which writes those two.
    """
    flops, maps = 2e9 * gmacs * batch, FLOAT * cio * batch
    return {
        INFERENCE: Load(flops, maps + FLOAT * params),
        TRAIN: Load(3 * flops, 3 * maps + 8 * FLOAT * params),
    }


def network_loads(network: str) -> dict[str, Load]:
    """From the package's own figures, at this size of images."""
    import keras_resnets
    from keras_resnets.costs import measured

    info = keras_resnets.model_info(network)
    if info.input_size == SIZE:
        return loads(info.gmacs, info.cio, info.params)
    sizes = measured(lambda: keras_resnets.create_model(network, input_shape=(SIZE, SIZE, 3)))
    return loads(sizes.gmacs, sizes.cio, sizes.params)


@dataclasses.dataclass(frozen=True)
class Reached:
    """One kind of step of one network.

    Attributes:
        load: what it has to do.
        contender: who did it fastest.
        time: milliseconds of a call.
        least: milliseconds of the roofline.
        fraction: of the roofline reached, by rounds.
    """

    load: Load
    contender: str
    time: Summary
    least: Summary
    fraction: Summary

    @classmethod
    def of(cls, comparison: Comparison, measure: str, load: Load) -> "Reached":
        """The fastest contender in `measure`."""
        contender = comparison.fastest([name for name, times in comparison.times.items() if measure in times], measure)
        turns = comparison.times[contender][measure]
        least = [1000 * load.seconds(Machine.of(comparison, turn)) for turn in range(len(turns))]
        fractions = [limit / min(turn) for limit, turn in zip(least, turns, strict=True)]
        return cls(load, contender, comparison.time(contender, measure), Summary.of(least), Summary.of(fractions))

    @property
    def gflops(self) -> float:
        """Billions of operations per second."""
        return self.load.flops / self.time.median / 1e6


Page = dict[str, dict[str, Reached]]  # by network and kind of step


def contenders(network: str, options: argparse.Namespace) -> list[Contender]:
    """The network, and what the machine can do."""
    rows = [
        Contender(OURS, f"{CONTENDERS}:keras_measures", {"network": network}),
        Contender(ORT, f"{CONTENDERS}:onnx_measures", {"network": network, "threads": options.threads}),
        Contender(TF_PEAK, f"{CONTENDERS}:tensorflow_peaks"),
    ]
    if can_import(options.peers_python, "torch"):
        rows.append(Contender(TORCH_PEAK, f"{CONTENDERS}:torch_peaks", {}, options.peers_python, TORCH_ENVIRONMENT))
    return rows


def cells(page: Page) -> list[list[str]]:
    """Header and rows."""
    rows = [["network", "", "GFLOP", "MB", "FLOP/byte", "fastest", "ms", "GFLOP/s", "roofline, ms", "fraction reached"]]
    for network, found in page.items():
        for measure, r in found.items():
            amounts = [number(value) for value in (r.load.flops / 1e9, r.load.bytes / 1e6, r.load.intensity)]
            rows.append([network, measure, *amounts, r.contender, spread(r.time), number(r.gflops), spread(r.least),
                         spread(r.fraction)])  # fmt: skip
    return rows


def machine_of(comparisons: Sequence[Comparison]) -> tuple[Summary, Summary]:
    """GFLOP/s and GB/s, over the rounds of all networks."""
    machines = [
        Machine.of(comparison, turn)
        for comparison in comparisons
        for turn in range(len(comparison.times[TF_PEAK][COPY]))
    ]
    return Summary.of([m.peak / 1e9 for m in machines]), Summary.of([m.bandwidth / 1e9 for m in machines])


def remarks(page: Page, peak: Summary, bandwidth: Summary) -> list[str]:
    """The machine, and the networks together."""
    lines = [f"Peak: {spread(peak)} GFLOP/s; bandwidth: {spread(bandwidth)} GB/s."]
    for measure in (INFERENCE, TRAIN):
        fractions = [found[measure].fraction.median for found in page.values()]
        lines.append(
            f"Fraction reached in {measure}, geometric mean: {number(geometric_mean(fractions))} "
            f"({number(min(fractions))}–{number(max(fractions))})."
        )
    return lines


def plot(figure: Any, page: Page, peak: Summary, bandwidth: Summary) -> None:
    """Operations per second over operations per byte, both logarithmic, below the roof."""
    figure.set_size_inches(9, 6)
    panel = figure.subplots()
    ridge = peak.median / bandwidth.median
    last = 2 * max(r.load.intensity for found in page.values() for r in found.values())
    panel.plot([ridge / 4, ridge, last], [peak.median / 4, peak.median, peak.median], color="black")
    for measure, marker in ((INFERENCE, "o"), (TRAIN, "^")):
        for number_, (network, found) in enumerate(page.items()):
            label = f"{network}" if measure == INFERENCE else None
            panel.plot(found[measure].load.intensity, found[measure].gflops, marker, color=f"C{number_}", label=label)
    panel.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="GFLOP/s", title=f"● {INFERENCE}, ▲ {TRAIN}")
    panel.legend(fontsize="small")


HOW = (
    "Work: two operations per multiply-accumulate, three times as much in training. Bytes, of 4 per number: every map that a "
    "convolution reads or writes (`cio`), every weight once; in training three times the maps and eight accesses per weight. What "
    "lies between convolutions is taken to cost nothing, though normalisation, additions and concatenations read and write maps "
    "too. The roofline is the longer of operations ÷ peak and bytes ÷ bandwidth. Peak: the fastest product of square matrices "
    f"({', '.join(map(str, SIDES))}); bandwidth: the fastest copy of 256 MiB, bytes read and written; by TensorFlow or PyTorch, in "
    "the same round. Inference: the fused network as a compiled function with constant weights, or its ONNX file in ONNX Runtime, "
    "whichever has the smaller median. Milliseconds are the median (fastest–slowest) of all calls; fractions are the median "
    "(smallest–largest) over rounds of roofline ÷ fastest call. "
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(TEN)} (default: all)")
    add_options(parser, Plan(rounds=5, seconds=0.2, warm_up_seconds=0.2))
    options = parser.parse_args(arguments)
    networks = choose(options.networks, TEN, parser)
    if measured_lately(NAME, options):
        return
    page: Page = {}
    comparisons: dict[str, Comparison] = {}
    for network in networks:
        print(network)
        comparison = compare(contenders(network, options), chosen_plan(options))
        comparisons[network] = comparison
        page[network] = {
            measure: Reached.of(comparison, measure, load) for measure, load in network_loads(network).items()
        }
    peak, bandwidth = machine_of(list(comparisons.values()))
    record = {
        "environment": comparison.environment, "versions": comparison.versions,
        "gflops": dataclasses.asdict(peak), "gigabytes_per_second": dataclasses.asdict(bandwidth),
        "networks": {network: {measure: dataclasses.asdict(reached) for measure, reached in found.items()}
                     for network, found in page.items()},
        "milliseconds_by_round": {network: by_round(each) for network, each in comparisons.items()},
    }  # fmt: skip
    e = comparison.environment
    versions = sorted(
        {f"{name} {version}" for found in comparison.versions.values() for name, version in found.items()}
    )
    how = f"{HOW}{e['rounds']} rounds, {e['threads']} threads and cores. {describe(e)}; {', '.join(versions)}."
    notes = remarks(page, peak, bandwidth) + peers_missing(options.peers_python, "torch")
    write_page(NAME, TITLE, cells(page), how, record, (), notes, lambda figure: plot(figure, page, peak, bandwidth))
