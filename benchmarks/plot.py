"""Pictures of results, as SVG files."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.harness import Comparison, Summary

# Fills in a figure of matplotlib.
Draw = Callable[[Any], None]


def save(path: pathlib.Path, draw: Draw, size: tuple[float, float] = (9, 4)) -> pathlib.Path:
    """Writes what `draw` puts into a figure of `size` inches; the same drawing gives the same file."""
    import matplotlib

    partial = path.with_suffix(".partial")
    with matplotlib.rc_context({"svg.hashsalt": "keras_resnets", "font.size": 9}), _figure(size) as figure:
        draw(figure)
        figure.savefig(partial, format="svg", metadata={"Date": None})
    return partial.replace(path)


@contextlib.contextmanager
def _figure(size: tuple[float, float]) -> Iterator[Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure


def bars(comparison: Comparison, reference: str, title: str) -> Draw:
    """A panel for each measure: the ratios to `reference` with their ranges, on a logarithmic axis."""

    def draw(figure: Any) -> None:
        measures = list(comparison.times[reference])
        panels = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
        for panel, measure in zip(panels, measures, strict=True):
            names = [name for name, times in comparison.times.items() if times.get(measure)]
            ratios = [comparison.ratio(name, reference, measure) for name in names]
            errors = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
            colours = ["tab:blue" if name == reference else "tab:gray" for name in names]
            panel.barh(names, [r.median for r in ratios], xerr=errors, color=colours, ecolor="black")
            panel.axvline(1, color="black", linewidth=0.8)
            if max(r.high for r in ratios) > 10:
                panel.set_xscale("log")
            panel.set(xlabel=f"time ÷ {reference}", title=measure)
        panels[0].invert_yaxis()
        figure.suptitle(title)

    return draw


def ranges(summaries: Mapping[str, Summary], axis: str, title: str) -> Draw:
    """A bar for each name: the median with the range. `axis` says what is measured, with its unit."""

    def draw(figure: Any) -> None:
        panel, found = figure.subplots(), summaries.values()
        errors = [[s.median - s.low for s in found], [s.high - s.median for s in found]]
        panel.barh(list(summaries), [s.median for s in found], xerr=errors, color="tab:blue", ecolor="black")
        panel.invert_yaxis()
        panel.set(xlabel=axis, title=title)

    return draw
