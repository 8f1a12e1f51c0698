"""Pictures of a run: learning curves, confusion matrix, sheet of predictions."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.run_folder import replacing

TRAIN, TEST, RATE, WRONG, WAIT = "#1f5fa8", "#d1495b", "#4a4a4a", "#c1121f", "#e08e2b"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def curves(rows: Sequence[dict[str, float]], title: str) -> Figure:
    """Loss, error, learning rate and, where logged, speed over the epochs; `rows` are those of the log."""
    timed = "images_per_second" in rows[-1]
    figure = Figure(figsize=(15.5 if timed else 12, 3.9), layout="constrained")
    panels = figure.subplots(1, 4 if timed else 3)
    loss, error, rate = panels[:3]
    tested = [row for row in rows if math.isfinite(row.get("test_accuracy", math.nan))]
    for part, colour, label in (("train", TRAIN, "training, augmented images"), ("test", TEST, "test images")):
        shown = rows if part == "train" else tested
        style = {"color": colour, "label": label, "linewidth": 1.8, "marker": "." if len(shown) < 3 else None}
        epochs = [row["epoch"] for row in shown]
        loss.plot(epochs, [row[f"{part}_loss"] for row in shown], **style)
        error.plot(epochs, [100 * (1 - row[f"{part}_accuracy"]) for row in shown], **style)
    loss.set(title="Loss", ylabel="loss, smoothed or mixed labels in training", yscale="log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    error.set(title="Error", ylabel="wrong predictions", ylim=(0, 100))
    error.set_yscale("symlog", linthresh=1, linscale=0.6)  # linear below 1 %, where a logarithm has no zero
    error.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100])
    error.yaxis.set_major_formatter("{x:g} %")
    error.minorticks_off()
    loss.legend(frameon=False)
    error.legend(frameon=False)
    _rate(rate, [row["epoch"] for row in rows], [row["learning_rate"] for row in rows])
    rate.set(title="Learning rate at the end of the epoch")
    if timed:
        _speed(panels[3], rows)
    for axes in panels:
        _over_epochs(axes)
    figure.suptitle(f"{title}: test accuracy {tested[-1]['test_accuracy']:.2%} after {tested[-1]['epoch']:.0f} epochs"
                    if tested else f"{title}: not tested yet")  # fmt: skip
    return figure


def _rate(axes: Axes, epochs: Sequence[float], rates: Sequence[float]) -> None:
    axes.plot(epochs, rates, color=RATE, linewidth=1.8)
    axes.set(ylabel="learning rate", ylim=(0, None))


def _speed(axes: Axes, rows: Sequence[dict[str, float]]) -> None:
    """Images per second, and the share of the time that training waited for them."""
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row["images_per_second"] for row in rows], color=RATE, linewidth=1.8, label="images per second")
    axes.plot([], [], color=WAIT, linewidth=1.4, label="waiting for data (right)")
    axes.set(title="Speed", ylabel="images per second", ylim=(0, None))
    share = axes.twinx()
    share.plot(epochs, [100 * row.get("data_wait", math.nan) for row in rows], color=WAIT, linewidth=1.4)
    share.set_ylim(0, 100)
    share.yaxis.set_major_formatter("{x:g} %")
    share.spines[["top", "left"]].set_visible(False)
    axes.legend(frameon=False)


def _over_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def learning_rate(epochs: Sequence[float], rates: Sequence[float], title: str) -> Figure:
    """The schedule of a run."""
    figure = Figure(figsize=(6.5, 3.9), layout="constrained")
    axes = figure.subplots()
    _rate(axes, epochs, rates)
    _over_epochs(axes)
    figure.suptitle(f"{title}: learning rate")
    return figure


def confusion(matrix: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """A table of counts: a row per true class, a column per predicted one."""
    classes = len(class_names)
    figure = Figure(figsize=(max(6.0, 0.55 * classes + 1.5),) * 2, layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(classes, dtype=bool)
    # Right answers in shades of blue, wrong ones in red, so that a single mistake is seen.
    axes.imshow(np.where(right, share, np.nan), cmap="Blues", vmin=-0.5, vmax=1.2)
    axes.imshow(np.where(~right & (matrix > 0), share, np.nan), cmap="Reds", vmin=-0.15, vmax=0.5)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if row == column else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=12, color=colour)
    axes.set(title=title, xlabel="predicted", ylabel="true", xticks=range(classes), yticks=range(classes))
    axes.set_xticklabels(class_names)
    axes.set_yticklabels(class_names)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    return figure


def predictions(images: Sequence[np.ndarray], labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str],
                title: str, count: int = 32) -> Figure:  # fmt: skip
    """The `count` images whose true class got the lowest probability, the worst first."""
    true = probabilities[np.arange(len(labels)), labels]
    worst = np.argsort(true, kind="stable")[:count]
    columns = 8
    figure = Figure(figsize=(1.45 * columns, 1.85 * math.ceil(len(worst) / columns) + 0.9), layout="constrained")
    grid = figure.subplots(math.ceil(len(worst) / columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, worst, strict=False):
        _prediction(axes, images[index], labels[index], probabilities[index], class_names)
    figure.suptitle(f"{title}\nThe true class and its probability; in red the predictions that are wrong")
    return figure


def _prediction(
    axes: Axes, image: np.ndarray, label: int, probabilities: np.ndarray, class_names: Sequence[str]
) -> None:
    predicted = int(probabilities.argmax())
    text, colour = f"{class_names[label]} ({probabilities[label]:.0%})", "black"
    if predicted != label:
        text, colour = f"{text}\ntaken for {class_names[predicted]} ({probabilities[predicted]:.0%})", WRONG
    axes.imshow(image)
    axes.set_title(text, fontsize=10.5, color=colour)
