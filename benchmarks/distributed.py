"""What a strategy of tf.distribute costs on this machine: one, two and four replicas or workers, at the same global batch.

Everybody trains with the program's own step (`training.step`) on the same processor cores, so nothing can get faster; what is
measured is what replicas and workers add to the step of one device.
"""

import argparse
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import ROOT, Comparison, Contender, Plan, compare
from benchmarks.options import add_options, chosen_plan, measured_lately
from benchmarks.table import Target, by_round, how_measured, spread, write_page

STEP = "train step"
NAME = "distributed"
HERE = "benchmarks.distributed"
TITLE = "A train step on one device and under strategies of tf.distribute, the same global batch, float32, CPU"
ALONE = "one device, no strategy"


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a network is trained here.

    Attributes:
        batch: images of a step, over all replicas.
        size: their side in pixels.
    """

    batch: int
    size: int


NETWORKS = {"resnet50": Setting(8, 128), "resnet20_cifar": Setting(64, 32)}
COUNTS = (1, 2, 4)


def use_core(number: int) -> None:
    """Keeps this process, in which TensorFlow has not run yet, to one of its cores and one thread."""
    import tensorflow as tf

    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    tf.config.threading.set_intra_op_parallelism_threads(1)


def make_step(network: str, kind: str, replicas: int = 1, parts: int = 1) -> Callable[[], Any]:
    """A train step of this process, under the strategy that `kind` names.

    Args:
        network: of `NETWORKS`.
        kind: "none", "mirrored" or "multiworker"; the latter takes the other processes from TF_CONFIG.
        replicas: of this process.
        parts: that the batch is computed in, one after the other.
    """
    import tensorflow as tf

    from benchmarks.train_loop import Setting as Length
    from benchmarks.train_loop import make_data, make_recipe
    from training.loop import make_trainer
    from training.strategy import Place, open_strategy

    if kind == "multiworker":
        place = Place(tf.distribute.MultiWorkerMirroredStrategy())
    else:
        place = open_strategy(kind, devices=replicas if kind == "mirrored" else 0)
    setting = NETWORKS[network]
    length = Length(setting.size, setting.batch, 1)
    recipe = dataclasses.replace(make_recipe(network, length), accumulate=parts)
    data = make_data(length, 1)
    strategy = place.strategy
    share = setting.batch // strategy.num_replicas_in_sync
    with strategy.scope():
        trainer = make_trainer(recipe, data)
        images = tf.random.stateless_normal((share, setting.size, setting.size, 3), (1, 2))
        labels = tf.one_hot(tf.range(share) % len(data.class_names), len(data.class_names))
    if kind == "none":
        batch = images, labels
    else:
        batch = tuple(
            strategy.experimental_distribute_values_from_function(lambda context, value=value: value)
            for value in (images, labels)
        )
    wish = tf.constant(0.0)
    return lambda: trainer.train(*batch, wish).numpy()


def measures(
    network: str, kind: str, replicas: int = 1, parts: int = 1, one_core: bool = False
) -> dict[str, Callable[[], Any]]:
    """The step of a single process."""
    if one_core:
        use_core(0)
    return {STEP: make_step(network, kind, replicas, parts)}


def worker_measures(network: str, workers: int, own_core: bool = False) -> dict[str, Callable[[], Any]]:
    """The step of several processes: this one, which is timed, and others that it starts and that step whenever it does.

    With `own_core` they have one core and one thread each, otherwise they share all.
    """
    if workers == 1:
        return measures(network, "multiworker")
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    others = [
        subprocess.Popen(
            [sys.executable, "-c", f"from {HERE} import follow; follow({network!r}, {number if own_core else None})"],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, env={**os.environ, "TF_CONFIG": cluster(addresses, number)},
        )
        for number in range(1, workers)
    ]  # fmt: skip
    os.environ["TF_CONFIG"] = cluster(addresses, 0)
    if own_core:
        use_core(0)
    step = make_step(network, "multiworker")

    def together() -> Any:
        for other in others:
            assert other.stdin is not None
            other.stdin.write("step\n")
            other.stdin.flush()
        return step()

    return {STEP: together}


def follow(network: str, core: int | None) -> None:
    """Steps once for every line on standard input; ends with it, that is, with the process that writes there."""
    if core is not None:
        use_core(core)
    step = make_step(network, "multiworker")
    for _ in sys.stdin:
        step()


def cluster(addresses: Sequence[str], number: int) -> str:
    """TF_CONFIG of a worker."""
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": number}})


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    opened = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in opened]
    for each in opened:
        each.close()
    return ports


def rows(network: str) -> dict[str, list[Contender]]:
    """What is compared: replicas of a process, and processes; apart, since memory is too short for all at once."""

    def row(name: str, target: str, **arguments: Any) -> Contender:
        return Contender(name, f"{HERE}:{target}", {"network": network, **arguments})

    alone = [row(in_parts(n), "measures", kind="none", parts=n) for n in COUNTS]
    return {
        "replicas": [
            *alone,
            *(row(mirrored(n), "measures", kind="mirrored", replicas=n) for n in COUNTS),
        ],
        "workers": [
            *alone,
            row("one device, one core", "measures", kind="none", one_core=True),
            *(row(multiworker(n), "worker_measures", workers=n) for n in COUNTS),
            row(f"{multiworker(2)}, a core each", "worker_measures", workers=2, own_core=True),
        ],
    }


def in_parts(parts: int) -> str:
    """Name of a row."""
    return ALONE if parts == 1 else f"one device, the batch in {parts} parts"


def mirrored(replicas: int) -> str:
    """Name of a row."""
    return f"MirroredStrategy, {replicas} replica" + "s" * (replicas > 1)


def multiworker(workers: int) -> str:
    """Name of a row."""
    return f"MultiWorkerMirroredStrategy, {workers} worker" + "s" * (workers > 1)


Measured = dict[str, list[Comparison]]  # of every network


def cells(measured: Measured) -> list[list[str]]:
    """Header and rows."""
    found = [["network (batch, size)", "", f"{STEP}, ms", f"÷ {ALONE}", "÷ one device, in as many parts"]]
    same_parts = {kind(n): in_parts(n) for n in COUNTS for kind in (mirrored, multiworker)}
    for network, comparisons in measured.items():
        setting = NETWORKS[network]
        for comparison in comparisons:
            for name in comparison.times:
                row = [f"{network} ({setting.batch}, {setting.size})", name, spread(comparison.time(name, STEP))]
                for reference in (ALONE, same_parts.get(name)):
                    row.append(spread(comparison.ratio(name, reference, STEP)) if reference else "–")
                found.append(row)
    return found


def targets(measured: Measured) -> list[Target]:
    """What the traffic of the additional copies of ResNet-50's weights should cost, see docs/performance.md."""
    found = []
    for comparison in measured["resnet50"]:
        for kind in (mirrored, multiworker):
            for count, bound in zip(COUNTS, (1.05, 1.1, 1.25), strict=True):
                if kind(count) in comparison.times:
                    ratio = comparison.ratio(kind(count), in_parts(count), STEP).median
                    found.append(Target(f"resnet50, {kind(count)} ÷ {in_parts(count)}", ratio, at_most=bound))
    return found


def plot(figure: Any, measured: Measured) -> None:
    """A panel for each network: the ratios to one device with their ranges."""
    figure.set_size_inches(11, 5)
    for panel, (network, comparisons) in zip(
        figure.subplots(1, len(measured), sharey=True), measured.items(), strict=True
    ):
        ratios = {name: each.ratio(name, ALONE, STEP) for each in comparisons for name in each.times}
        ends = [[r.median - r.low for r in ratios.values()], [r.high - r.median for r in ratios.values()]]
        panel.barh(list(ratios), [r.median for r in ratios.values()], xerr=ends)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set(title=network, xlabel=f"time of a step ÷ {ALONE}")
    panel.invert_yaxis()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.run {NAME}", description=__doc__.splitlines()[0])
    add_options(parser, Plan(rounds=5, seconds=1.0, warm_up_seconds=1.0))
    options = parser.parse_args(arguments)
    if measured_lately(NAME, options):
        return
    measured: Measured = {}
    for network in NETWORKS:
        print(network)
        measured[network] = [compare(group, chosen_plan(options)) for group in rows(network).values()]
    last = measured[network][-1]
    times = {network: [by_round(comparison) for comparison in each] for network, each in measured.items()}
    record = {"environment": last.environment, "versions": last.versions, "milliseconds_by_round": times}
    text = how_measured(last, ALONE) + (
        " The step is that of `training.train` on a batch that is there already. Replicas are logical devices of the processor, "
        "workers are processes; all share the same cores. A step of several workers ends when the first of them is done."
    )
    write_page(NAME, TITLE, cells(measured), text, record, targets(measured), (), lambda figure: plot(figure, measured))
