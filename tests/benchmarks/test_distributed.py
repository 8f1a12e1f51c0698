"""The suite on strategies: its processes step together, and its page."""

import io
import json
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks import distributed
from benchmarks.distributed import ALONE, NETWORKS, STEP, Setting, in_parts, mirrored, multiworker
from benchmarks.harness import Comparison, Plan, environment
from benchmarks.table import write_page

pytest.importorskip("tensorflow", reason="the suite times TensorFlow")


class Follower:
    """A process that is not started."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.environment, self.stdin = command, options["env"], io.StringIO()


def test_every_step_is_one_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Follower] = []

    def start(*arguments: Any, **options: Any) -> Follower:
        started.append(Follower(*arguments, **options))
        return started[-1]

    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.setattr(distributed.subprocess, "Popen", start)
    monkeypatch.setattr(distributed, "make_step", lambda network, kind: lambda: (network, kind))
    step = distributed.worker_measures("resnet50", 3)[STEP]
    assert step() == step() == ("resnet50", "multiworker")
    assert [follower.stdin.getvalue() for follower in started] == ["step\nstep\n"] * 2
    clusters = [json.loads(distributed.os.environ["TF_CONFIG"])]
    clusters += [json.loads(follower.environment["TF_CONFIG"]) for follower in started]
    assert [cluster["task"] for cluster in clusters] == [{"type": "worker", "index": number} for number in range(3)]
    assert len({json.dumps(cluster["cluster"]) for cluster in clusters}) == 1
    assert len(set(clusters[0]["cluster"]["worker"])) == 3


def test_a_follower_steps_once_per_line(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(distributed, "make_step", lambda network, kind: lambda: steps.append(network))
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\nstep\nstep\n"))
    distributed.follow("resnet50", None)
    assert steps == ["resnet50"] * 3


def test_the_step_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own step, on one device, in one part and in two."""
    from training import step

    made = []
    monkeypatch.setattr(
        step.Trainer, "_apply", lambda self, gradients: made.append((self, [*map(np.shape, gradients)]))
    )
    monkeypatch.setitem(NETWORKS, "resnet20_cifar", Setting(4, 8))
    for parts in (1, 2):
        distributed.make_step("resnet20_cifar", "none", parts=parts)()
    assert [trainer.recipe.accumulate for trainer, _ in made] == [1, 2]
    assert [trainer.recipe.batch_size for trainer, _ in made] == [4, 4]
    assert made[0][1] == made[1][1] == [variable.shape for variable in made[0][0].network.trainable_variables]


def test_page(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="draws a picture")
    measured = {}
    for network in NETWORKS:
        groups = [[contender.name for contender in group] for group in distributed.rows(network).values()]
        assert [group[:3] for group in groups] == [[ALONE, in_parts(2), in_parts(4)]] * 2
        measured[network] = [
            Comparison(
                {name: {STEP: [[100.0 + 10 * place]]} for place, name in enumerate(group)},
                {ALONE: {}},
                environment(Plan()),
            )
            for group in groups
        ]
    targets = {target.text: target for target in distributed.targets(measured)}
    assert len(targets) == 6
    # Places among the rows: one device in one, two and four parts, then one, two, four replicas; workers after one core.
    assert targets[f"resnet50, {mirrored(1)} ÷ {ALONE}"].measured == pytest.approx(1.3)
    assert targets[f"resnet50, {mirrored(4)} ÷ {in_parts(4)}"].measured == pytest.approx(1.5 / 1.2)
    assert targets[f"resnet50, {multiworker(2)} ÷ {in_parts(2)}"].measured == pytest.approx(1.5 / 1.1)
    table = distributed.cells(measured)
    assert table[1] == ["resnet50 (8, 128)", ALONE, "100 (100–100)", "1 (1–1)", "–"]
    assert table[6][3:] == ["1.5 (1.5–1.5)", "1.25 (1.25–1.25)"]
    files = write_page("x", distributed.TITLE, table, "", {}, list(targets.values()), (),
                       lambda figure: distributed.plot(figure, measured), tmp_path)  # fmt: skip
    assert [file.suffix for file in files] == [".md", ".json", ".svg"]


@pytest.mark.parametrize("network", NETWORKS)
def test_batches_can_be_cut(network: str) -> None:
    assert all(NETWORKS[network].batch % count == 0 for count in distributed.COUNTS)
