"""The benchmark harness: its statistics, tables, processes; and that the opponents are the networks they claim to be."""

import json
import math

import keras
import numpy as np
import pytest

from benchmarks import memory, stock
from benchmarks.harness import Comparison, Contender, Plan, Summary, compare, environment
from benchmarks.table import Target, number, write

PLAN = Plan(rounds=2, seconds=0.0, warm_up_seconds=0.0, threads=1)


@pytest.fixture
def comparison() -> Comparison:
    times = {
        "ours": {"step": [[10.0, 12.0, 30.0], [20.0], [40.0, 44.0]]},
        "stock": {"step": [[200.0, 230.0], [1000.0]]},
    }
    return Comparison(times, {"ours": {"keras": "3.0"}, "stock": {"keras": "3.0"}}, environment(PLAN))


def test_time_is_over_all_calls(comparison: Comparison) -> None:
    assert comparison.time("ours", "step") == Summary(median=25.0, low=10.0, high=44.0, count=6)


def test_ratio_pairs_the_fastest_calls_of_common_rounds(comparison: Comparison) -> None:
    # Rounds 1 and 2: 200 / 10 and 1000 / 20. Round 3 is ours alone.
    assert comparison.ratio("stock", "ours", "step") == Summary(median=35.0, low=20.0, high=50.0, count=2)


def test_fastest_is_by_median(comparison: Comparison) -> None:
    assert comparison.fastest(["stock", "ours"], "step") == "ours"


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (1.0, "1"), (12.34, "12.3"), (123.4, "123"), (17548.0, "17,548")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_targets_say_whether_they_are_met() -> None:
    assert str(Target("speed-up", 35.0, at_least=20)) == "speed-up: 35 (target: at least 20; met)"
    assert "MISSED" in str(Target("speed-up", 19.9, at_least=20))
    assert "MISSED" in str(Target("slow-down", 1.4, at_most=1.3))


def test_written_table(comparison: Comparison, tmp_path) -> None:
    comparison.times["other"] = {}
    written = write("x", "A title", comparison, "ours", ["a remark"], tmp_path)
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.md"] == sorted(path.name for path in written)
    )
    lines = (tmp_path / "x.md").read_text("utf-8").splitlines()
    assert lines[0] == "# A title"
    assert lines[2:7] == [
        "|  | step, ms | ÷ ours |",
        "| --- | --- | --- |",
        "| ours | 25 (10–44) | 1 (1–1) |",
        "| stock | 230 (200–1,000) | 35 (20–50) |",
        "| other | – | – |",
    ]
    assert lines[-1] == "* a remark"
    record = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert record["milliseconds_by_round"]["ours"]["step"][0] == {"fastest": 10.0, "median": 12.0, "calls": 3}


MODULE = """
import os, time
def sleeper(seconds):
    print("frameworks print")
    return {"sleep": lambda: time.sleep(seconds * float(os.environ["FACTOR"]))}
def broken():
    raise ArithmeticError("no such thing")
"""


def test_contenders_take_turns_in_processes_of_their_own(tmp_path) -> None:
    (tmp_path / "contenders.py").write_text(MODULE)
    surroundings = {"PYTHONPATH": str(tmp_path), "FACTOR": "10"}
    quick = Contender("quick", "contenders:sleeper", {"seconds": 0.0005}, environment=surroundings)
    slow = Contender("slow", "contenders:sleeper", {"seconds": 0.01}, environment=surroundings, rounds=1)
    result = compare([quick, slow], PLAN)
    assert [len(result.times[name]["sleep"]) for name in ("quick", "slow")] == [2, 1]
    assert result.time("quick", "sleep").low >= 5
    assert result.time("slow", "sleep").low >= 100
    assert "python" in result.versions["slow"]


def test_a_contender_that_fails_is_reported(tmp_path) -> None:
    (tmp_path / "contenders.py").write_text(MODULE)
    contender = Contender("hopeless", "contenders:broken", environment={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(RuntimeError, match=r"(?s)hopeless stopped with exit code 1.*no such thing"):
        compare([contender], PLAN)


# Trainable parameters: torchvision's resnet50 and resnext50_32x4d, timm's resnest50d and resnest50d_4s2x40d.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", 25_557_032),
        ("resnext50_32x4d", 25_028_904),
        ("resnest50d", 27_483_240),
        ("resnest50d_4s2x40d", 30_417_592),
    ],
)
def test_stock_network_is_the_same_network(name: str, parameters: int) -> None:
    with keras.StatelessScope():
        network = stock.NETWORKS[name]((64, 64, 3))
    assert sum(math.prod(variable.shape) for variable in network.trainable_variables) == parameters
    assert network.output_shape == (None, 1000)


# Published by the authors, in millions: 9.23 and 15.54 (arXiv 2103.06255).
@pytest.mark.parametrize(("name", "parameters"), [("rednet26", 9_233_166), ("rednet50", 15_540_806)])
def test_pytorch_rednet_is_the_same_network(name: str, parameters: int) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, to compare with")
    from benchmarks.torch_rednet import create_model

    network = create_model(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_pytorch_involution_filters_every_pixel_with_its_kernel() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, to compare with")
    from benchmarks.torch_rednet import Involution

    layer = Involution(32, kernel_size=3)
    torch.nn.init.zeros_(layer.span.weight)
    # Without weights the kernels are the biases: the left neighbour in the first group, twice the pixel itself in the second.
    bias = torch.zeros(2, 9)
    bias[0, 3], bias[1, 4] = 1, 2
    layer.span.bias.data = bias.flatten()
    x = torch.arange(32 * 16.0).reshape(1, 32, 4, 4)
    y = layer(x)
    assert torch.equal(y[:, :16, :, 1:], x[:, :16, :, :-1])
    assert not y[:, :16, :, 0].any()
    assert torch.equal(y[:, 16:], 2 * x[:, 16:])


def test_naive_involution_filters_every_pixel_with_its_kernel() -> None:
    from benchmarks.naive_involution import NaiveInvolution, extracted, stacked

    x = np.arange(16 * 32.0, dtype="float32").reshape(1, 4, 4, 32)
    for patches in (extracted, stacked):
        layer = NaiveInvolution(3, patches)
        layer.build(x.shape)
        kernel, bias = layer.kernels.layers[-1].weights
        # Without weights the kernels are the biases: the left neighbour in the first group, twice the pixel itself in the second.
        kernel.assign(np.zeros(kernel.shape))
        taps = np.zeros((9, 2))
        taps[3, 0], taps[4, 1] = 1, 2
        bias.assign(taps.flatten())
        y = layer(x).numpy()
        np.testing.assert_array_equal(y[:, :, 1:, :16], x[:, :, :-1, :16])
        assert not y[:, :, 0, :16].any()
        np.testing.assert_array_equal(y[..., 16:], 2 * x[..., 16:])


def test_memory_is_that_of_the_process() -> None:
    before = memory.status("VmRSS")
    block = np.ones(64 * memory.MIB, "uint8")
    assert memory.status("VmRSS") - before == pytest.approx(block.nbytes, rel=0.25)
    assert memory.status("VmHWM") >= memory.status("VmRSS")


def test_memory_is_compared_with_the_thriftier_naive_form() -> None:
    peaks = {memory.OURS: [30.0, 20.0, 100.0], memory.EXTRACTED: [200.0] * 3, memory.STACKED: [100.0, 90.0, 110.0]}
    measured = memory.Measured({(1, 2, 3, 4): peaks}, PLAN)
    (target,) = measured.targets()
    assert target.measured == pytest.approx(0.3) and target.met and "stacked slices" in target.text
    assert f"| {memory.OURS} | 30 (20–100) |" in measured.markdown().splitlines()
    assert json.loads(measured.json())["mebibytes_by_round"]["1x2x3x4"][memory.OURS] == peaks[memory.OURS]
