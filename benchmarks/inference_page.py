"""What is made of the times of `benchmarks.inference`: targets of each network, and the page over all of them."""

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import RESULTS, Plan, environment, machines
from benchmarks.networks import TEN
from benchmarks.plot import Draw
from benchmarks.table import Target, geometric_mean, number, write_page

ONE, EIGHT = "one image", "8 images"
KERAS, FUSED = "ours, Keras predict", "ours, fused, Keras predict"
SAVED, LITE, LITE_INT8 = "ours → SavedModel", "ours → TFLite", "ours → TFLite int8"
ORT, VINO = "ours → ONNX → ONNX Runtime", "ours → ONNX → OpenVINO"
EAGER = TIMM, TIMM_LAST = "timm, contiguous", "timm, channels_last"
COMPILED = "timm, torch.compile"
TIMM_ORT, TIMM_VINO = "timm → ONNX → ONNX Runtime", "timm → ONNX → OpenVINO"
STOCK, APPLICATIONS_LITE = "stock Keras → SavedModel", "keras.applications → TFLite"
ARTIFACTS = (SAVED, LITE, ORT, VINO)  # in float32
# Where the single artifacts have targets of their own, beside keras.applications' networks.
SINGLE = ("resnet50", "resnext50_32x4d", "resnest50d")

# The fastest call of every round, by contender.
Times = dict[str, list[float]]


def page(network: str) -> str:
    """Name of the network's files of results."""
    return f"inference_{network}"


def times(record: dict[str, Any], measure: str) -> Times:
    """Of a page's record, who took part in `measure`."""
    rounds = record["milliseconds_by_round"]
    return {name: [turn["fastest"] for turn in found[measure]] for name, found in rounds.items() if found.get(measure)}


def ratio(found: Times, ours: str, theirs: str) -> float:
    """Ours ÷ theirs: the median over rounds."""
    return statistics.median(a / b for a, b in zip(found[ours], found[theirs], strict=False))


def fastest(found: Times, names: Sequence[str]) -> str | None:
    """The fastest of those that took part; None if none did."""
    return min((name for name in names if name in found), key=lambda name: statistics.median(found[name]), default=None)


def network_targets(network: str, one_image: Times) -> list[Target]:
    """What single artifacts were aimed to reach with one image."""
    aims = [(LITE, APPLICATIONS_LITE, 1.0)]
    if network in SINGLE:
        aims += [(ORT, TIMM_ORT, 1.0), (LITE_INT8, TIMM_ORT, 0.35), (SAVED, STOCK, 0.75)]
    return [
        Target(f"{network}, {ours} ÷ {theirs}, {ONE}", ratio(one_image, ours, theirs), at_most=at_most)
        for ours, theirs, at_most in aims
        if {ours, theirs} <= one_image.keys()
    ]


def comparisons(found: Times) -> dict[str, float]:
    """Ours ÷ theirs, by what the summary compares."""
    best, eager = fastest(found, ARTIFACTS), fastest(found, EAGER)
    pairs = {
        "best artifact ÷ timm → ONNX Runtime": (best, TIMM_ORT),
        "best artifact ÷ timm → OpenVINO": (best, TIMM_VINO),
        "fused predict ÷ timm, eager": (FUSED, eager),
        "fused predict ÷ timm, torch.compile": (FUSED, COMPILED),
        "SavedModel ÷ stock Keras'": (SAVED, STOCK),
    }
    return {
        text: ratio(found, ours, theirs)
        for text, (ours, theirs) in pairs.items()
        if ours is not None and theirs is not None and {ours, theirs} <= found.keys()
    }


Measured = dict[str, Times]  # by "network, measure"


def records(networks: Sequence[str], folder: pathlib.Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The pages of these networks, in this run or before."""
    paths = {network: folder / f"{page(network)}.json" for network in networks}
    return {network: json.loads(path.read_text("utf-8")) for network, path in paths.items() if path.exists()}


def remarks(found: dict[str, dict[str, Any]]) -> list[str]:
    """Those of the pages, each once; if there were several machines, which measured what."""
    lines = list(dict.fromkeys(remark for record in found.values() for remark in record["remarks"]))
    where = {
        machine: [n for n, record in found.items() if machines([record]) == [machine]]
        for machine in machines(found.values())
    }
    return lines + [f"Measured on {machine}: {', '.join(of_it)}." for machine, of_it in where.items() if len(where) > 1]


def targets(measured: Measured) -> list[Target]:
    """The means, over as many networks as have been measured."""
    ratios = {name: comparisons(found) for name, found in measured.items()}
    count = len({name.partition(",")[0] for name in measured})
    reached = []
    for text in next(iter(ratios.values()), {}):
        if text.startswith("SavedModel"):
            continue  # has targets of its own, by network
        values = {name: of_network[text] for name, of_network in ratios.items() if text in of_network}
        worst, most = max(values.items(), key=lambda item: item[1])
        mean = geometric_mean(list(values.values()))
        what = f"{text}, batch 1 and 8, geometric mean of {count} networks (the largest: {number(most)}, {worst})"
        reached.append(Target(what, mean, at_most=1.0, headline=True))
    return reached


def cells(measured: Measured) -> list[list[str]]:
    """Header and a row for each network and size of batch."""
    texts = list(dict.fromkeys(text for found in measured.values() for text in comparisons(found)))
    rows = [["", "best artifact, float32", "ms", f"{FUSED}, ms", *texts]]
    for name, found in measured.items():
        best, ratios = fastest(found, ARTIFACTS), comparisons(found)
        shown = ["–", "–"] if best is None else [best, number(statistics.median(found[best]))]
        shown.append(number(statistics.median(found[FUSED])) if FUSED in found else "–")
        rows.append([name, *shown, *(number(ratios[text]) if text in ratios else "–" for text in texts)])
    return rows


def bars(measured: Measured) -> Draw:
    """The ratios of the summary by network."""

    def draw(figure: Any) -> None:
        figure.set_size_inches(9, 1 + 0.45 * len(measured))
        panel = figure.subplots()
        texts = list(dict.fromkeys(text for found in measured.values() for text in comparisons(found)))
        for offset, text in enumerate(texts):
            ratios = {index: comparisons(found).get(text) for index, found in enumerate(measured.values())}
            places = [index + 0.15 * (offset - 2) for index, value in ratios.items() if value is not None]
            panel.barh(places, [value for value in ratios.values() if value is not None], 0.14, label=text)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set(xlabel="time of ours ÷ theirs: below 1 is faster", yticks=range(len(measured)))
        panel.set_yticklabels(measured)
        panel.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=3)

    return draw


def summarise(plan: Plan, folder: pathlib.Path = RESULTS) -> list[pathlib.Path]:
    """Writes the page over those of the ten networks that have pages, if any has."""
    found = records(TEN, folder)
    if not found:
        return []
    measured = {f"{n}, {m}": times(record, m) for n, record in found.items() for m in (ONE, EIGHT)}
    how = (
        "Ratios are ours ÷ theirs: below 1 is faster; the median over rounds, in which all take turns, each in its own process "
        "with the same cores and threads, of fastest call ÷ fastest call. Details on the page of each network. All compute in "
        "float32, and all but stock Keras' with the same weights; the logits of each were checked before it was timed."
    )
    record = {
        "environment": environment(plan),
        "machines": machines(found.values()),
        "ratios": {name: comparisons(found) for name, found in measured.items()},
    }
    title = "Inference on the CPU: the best exported artifact, and fused Keras"
    return write_page(
        "inference", title, cells(measured), how, record, targets(measured), remarks(found), bars(measured), folder
    )
