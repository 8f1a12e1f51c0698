"""Peak memory of training: ten networks beside timm, growth with batch and depth, involution, DenseNets that recompute."""

import argparse
import datetime
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks import memory_densenet, memory_growth, memory_involution
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import RESULTS, Plan, Summary, can_import, describe, environment
from benchmarks.memory_steps import BEFORE, PEAK, SIZE, STEPS
from benchmarks.networks import TEN
from benchmarks.options import (
    CHANNELS_LAST,
    CONTIGUOUS,
    TORCH_ENVIRONMENT,
    add_options,
    choose,
    chosen_plan,
    peers_missing,
)
from benchmarks.plot import Draw
from benchmarks.table import Target, spread, write_files, write_page

NAME, BATCH = "memory", 8
OURS, EFFICIENT, CHECKPOINTED = "keras_resnets", "keras_resnets, memory_efficient", "PyTorch, contiguous, checkpointed"
TORCH = (CONTIGUOUS, CHANNELS_LAST)
TITLE = f"Peak memory of training, batch {BATCH} at {SIZE}x{SIZE}, float32, CPU"
AT_MOST, EFFICIENT_AT_MOST = 1.10, 0.6

# Of one network: what `memory_steps` returned, by form, a record per round.
Figures = dict[str, list[dict[str, float]]]


def calls(network: str, torch: bool) -> dict[str, tuple[str, bool]]:
    """The function to call for each form, and whether in the peers' interpreter."""
    forms = {OURS: (f"keras_peak({network!r}, {BATCH})", False)}
    if network.startswith("densenet"):
        forms[EFFICIENT] = (f"keras_peak({network!r}, {BATCH}, memory_efficient=True)", False)
    if torch:
        for form in TORCH:
            forms[form] = (f"timm_peak({network!r}, {BATCH}, {form == CHANNELS_LAST})", True)
        if network.startswith("densenet"):
            forms[CHECKPOINTED] = (f"timm_peak({network!r}, {BATCH}, False, memory_efficient=True)", True)
    return forms


def growth(figures: Figures, form: str) -> Summary:
    """MiB by which the processes of a form grew at most."""
    return Summary.of([figure[PEAK] - figure[BEFORE] for figure in figures[form]])


def thriftier(figures: Figures) -> str | None:
    """PyTorch's memory format with the smaller growth; None if there is no PyTorch."""
    return min((form for form in TORCH if form in figures), key=lambda form: growth(figures, form).median, default=None)


def targets(networks: dict[str, Figures]) -> list[Target]:
    """Growth of ours per growth of timm's, in the memory format that takes less, network by network."""
    ratios, found = {}, []
    for network, figures in networks.items():
        if best := thriftier(figures):
            ratios[network] = growth(figures, OURS).median / growth(figures, best).median
            found.append(Target(f"{network}, ours ÷ timm ({best})", ratios[network], at_most=AT_MOST))
            if EFFICIENT in figures:
                measured = growth(figures, EFFICIENT).median / growth(figures, best).median
                found.append(Target(f"{network}, ours with memory_efficient ÷ timm, plain", measured,
                                    at_most=EFFICIENT_AT_MOST, headline=True))  # fmt: skip
    if ratios:
        worst = max(ratios, key=ratios.__getitem__)
        text = f"peak training memory, ours ÷ timm, the most of {len(ratios)} networks ({worst})"
        found.insert(0, Target(text, ratios[worst], at_most=AT_MOST, headline=True))
    return found


def table(networks: dict[str, Figures]) -> list[list[str]]:
    """A row for every network and form."""
    rows = [["", "", "growth, MiB", "ours ÷ it", "whole process, MiB", "ours ÷ it"]]
    for network, figures in networks.items():
        ours = growth(figures, OURS).median, _whole(figures, OURS).median
        for form in figures:
            grown, whole = growth(figures, form), _whole(figures, form)
            ratios = (f"{ours[0] / grown.median:.2f}", f"{ours[1] / whole.median:.2f}")
            rows.append([network, form, spread(grown), ratios[0], spread(whole), ratios[1]])
    return rows


def _whole(figures: Figures, form: str) -> Summary:
    return Summary.of([figure[PEAK] for figure in figures[form]])


def drawing(networks: dict[str, Figures]) -> Draw:
    """Growth by network and form."""

    def draw(figure: Any) -> None:
        panel, forms = figure.subplots(), (OURS, *TORCH)
        for place, form in enumerate(forms):
            rows = [(i, growth(f, form).median) for i, f in enumerate(networks.values()) if form in f]
            panel.bar([i + 0.27 * (place - 1) for i, _ in rows], [mib for _, mib in rows], 0.27, label=form)
        panel.set_xticks(range(len(networks)), list(networks), rotation=20, ha="right")
        panel.set(ylabel="growth, MiB", title=TITLE)
        panel.legend()

    return draw


def load(folder: pathlib.Path = RESULTS) -> dict[str, Any]:
    """What earlier runs found: by network when they finished and the figures."""
    try:
        return json.loads((folder / f"{NAME}.json").read_text("utf-8"))["networks"]
    except (OSError, KeyError, ValueError):
        return {}


def is_recent(record: dict[str, Any] | None, hours: float) -> bool:
    """Whether a network's record was made within so many hours."""
    if record is None:
        return False
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(record["finished"])
    return age < datetime.timedelta(hours=hours)


def write(records: dict[str, Any], plan: Plan, missing: Sequence[str], folder: pathlib.Path = RESULTS) -> None:
    """Writes the page of all networks measured so far."""
    networks = {network: records[network]["figures"] for network in TEN if network in records}
    surroundings = environment(plan)
    how = (
        f"Each figure is of a fresh process that takes {STEPS} train steps (forward, backward, SGD with momentum): the high-water "
        "mark of its resident memory (VmHWM). Growth is that mark less what the process occupied when network and images were "
        "there and no step had been taken: it holds activations, gradients, the optimizer's state and, for TensorFlow, the graph "
        "and its compilation. The targets are about growth, since the rest is the frameworks' libraries, which do not depend on "
        "the network; the whole process is beside it. Median (smallest–largest) of "
        f"{plan.rounds} processes with {plan.threads} threads. {describe(surroundings)}."
    )
    record = {"environment": surroundings, "networks": {network: records[network] for network in networks}}
    draw = drawing(networks)
    write_page(NAME, TITLE, table(networks), how, record, targets(networks), missing, draw, folder)


def measure(networks: Sequence[str], options: argparse.Namespace) -> None:
    """Networks one by one; what is finished is kept at once."""
    from rich.progress import track

    plan, records = chosen_plan(options), load()
    # timm imports torchvision, which may need help, see `torchvision_cpu`.
    with_timm = can_import(options.peers_python, "benchmarks.torchvision_cpu, timm")
    missing = [] if with_timm else peers_missing(options.peers_python, "torch", "timm")
    for network in networks:
        if is_recent(records.get(network), options.newer):
            continue
        forms = calls(network, torch=with_timm)
        figures: Figures = {form: [] for form in forms}
        turns = [(form, *forms[form]) for _ in range(plan.rounds) for form in forms]
        for form, call, by_peer in track(turns, network):
            where: dict[str, Any] = (
                {"python": options.peers_python, "environment": TORCH_ENVIRONMENT} if by_peer else {}
            )
            figures[form].append(in_fresh_process("memory_steps", call, plan.threads, **where))
        records[network] = {"finished": environment(plan)["finished"], "figures": figures}
        kept = {"environment": environment(plan), "networks": records}
        write_files(NAME, {".json": json.dumps(kept, indent=1) + "\n"})
    write(records, plan, missing)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK",
                        help=f"of {', '.join(TEN)} (default: all, and the other parts of the suite)")  # fmt: skip
    add_options(parser, Plan(rounds=2, seconds=0, warm_up_seconds=0))
    options = parser.parse_args(arguments)
    measure(choose(options.networks, TEN, parser), options)
    if not options.networks:
        for part in (memory_growth, memory_involution, memory_densenet):
            part.measure_all(options)
