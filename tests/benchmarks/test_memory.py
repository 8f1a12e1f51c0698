"""The suite `memory`: what a process's memory is, what is compared with what, and that both sides take the same step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fresh, memory, memory_densenet, memory_growth, memory_involution
from benchmarks.harness import Plan

PLAN = Plan(rounds=2, seconds=0.0, warm_up_seconds=0.0, threads=1)
BEFORE, PEAK = memory.BEFORE, memory.PEAK


def figures(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{BEFORE: before, PEAK: peak} for before, peak in pairs]


@pytest.fixture
def networks() -> dict[str, memory.Figures]:
    return {
        "resnet50": {
            memory.OURS: figures((900, 2000), (900, 2200), (900, 2100)),
            memory.CONTIGUOUS: figures((400, 1400), (400, 1400), (400, 1400)),
            memory.CHANNELS_LAST: figures((400, 1600), (400, 1600), (400, 1600)),
        },
        "densenet121": {
            memory.OURS: figures((900, 2000)),
            memory.EFFICIENT: figures((900, 1400)),
            memory.CONTIGUOUS: figures((400, 1500)),
            memory.CHANNELS_LAST: figures((400, 1400)),
            memory.CHECKPOINTED: figures((400, 1000)),
        },
    }


# In a process of its own: one that has freed gigabytes hands out memory that it already occupies.
GROWING = """
import numpy as np
from benchmarks import fresh, memory_steps
before = fresh.status("VmRSS")
block = np.ones(64 * fresh.MIB, "uint8")
print((fresh.status("VmRSS") - before) / fresh.MIB)
np.ones(256 * fresh.MIB, "uint8")  # before the steps: does not count
print(*memory_steps._peak(lambda: np.ones(128 * fresh.MIB, "uint8")).values())
"""


def test_memory_is_that_of_the_process() -> None:
    """What it has grown by, and the peak of the steps alone."""
    done = subprocess.run([sys.executable, "-c", GROWING], cwd=fresh.ROOT, capture_output=True, text=True, check=True)
    growth, before, peak = map(float, done.stdout.split())
    assert growth == pytest.approx(64, rel=0.25)
    assert peak - before == pytest.approx(128, rel=0.2)


def test_growth_is_compared_with_the_thriftier_memory_format(networks: dict[str, memory.Figures]) -> None:
    assert memory.thriftier(networks["resnet50"]) == memory.CONTIGUOUS
    assert memory.thriftier(networks["densenet121"]) == memory.CHANNELS_LAST
    assert memory.thriftier({memory.OURS: figures((1, 2))}) is None
    worst, resnet, densenet, efficient = memory.targets(networks)
    # Growth: 1200 ÷ 1000; 1100 ÷ 1000; with recomputation 500 ÷ 1000.
    assert (resnet.measured, densenet.measured) == pytest.approx((1.2, 1.1))
    assert worst.measured == resnet.measured and "resnet50" in worst.text and worst.headline and not worst.met
    assert efficient.measured == pytest.approx(0.5) and efficient.at_most == 0.6 and efficient.headline


def test_without_pytorch_nothing_is_compared(networks: dict[str, memory.Figures]) -> None:
    ours = {name: {memory.OURS: forms[memory.OURS]} for name, forms in networks.items()}
    assert memory.targets(ours) == []
    assert len(memory.table(ours)) == 3


def test_page_and_resumption(networks: dict[str, memory.Figures], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, to plot")
    finished = memory.environment(PLAN)["finished"]
    memory.write({n: {"finished": finished, "figures": f} for n, f in networks.items()}, PLAN, ["a line"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory.json", "memory.md", "memory.svg"]
    lines = (tmp_path / "memory.md").read_text("utf-8").splitlines()
    assert "| resnet50 | PyTorch, contiguous | 1,000 (1,000–1,000) | 1.20 | 1,400 (1,400–1,400) | 1.50 |" in lines
    assert lines[-1] == "* a line"
    kept = memory.load(tmp_path)
    assert kept["resnet50"]["figures"] == networks["resnet50"]
    assert memory.is_recent(kept["resnet50"], 1) and not memory.is_recent(kept["resnet50"], 0)
    assert not memory.is_recent(None, 1) and memory.load(tmp_path / "nowhere") == {}


def test_every_network_has_both_memory_formats() -> None:
    forms = memory.calls("densenet121", torch=True)
    assert list(forms) == [memory.OURS, memory.EFFICIENT, *memory.TORCH, memory.CHECKPOINTED]
    assert [by_peer for _, by_peer in forms.values()] == [False, False, True, True, True]
    assert list(memory.calls("resnet50", torch=False)) == [memory.OURS]


def test_line_and_slope() -> None:
    assert memory_growth.line([(1, 5), (2, 7), (4, 11)]) == pytest.approx((2, 3))
    assert memory_growth.log_slope([(1, 3), (2, 12), (4, 48)]) == pytest.approx(2)


def test_growth_targets_are_of_ours() -> None:
    series = {
        (memory_growth.BATCH, memory_growth.OURS): [(2.0, 200.0), (4.0, 300.0), (8.0, 500.0)],
        (memory_growth.BATCH, memory.CHANNELS_LAST): [(2.0, 100.0), (4.0, 200.0), (8.0, 400.0)],
    }
    (target,) = memory_growth.targets(series)
    assert 0.5 < target.measured < 1 and target.met
    assert memory_growth.table(series)[1][3:5] == ["50", "100"]


def test_a_train_step_of_ours_is_measured() -> None:
    found = fresh.in_fresh_process("memory_steps", "keras_peak('resnet20_cifar', batch=2, size=32)", threads=1)
    assert 0 < found[BEFORE] <= found[PEAK]


def test_involution_is_compared_with_the_thriftier_naive_form() -> None:
    part = memory_involution
    peaks = {part.OURS: [30.0, 20.0, 100.0], part.EXTRACTED: [200.0] * 3, part.STACKED: [100.0, 90.0, 110.0]}
    measured = part.Measured({(1, 2, 3, 4): peaks}, PLAN)
    (target,) = measured.targets()
    assert target.measured == pytest.approx(0.3) and target.met and "stacked slices" in target.text
    assert measured.table()[1] == [part.OURS, "30 (20–100)"]


def test_densenets_are_compared_turn_by_turn() -> None:
    part = memory_densenet
    plain = [
        {part.GROWTH: 100.0, part.PROCESS: 200.0, part.STEP: 1.0},
        {part.GROWTH: 50.0, part.PROCESS: 1.0, part.STEP: 2.0},
    ]
    efficient = [
        {part.GROWTH: 40.0, part.PROCESS: 100.0, part.STEP: 1.2},
        {part.GROWTH: 30.0, part.PROCESS: 1.0, part.STEP: 2.0},
    ]
    measured = part.Measured({"densenet121": {"plain": plain, "memory_efficient": efficient}}, PLAN)
    memory_target, time_target = measured.targets()
    assert memory_target.measured == pytest.approx(0.5) and not memory_target.met
    assert time_target.measured == pytest.approx(1.1) and time_target.met
    assert json.loads(json.dumps(measured.figures))
