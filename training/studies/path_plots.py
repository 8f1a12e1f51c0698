"""The rows of the path study, and their picture."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.plots import TEST, TRAIN

BASE, WHOLE = "#8d99ae", "#2a2a2a"


@dataclasses.dataclass(frozen=True)
class Row:
    """One network of the study, whole or cut.

    Attributes:
        part: of the study.
        network: what was cut.
        what: which block or path is left out, or is left.
        layers: on the longest path.
        accuracy: share of right predictions.
        own_statistics: the same with normalisation statistics of the cut network's own, where measured.
        position: the middle of the block that is left out, counted in layers; None where none is.
    """

    part: str
    network: str
    what: str
    layers: int
    accuracy: float
    own_statistics: float | None = None
    position: float | None = None


def figure(rows: Sequence[Row]) -> Figure:
    """Accuracies without a block, of base networks, and without a path."""
    picture = Figure(figsize=(15.5, 4.9), layout="constrained")
    blocks, bases, paths = picture.subplots(1, 3, width_ratios=(1.15, 1, 1))
    _blocks_left_out(blocks, [row for row in rows if row.part == "block left out"])
    _base_networks(bases, rows)
    _paths_left_out(paths, rows)
    for axes in (blocks, bases):
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.grid(alpha=0.25)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8.5)
    for axes in (blocks, bases, paths):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    picture.suptitle("Trained networks with something cut out, test accuracy on scanned digits")
    return picture


def _blocks_left_out(axes: Axes, rows: Sequence[Row]) -> None:
    for network, colour, marker in zip(dict.fromkeys(row.network for row in rows), (TRAIN, TEST), "os", strict=True):
        intact, *cut = [row for row in rows if row.network == network]
        axes.axhline(100 * intact.accuracy, color=colour, linestyle=":", linewidth=1.2)
        positions = [row.position for row in cut if row.position is not None]
        label = f"{network}, {100 * intact.accuracy:.1f} % as it is"
        axes.plot(positions, [100 * row.accuracy for row in cut], marker, linestyle="-", color=colour, label=label)
    axes.set(title="One block left out", xlabel="its place among the layers, from the image on", ylim=(0, 103))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _base_networks(axes: Axes, rows: Sequence[Row]) -> None:
    bases = [row for row in rows if row.part == "base network"]
    own = [100 * (row.own_statistics or 0) for row in bases]
    layers = np.array([row.layers for row in bases], float)
    # Networks of one depth side by side.
    shift = np.array([layers[:i].tolist().count(depth) for i, depth in enumerate(layers)])
    layers += 0.45 * (shift - [(layers.tolist().count(depth) - 1) / 2 for depth in layers])
    axes.vlines(layers, [100 * row.accuracy for row in bases], own, color=BASE, alpha=0.5, linewidth=1.2)
    axes.plot(layers, [100 * row.accuracy for row in bases], "o", color=BASE, label="a base network, as it is")
    axes.plot(layers, own, "o", color=TRAIN, label="with its own statistics")
    styles = zip([row for row in rows if row.part in ("fused network", "ensemble")], (WHOLE, TRAIN, TRAIN), ("-", "--", ":"),
                 strict=True)  # fmt: skip
    for row, colour, style in styles:
        accuracy = row.accuracy if row.own_statistics is None else row.own_statistics
        label = "the fused network" if row.part == "fused network" else row.what
        axes.axhline(
            100 * accuracy, color=colour, linestyle=style, linewidth=1.4, label=f"{label}, {100 * accuracy:.1f} %"
        )
    axes.set(
        title=f"The {len(bases)} base networks of {bases[0].network}",
        xlabel="layers of the base network",
        ylim=(0, 103),
    )
    axes.set_xticks(sorted({row.layers for row in bases}))


def _paths_left_out(axes: Axes, rows: Sequence[Row]) -> None:
    whole = next(row for row in rows if row.part == "fused network")
    without = [row for row in rows if row.part == "path left out"]
    lost = [100 * (whole.accuracy - row.accuracy) + 0.0 for row in without]  # not minus zero
    labels = [f"{row.what.replace('-', ' · ')}  ({row.layers})" for row in without]
    colours = [TEST if row is without[-1] else BASE for row in without]
    bars = axes.barh(labels, lost, color=colours)
    axes.bar_label(bars, [f"{points:.1f}" for points in lost], padding=4)
    axes.set(title="One path (its layers) left out", xlabel="points of accuracy lost; the deepest in red")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
