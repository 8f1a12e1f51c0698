"""The train step's pages: who takes part, what is aimed at, and the summary over all networks."""

import json
import math
import pathlib
import xml.etree.ElementTree

import keras
import pytest

from benchmarks import stock, train_step, train_step_page
from benchmarks.harness import Comparison, Plan, describe_machine, environment
from benchmarks.networks import TEN
from benchmarks.options import CHANNELS_LAST, CONTIGUOUS
from benchmarks.train_step_page import GROUPED, OURS, STEP, STOCK
from keras_resnets.costs import without_values

PLAN = Plan(rounds=2, seconds=0.0, warm_up_seconds=0.0, threads=1)


def comparison(**milliseconds: list[float]) -> Comparison:
    """One call per round."""
    names = {"ours": OURS, "contiguous": CONTIGUOUS, "channels_last": CHANNELS_LAST, "stock": STOCK}
    times = {names[name]: {STEP: [[call] for call in calls]} for name, calls in milliseconds.items()}
    return Comparison(times, {name: {} for name in times}, environment(PLAN))


def test_the_ten_networks_have_every_rival() -> None:
    assert set(TEN) <= set(train_step.NETWORKS)
    assert {name for name, row in train_step.NETWORKS.items() if row.stock} == set(stock.NETWORKS) >= set(TEN)
    assert all(train_step.NETWORKS[name].torch == "timm" for name in TEN)


@pytest.mark.parametrize("name", TEN)
def test_stock_is_slow_where_convolutions_are_grouped(name: str) -> None:
    with without_values():
        layers = stock.NETWORKS[name]((96, 96, 3)).layers
    grouped = any(isinstance(layer, keras.layers.Conv2D) and layer.groups > 1 for layer in layers)
    assert grouped == (train_step.NETWORKS[name].stock == "slow") == (name in GROUPED)


def test_slow_contenders_take_part_in_few_rounds() -> None:
    ours, slow = train_step.contenders("resnext50_32x4d", [], stock_rounds=1)
    assert (ours.rounds, slow.rounds) == (None, 1)
    assert [row.rounds for row in train_step.contenders("resnet50", [], stock_rounds=1)] == [None, None]
    assert [row.name for row in train_step.contenders("rednet50", [], stock_rounds=1)] == [OURS]


def test_targets_of_a_network() -> None:
    measured = comparison(ours=[10, 12], contiguous=[20, 20], channels_last=[10, 10], stock=[400])
    torch, stock_keras = train_step.targets("resnext50_32x4d", measured)
    assert CHANNELS_LAST in torch.text and torch.measured == pytest.approx(1.1) and not torch.met
    assert stock_keras.measured == pytest.approx(0.025) and stock_keras.at_most == 0.05 and stock_keras.met
    (only,) = train_step.targets("resnet50", comparison(ours=[9, 9], stock=[10, 10]))
    assert only.measured == pytest.approx(0.9) and only.at_most == 0.85 and not only.met
    assert train_step.targets("hardnet68", comparison(ours=[9, 9])) == []


def write_page(folder: pathlib.Path, network: str, missing: str = "", **milliseconds: list[float]) -> None:
    measured = comparison(**milliseconds)
    rounds = {
        name: {STEP: [{"fastest": turn[0], "median": turn[0]} for turn in turns[STEP]]}
        for name, turns in measured.times.items()
    }
    record = {
        "environment": measured.environment,
        "milliseconds_by_round": rounds,
        "remarks": [missing] if missing else [],
    }
    (folder / f"{train_step_page.page(network)}.json").write_text(json.dumps(record))


def test_summary(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, to plot")
    write_page(tmp_path, "resnet50", ours=[80, 160], contiguous=[160, 320], channels_last=[100, 200], stock=[100, 200])
    write_page(
        tmp_path, "resnext50_32x4d", ours=[100, 90], contiguous=[200, 200], channels_last=[400, 400], stock=[4000]
    )
    write_page(tmp_path, "dpn92", "Missing here: timm.", ours=[100, 100])
    write_page(tmp_path, "rednet50", ours=[100, 100], contiguous=[1, 1])  # none of the ten: in no target
    written = train_step_page.summarise(list(train_step.NETWORKS), PLAN, tmp_path)
    assert [path.name for path in written] == ["train_step.md", "train_step.json", "train_step.svg"]
    lines = written[0].read_text("utf-8").splitlines()
    assert lines[4] == "| resnet50 | 120 | 0.5 (0.5–0.5) | 0.8 (0.8–0.8) | 0.8 (0.8–0.8) |"
    assert lines[5] == "| resnext50_32x4d | 95 | 0.475 (0.45–0.5) | 0.237 (0.225–0.25) | 0.025 (0.025–0.025) |"
    assert lines[6] == "| dpn92 | 100 | – | – | – |"
    assert lines[-1] == "* Missing here: timm."
    record = json.loads(written[1].read_text("utf-8"))
    mean, worst, grouped, others = record["targets"]
    assert mean["measured"] == pytest.approx(math.sqrt(0.8 * 0.475)) and "2 of the 10 networks" in mean["text"]
    assert worst["measured"] == pytest.approx(0.8) and "resnet50" in worst["text"] and worst["met"]
    assert grouped["measured"] == pytest.approx(0.025) and grouped["at_most"] == 0.05
    assert others["measured"] == pytest.approx(0.8) and others["at_most"] == 0.85
    assert all(target["headline"] for target in record["targets"])
    assert record["machines"] == [describe_machine(record["environment"])]
    assert record["ratios"]["resnet50"] == {CONTIGUOUS: 0.5, CHANNELS_LAST: 0.8, STOCK: 0.8}
    assert xml.etree.ElementTree.parse(written[2]).getroot().tag.endswith("svg")


def test_unknown_networks_and_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["resnet51"], "not 'resnet51'"), (["--stock-rounds", "0"], "at least 1, not 0")):
        with pytest.raises(SystemExit):
            train_step.main(arguments)
        assert message in capsys.readouterr().err
