"""The benchmark harness: its statistics, tables, processes; and that the opponents are the networks they claim to be."""

import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from benchmarks import gpu, stock
from benchmarks.gpu_page import Page, Part
from benchmarks.harness import ROOT, Comparison, Contender, Plan, Summary, compare, environment
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


@pytest.mark.parametrize(
    ("measured", "at_most", "shown"),
    [
        (1.05, 1.05, "1.05"),
        (1.0549, 1.05, "1.055"),
        (1.05001, 1.05, "1.05001"),
        (1.249, 1.25, "1.25"),
        (100.4, 100, "100.4"),
    ],
)
def test_a_missed_number_never_looks_met(measured: float, at_most: float, shown: str) -> None:
    assert Target("slope", measured, at_most=at_most).shown == shown


def test_written_table(comparison: Comparison, tmp_path) -> None:
    comparison.times["other"] = {}
    target = Target("stock ÷ ours", 35.0, at_least=20)
    written = write("x", "A title", comparison, "ours", [target], ["a remark"], tmp_path)
    assert [path.name for path in written] == ["x.md", "x.json", "x.svg"]
    assert {path.name for path in tmp_path.iterdir()} == {"x.md", "x.json", "x.svg"}
    lines = (tmp_path / "x.md").read_text("utf-8").splitlines()
    assert lines[0] == "# A title"
    assert lines[2:7] == [
        "|  | step, ms | ÷ ours |",
        "| --- | --- | --- |",
        "| ours | 25 (10–44) | 1 (1–1) |",
        "| stock | 230 (200–1,000) | 35 (20–50) |",
        "| other | – | – |",
    ]
    assert lines[-2:] == ["* stock ÷ ours: 35 (target: at least 20; met)", "* a remark"]
    record = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert record["milliseconds_by_round"]["ours"]["step"][0] == {"fastest": 10.0, "median": 12.0, "calls": 3}
    assert record["targets"] == [
        {"text": "stock ÷ ours", "measured": 35.0, "at_most": None, "at_least": 20, "headline": False, "met": True}
    ]


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


RATES = {
    "train": [[1000.0, 1250.0], [2000.0]],
    "inference": [[500.0, 500.0], [400.0]],
    "matrix product": [[20.0], [25.0]],
}
RIVALS = {"train": [[2000.0], [1000.0]], "inference": [[500.0], [800.0]], "matrix product": [[40.0], [40.0]]}


def _gpu_page(times: dict) -> Page:
    versions = {name: {"keras": "3.0"} for name in times}
    # 10 steps of 100 images per call.
    part = Part("resnet50", 5.0, 100, 10, 5000, Comparison(times, versions, environment(PLAN)))
    return Page("A GPU, 80 GB", "1.2", 224, [part], ["densenet121: no PyTorch row"])


def test_gpu_page(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, to plot")
    page = _gpu_page({"ours": RATES, gpu.RIVAL: RIVALS})
    # Ours: 1000 images in 1, 1.25 and 2 s; the peak is 2 * 5000³ * 10 FLOP in 22.5 ms: 111.1 TFLOP/s. Training is
    # 800 images/s * 5e9 * 2 * 3 = 24 TFLOP/s of it, inference 2,000 * 1e10 = 20.
    assert page.parts[0].peak == pytest.approx(111.11, rel=1e-3)
    assert page.cells()[1:] == [
        ["resnet50 (100)", "ours", "800 (500–1,000)", "1.25 (0.5–2)", "21.6%", "2,000 (2,000–2,500)", "0.75 (0.5–1)", "18.0%"],
        ["resnet50 (100)", gpu.RIVAL, "750 (500–1,000)", "1 (1–1)", "20.2%", "1,625 (1,250–2,000)", "1 (1–1)", "14.6%"],
    ]  # fmt: skip
    names = [path.name for path in page.write(tmp_path)]
    assert names == ["gpu_a_gpu_80_gb.md", "gpu_a_gpu_80_gb.json", "gpu_a_gpu_80_gb.png"]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert (tmp_path / names[0]).read_text("utf-8").splitlines()[-1] == "* densenet121: no PyTorch row"
    (part,) = json.loads((tmp_path / names[1]).read_text("utf-8"))["parts"]
    assert part["milliseconds_by_round"]["ours"]["train"][0] == {"fastest": 1000.0, "median": 1125.0, "calls": 2}


def test_gpu_page_without_a_rival() -> None:
    assert [row[3::3] for row in _gpu_page({"ours": RATES}).cells()[1:]] == [["–", "–"]]


def test_a_missing_rival_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "can_import", lambda _python, module: module != "timm")
    line = gpu.rival(sys.executable, "resnet50", {}, anywhere=False)
    assert line == "resnet50: no PyTorch row, since timm is not installed (--peers-python names another interpreter)"


def test_a_missing_backend_or_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="must be one of jax, tensorflow, torch, not 'mxnet'"):
        gpu.gpu_of(["mxnet"], anywhere=True)
    monkeypatch.setattr(gpu, "can_import", lambda _python, _module: False)
    with pytest.raises(SystemExit, match="jax is not installed here"):
        gpu.gpu_of(["jax"], anywhere=True)
    monkeypatch.undo()
    pytest.importorskip("jax", reason="needs JAX")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(SystemExit, match="jax sees no GPU here"):
        gpu.gpu_of(["jax"], anywhere=False)


@pytest.mark.slow
def test_gpu_program_runs_without_tensorflow(tmp_path) -> None:
    """On the CPU, on JAX, with a network that timm lacks."""
    pytest.importorskip("jax", reason="needs JAX")
    (tmp_path / "tensorflow.py").write_text("raise ImportError('hidden')")
    options = [
        "--backend",
        "jax",
        "--batch",
        "2",
        "--steps",
        "2",
        "--size",
        "32",
        "--matrix",
        "64",
        "--rounds",
        "2",
        "--peers-python",
        sys.executable,
    ]
    command = ["-m", "benchmarks.gpu", "resnet20_cifar", *options, "--anywhere", "--folder", str(tmp_path / "results")]
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run([sys.executable, *command], env=surroundings, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    record = json.loads((tmp_path / "results" / "gpu_no_gpu.json").read_text("utf-8"))
    assert record["missing"] and "resnet20_cifar: no PyTorch row" in record["missing"][0]
    (part,) = record["parts"]
    assert part["gmacs"] == pytest.approx(0.0406, rel=0.01)  # He et al., 2015: 0.041 billion
    assert "jax" in part["versions"]["keras_resnets, jax"]
    assert [len(turns) for turns in part["milliseconds_by_round"]["keras_resnets, jax"].values()] == [2, 2, 2]
