"""Pictures of studies: errors over the epochs, and errors at the end."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.plots import RATE as GREY
from training.plots import TRAIN
from training.studies.outcomes import Outcome, small_scale

# Colour and line of a curve, by the variant's label.
Style = Callable[[str], tuple[str, str]]


def curves(table: Sequence[Outcome], title: str, style: Style) -> Figure:
    """Training error over the epochs, mean and range over the seeds; and training and test errors at the end."""
    picture = Figure(figsize=(11, 4.3), layout="constrained")
    left, right = picture.subplots(1, 2, width_ratios=(1.2, 1))
    for row in table:
        errors = 100 * (1 - np.array([[line["train_accuracy"] for line in log] for log in row.logs]))
        epochs = [line["epoch"] for line in row.logs[0]]
        colour, line = style(row.label)
        left.plot(epochs, errors.mean(axis=0), color=colour, linestyle=line, linewidth=1.9, label=row.label)
        left.fill_between(epochs, errors.min(axis=0), errors.max(axis=0), color=colour, alpha=0.12, linewidth=0)
    left.set(title="Training error", xlabel="epoch", ylabel="wrong predictions", ylim=(0, 100))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.yaxis.set_major_formatter("{x:g} %")
    left.legend(frameon=False)
    left.grid(alpha=0.25)
    left.spines[["top", "right"]].set_visible(False)
    _errors(right, table, [style(row.label)[0] for row in table])
    return _titled(picture, table, title)


def bars(table: Sequence[Outcome], title: str) -> Figure:
    """Training and test errors at the end."""
    picture = Figure(figsize=(9, 1.6 + 0.5 * len(table)), layout="constrained")
    _errors(picture.subplots(), table, [TRAIN] * len(table))
    return _titled(picture, table, title)


def _titled(picture: Figure, table: Sequence[Outcome], title: str) -> Figure:
    picture.suptitle(title, fontsize=13)
    picture.supxlabel(small_scale(table), fontsize=8, color="#666666")
    return picture


def _errors(axes: Axes, table: Sequence[Outcome], colours: Sequence[str]) -> None:
    """A point per run and a bar at the mean of each variant: filled for training, hollow for test."""
    for place, (row, colour) in enumerate(zip(table, colours, strict=True)):
        for errors, shift, filled in ((row.train_errors, -0.15, True), (row.test_errors, 0.15, False)):
            inside = colour if filled else "white"
            axes.plot(
                errors, np.full(len(errors), place + shift), "o", color=colour, markerfacecolor=inside, markersize=4.5
            )
            axes.plot([errors.mean()], [place + shift], "|", color=colour, markersize=13, markeredgewidth=2)
            axes.annotate(f"{errors.mean():.1f}", (errors.max(), place + shift), xytext=(8, 0), textcoords="offset points",
                          va="center", fontsize=8, color=colour)  # fmt: skip
    for inside, label in ((GREY, "training, augmented images"), ("white", "test")):
        axes.plot([], [], "o", color=GREY, markerfacecolor=inside, markersize=4.5, label=label)
    axes.set_yticks(range(len(table)), [row.label for row in table])
    axes.set(title="Error at the end", xlabel="wrong predictions")
    axes.set_xlim(left=0)
    axes.margins(x=0.12, y=0.08)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5)
