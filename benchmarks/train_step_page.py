"""The summary of the train step: a row for each network whose page has been written."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import RESULTS, Plan, Summary, environment, machines
from benchmarks.networks import TEN
from benchmarks.options import CHANNELS_LAST, CONTIGUOUS
from benchmarks.plot import Draw
from benchmarks.table import Target, geometric_mean, number, spread, write_page

STEP, OURS, STOCK = "train step", "keras_resnets", "stock Keras layers"
RIVALS = (CONTIGUOUS, CHANNELS_LAST, STOCK)
GROUPED = ("resnext50_32x4d", "seresnext50_32x4d", "resnest50d", "dpn68")
# Name, record of its page.
Records = dict[str, dict[str, Any]]


def page(network: str) -> str:
    """Name of the network's files of results."""
    return f"train_step_{network}"


def records(networks: Sequence[str], folder: pathlib.Path = RESULTS) -> Records:
    """What has been measured of these networks, in this run or before."""
    found = {network: folder / f"{page(network)}.json" for network in networks}
    return {network: json.loads(path.read_text("utf-8")) for network, path in found.items() if path.exists()}


def ratio(record: dict[str, Any], rival: str) -> Summary | None:
    """Ours ÷ the rival, by rounds that both took part in; None if it was not there."""
    rounds = record["milliseconds_by_round"]
    if rival not in rounds:
        return None
    turns = zip(rounds[OURS][STEP], rounds[rival][STEP], strict=False)
    return Summary.of([ours["fastest"] / theirs["fastest"] for ours, theirs in turns])


def against_torch(record: dict[str, Any]) -> float | None:
    """Ours ÷ PyTorch in its better memory format, that is the larger of two ratios."""
    ratios = [ratio(record, rival) for rival in (CONTIGUOUS, CHANNELS_LAST)]
    return max((found.median for found in ratios if found is not None), default=None)


def cells(found: Records) -> list[list[str]]:
    """Header and a row for each network: our time, and ours ÷ every rival's."""
    rows = [["", f"{OURS}, ms", *(f"÷ {rival}" for rival in RIVALS)]]
    for network, record in found.items():
        times = [turn["median"] for turn in record["milliseconds_by_round"][OURS][STEP]]
        ratios = [ratio(record, rival) for rival in RIVALS]
        rows.append([network, number(Summary.of(times).median), *("–" if r is None else spread(r) for r in ratios)])
    return rows


def targets(measured: Records) -> list[Target]:
    """What was aimed at for the ten networks, over as many of them as have been measured."""
    ten = {network: record for network, record in measured.items() if network in TEN}
    torch = {n: value for n, record in ten.items() if (value := against_torch(record)) is not None}
    stock = {n: found.median for n, record in ten.items() if (found := ratio(record, STOCK)) is not None}
    reached = []
    if torch:
        mean, (worst, most) = geometric_mean(list(torch.values())), max(torch.items(), key=lambda item: item[1])
        timm = "train step, ours ÷ timm in its better memory format"
        text = f"{timm}, geometric mean of {len(torch)} of the {len(TEN)} networks"
        reached.append(Target(text, mean, at_most=0.90, headline=True))
        reached.append(Target(f"{timm}, the largest of them ({worst})", most, at_most=1.05, headline=True))
    for kind, limit in (("grouped", 0.05), ("other", 0.85)):
        of_kind = {n: value for n, value in stock.items() if (n in GROUPED) == (kind == "grouped")}
        if of_kind:
            worst, most = max(of_kind.items(), key=lambda item: item[1])
            mean = geometric_mean(list(of_kind.values()))
            largest = f"the largest of {len(of_kind)} {kind} networks ({worst}; geometric mean {number(mean)})"
            text = f"train step, ours ÷ {STOCK}, {largest}"
            reached.append(Target(text, most, at_most=limit, headline=True))
    return reached


def bars(found: Records) -> Draw:
    """Ours ÷ each rival by network, on a logarithmic axis."""

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for offset, rival in enumerate(RIVALS):
            ratios = [ratio(record, rival) for record in found.values()]
            places = [index + 0.25 * (offset - 1) for index, r in enumerate(ratios) if r is not None]
            panel.barh(places, [r.median for r in ratios if r is not None], 0.23, label=rival)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set(xscale="log", xlabel=f"time of {OURS} ÷ the rival's: below 1 is faster", yticks=range(len(found)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_yticklabels(found)
        panel.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=len(RIVALS))

    return draw


def summarise(networks: Sequence[str], plan: Plan, folder: pathlib.Path = RESULTS) -> list[pathlib.Path]:
    """Writes the page over all networks that have pages."""
    found = records(networks, folder)
    how = (
        "Ratios are ours ÷ theirs: below 1 is faster. Medians (smallest–largest) over rounds, in which all take turns, each in its "
        "own process with the same cores and threads; details on the page of each network."
    )
    record = {
        "environment": environment(plan),
        "machines": machines(found.values()),
        "ratios": {
            network: {rival: value.median for rival in RIVALS if (value := ratio(record, rival)) is not None}
            for network, record in found.items()
        },
    }
    missing = dict.fromkeys(line for each in found.values() for line in each["remarks"] if line.startswith("Missing"))
    title = "Train step, batch 8 at 224x224, float32, CPU"
    return write_page(
        "train_step", title, cells(found), how, record, targets(found), list(missing), bars(found), folder
    )
