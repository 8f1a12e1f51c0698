"""The suite on the machine's limit: work, traffic, peaks, fractions; and that its contenders run the same network."""

import argparse
import sys

import numpy as np
import pytest

from benchmarks import roofline
from benchmarks import roofline_contenders as contenders
from benchmarks.harness import Comparison, Plan, environment
from benchmarks.roofline import Load, Machine, Reached
from benchmarks.roofline_contenders import COPY, INFERENCE, ORT, OURS, SIDES, TF_PEAK, TORCH_PEAK, TRAIN, product
from benchmarks.table import write_page

pytest.importorskip("tensorflow", reason="the suite times TensorFlow")


def test_work_and_traffic() -> None:
    """Of 1 GMAC, 10 million elements and 5 million weights, two images."""
    found = roofline.loads(1.0, 10_000_000, 5_000_000, batch=2)
    assert found[INFERENCE] == Load(4e9, 4 * (2 * 10e6 + 5e6))
    assert found[TRAIN] == Load(12e9, 4 * (3 * 2 * 10e6 + 8 * 5e6))
    assert found[INFERENCE].intensity == 40


def test_the_roof_is_the_longer_of_the_two_times() -> None:
    machine = Machine(peak=100.0, bandwidth=10.0)
    assert Load(1000.0, 50.0).seconds(machine) == 10
    assert Load(100.0, 50.0).seconds(machine) == 5


def test_work_is_that_of_the_networks() -> None:
    """Known as 4.09 GMAC for ResNet-50 and 2.84 for Inception-v3 at 224 pixels (5.7 at its own 299)."""
    assert roofline.network_loads("resnet50")[INFERENCE].flops == pytest.approx(8 * 2 * 4.09e9, rel=0.01)
    assert roofline.network_loads("inception_v3")[INFERENCE].flops == pytest.approx(8 * 2 * 2.84e9, rel=0.01)


@pytest.fixture
def comparison() -> Comparison:
    """Two rounds. TensorFlow multiplies at 200 and 100 GFLOP/s; PyTorch at half of that, but it copies at 8 and 4 GB/s."""

    def peaks(rate: float, copy: float) -> dict[str, list[list[float]]]:
        products = {
            product(side): [[2e3 * side**3 / rate, 1e9], [4e3 * side**3 / rate]]
            if side == SIDES[-1]
            else [[1e9], [1e9]]
            for side in SIDES
        }
        return {**products, COPY: [[copy], [2 * copy]]}

    megabytes = 2 * 4 * contenders.ELEMENTS / 1e6
    times = {
        OURS: {TRAIN: [[2000.0], [2000.0, 2500.0]], INFERENCE: [[500.0], [900.0]]},
        ORT: {INFERENCE: [[400.0], [800.0]]},
        TF_PEAK: peaks(200e9, megabytes / 4),
        TORCH_PEAK: peaks(100e9, megabytes / 8),
    }
    return Comparison(times, {OURS: {}}, environment(Plan()))


def test_the_machine_is_what_the_better_library_reaches(comparison: Comparison) -> None:
    machines = [Machine.of(comparison, turn) for turn in (0, 1)]
    assert [machine.peak for machine in machines] == pytest.approx([200e9, 100e9])
    assert [machine.bandwidth for machine in machines] == pytest.approx([8e9, 4e9])


def test_fractions_are_taken_round_by_round(comparison: Comparison) -> None:
    # 20 GFLOP take 100 and 200 ms: a quarter of either round.
    found = Reached.of(comparison, INFERENCE, Load(20e9, 1.0))
    assert found.contender == ORT
    assert (found.fraction.low, found.fraction.high) == pytest.approx((0.25, 0.25))
    assert found.gflops == pytest.approx(20 / 0.6)
    # 8 GB take 1 and 2 s, of 2: the memory is the limit.
    found = Reached.of(comparison, TRAIN, Load(20e9, 8e9))
    assert (found.contender, found.fraction.low, found.fraction.high) == (OURS, pytest.approx(0.5), pytest.approx(1))


def test_page(comparison: Comparison, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="draws a picture")
    page = {"resnet50": {m: Reached.of(comparison, m, load) for m, load in roofline.loads(4, 10**7, 10**7).items()}}
    peak, bandwidth = roofline.machine_of([comparison])
    assert (peak.low, peak.high, bandwidth.high) == pytest.approx((100, 200, 8))
    table = roofline.cells(page)
    assert len(table) == 3 and {len(row) for row in table} == {len(table[0])}
    notes = roofline.remarks(page, peak, bandwidth)
    files = write_page("x", roofline.TITLE, table, roofline.HOW, {}, (), notes,
                       lambda figure: roofline.plot(figure, page, peak, bandwidth), tmp_path)  # fmt: skip
    assert [file.suffix for file in files] == [".md", ".json", ".svg"]


def test_without_pytorch_tensorflow_is_the_machine() -> None:
    options = argparse.Namespace(peers_python=sys.executable + "-that-is-not-there", threads=1)
    assert [row.name for row in roofline.contenders("resnet50", options)] == [OURS, ORT, TF_PEAK]


def test_contenders_run_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = pytest.importorskip("keras")
    pytest.importorskip("tf2onnx", reason="needs the exporters")
    monkeypatch.setattr(contenders, "SIZE", 32)
    monkeypatch.setattr(contenders, "BATCH", 2)
    keras.utils.set_random_seed(1)
    ours = contenders.keras_measures("resnet20_cifar")
    keras.utils.set_random_seed(1)
    onnx = contenders.onnx_measures("resnet20_cifar", threads=1)
    logits = np.squeeze(ours[INFERENCE]())
    assert logits.shape == (2, 10) and logits.std() > 0
    np.testing.assert_allclose(logits, np.squeeze(onnx[INFERENCE]()), atol=1e-4 * np.abs(logits).max())
    assert ours[TRAIN]() != ours[TRAIN]()  # the weights change
    np.testing.assert_array_equal(logits, np.squeeze(ours[INFERENCE]()))  # but not those of the frozen network


def test_peaks_compute_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "SIDES", (8, 16))
    monkeypatch.setattr(contenders, "ELEMENTS", 1000)
    libraries = [contenders.tensorflow_peaks()]
    if roofline.can_import(sys.executable, "torch"):
        libraries.append(contenders.torch_peaks())
    for measures in libraries:
        assert np.asarray(measures[product(16)]()).shape == (16, 16)
        assert np.abs(np.asarray(measures[COPY]())).sum() == 1000
