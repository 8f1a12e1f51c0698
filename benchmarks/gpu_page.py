"""Shows what `benchmarks.gpu` measured: images per second, ratios, and the fraction of the device's peak."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_contenders import INFERENCE, PRODUCT, RIVAL, TRAIN
from benchmarks.harness import Comparison, Summary, describe
from benchmarks.table import by_round, markdown_table, number, spread, write_files

# Multiply-accumulates of a step, in forward passes: the gradients to the input and to the kernels cost one each.
PASSES = {TRAIN: 3, INFERENCE: 1}


@dataclasses.dataclass(frozen=True)
class Part:
    """The comparison of one network.

    Attributes:
        network: its name.
        gmacs: billions of multiply-accumulates of a forward pass of one image.
        batch: images per step.
        steps: steps per timed call.
        side: of the square matrices whose product gives the peak.
        comparison: what was measured.
    """

    network: str
    gmacs: float
    batch: int
    steps: int
    side: int
    comparison: Comparison

    def images_per_second(self, contender: str, measure: str) -> Summary:
        """Over all calls."""
        calls = [time for turn in self.comparison.times[contender][measure] for time in turn]
        return Summary.of([1000 * self.batch * self.steps / time for time in calls])

    @property
    def peak(self) -> float:
        """TFLOP/s of matrix products, by the median call of whichever contender makes them faster."""
        fastest = min(self.comparison.time(contender, PRODUCT).median for contender in self.comparison.times)
        return 2 * self.side**3 * self.steps / fastest / 1e9

    def utilisation(self, contender: str, measure: str) -> float:
        """The fraction of the peak that the network's own multiply-accumulates reach (model FLOPs utilisation, MFU)."""
        images = self.images_per_second(contender, measure).median
        return images * 2 * self.gmacs * PASSES[measure] / 1000 / self.peak

    def rows(self) -> list[list[str]]:
        """A row of the table for every contender; "–" without a rival to be compared with."""
        rows = []
        for contender in self.comparison.times:
            row = [f"{self.network} ({self.batch})", contender]
            for measure in PASSES:
                row += [
                    spread(self.images_per_second(contender, measure)),
                    "–",
                    f"{self.utilisation(contender, measure):.1%}",
                ]
                if RIVAL in self.comparison.times:
                    row[-2] = spread(self.comparison.ratio(contender, RIVAL, measure))
            rows.append(row)
        return rows


def page_name(device: str) -> str:
    """Of the files, without a suffix."""
    return "gpu_" + re.sub(r"\W+", "_", device).strip("_").lower()


@dataclasses.dataclass(frozen=True)
class Page:
    """What a run measured.

    Attributes:
        device: what the framework calls the GPU.
        driver: version of NVIDIA's driver; "" if unknown.
        size: side of the images in pixels.
        parts: one per network.
        missing: who could not take part, and why.
    """

    device: str
    driver: str
    size: int
    parts: Sequence[Part]
    missing: Sequence[str] = ()

    @property
    def title(self) -> str:
        return f"Training and inference in bfloat16 at {self.size}x{self.size}: {self.device}"

    @property
    def name(self) -> str:
        """Of the files, without a suffix."""
        return page_name(self.device)

    def cells(self) -> list[list[str]]:
        """Header and rows of the table."""
        header = ["network (batch)", ""]
        for measure in PASSES:
            header += [f"{measure}, images/s", f"time ÷ {RIVAL}", "MFU"]
        return [header, *(row for part in self.parts for row in part.rows())]

    def how(self) -> str:
        """The paragraph below the table."""
        first = self.parts[0]
        e = first.comparison.environment
        versions = {f"{package} {version}" for part in self.parts for found in part.comparison.versions.values()
                    for package, version in found.items()}  # fmt: skip
        return (
            "Images per second are the median (slowest–fastest) of all calls; a call is "
            f"{first.steps} step(s) in a row. Ratios are the median (smallest–largest) over rounds of fastest call ÷ fastest call "
            "in the same round: above 1 is slower. MFU is 2 FLOP per multiply-accumulate of the network (in training three "
            f"times those of the forward pass) over the peak: a bfloat16 product of {first.side}x{first.side} matrices, timed in "
            f"turn with the networks, {number(min(part.peak for part in self.parts))} to "
            f"{number(max(part.peak for part in self.parts))} TFLOP/s. {e['rounds']} rounds, each contender at least "
            f"{e['seconds']:g} s per measure and round, each in its own process. Random images on the device; SGD with "
            f"momentum. {describe(e)}; {', '.join(sorted(versions))}"
            + (f", NVIDIA driver {self.driver}." if self.driver else ".")
        )

    def markdown(self) -> str:
        """The page."""
        lines = [f"# {self.title}", "", *markdown_table(self.cells()), "", self.how()]
        return "\n".join(lines + (["", *(f"* {line}" for line in self.missing)] if self.missing else [])) + "\n"

    def json(self) -> str:
        """The same for programs."""
        parts = [
            {
                "network": part.network, "gmacs": part.gmacs, "batch": part.batch, "steps_per_call": part.steps,
                "matrix_side": part.side, "peak_tflops": part.peak, "environment": part.comparison.environment,
                "versions": part.comparison.versions, "milliseconds_by_round": by_round(part.comparison),
            }
            for part in self.parts
        ]  # fmt: skip
        record: dict[str, Any] = {
            "title": self.title,
            "device": self.device,
            "environment": self.parts[-1].comparison.environment,
            "size": self.size,
            "missing": list(self.missing),
        }
        return json.dumps({**record, "parts": parts}, indent=1) + "\n"

    def write(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Writes `name`.md and `name`.json, and `name`.png where matplotlib is installed."""
        written = write_files(self.name, {".md": self.markdown(), ".json": self.json()}, folder)
        try:
            import matplotlib
        except ImportError:
            print("matplotlib is not installed here: no plot")
            return written
        matplotlib.use("agg")
        return [*written, self._plot(folder / f"{self.name}.png")]

    def _plot(self, path: pathlib.Path) -> pathlib.Path:
        """Images per second as bars, with the range."""
        from matplotlib import pyplot

        figure, panels = pyplot.subplots(1, len(PASSES), figsize=(11, 4), layout="constrained")
        contenders = list(dict.fromkeys(name for part in self.parts for name in part.comparison.times))
        width = 0.8 / len(contenders)
        for panel, measure in zip(panels, PASSES, strict=True):
            for i, contender in enumerate(contenders):
                places = [place for place, part in enumerate(self.parts) if contender in part.comparison.times]
                rates = [self.parts[place].images_per_second(contender, measure) for place in places]
                ends = [[r.median - r.low for r in rates], [r.high - r.median for r in rates]]
                where = [place + (i - (len(contenders) - 1) / 2) * width for place in places]
                panel.bar(where, [r.median for r in rates], width, yerr=ends, label=contender)
            panel.set_xticks(range(len(self.parts)), [part.network for part in self.parts])
            panel.set(title=measure, ylabel="images per second")
        figure.legend(contenders, loc="outside lower center", ncols=len(contenders))
        figure.suptitle(self.title)
        partial = path.with_suffix(".partial")
        figure.savefig(partial, format="png", dpi=120)
        pyplot.close(figure)
        return partial.replace(path)
