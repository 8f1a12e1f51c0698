"""The suite on growth: its fit, its series, its page."""

import gc

import pytest

from benchmarks import scaling
from benchmarks.harness import Comparison, Plan, environment
from benchmarks.scaling import BUILD, INFERENCE, SERIES, TRACE, TRAIN, Point, Series
from benchmarks.table import write_page

pytest.importorskip("tensorflow", reason="the suite times TensorFlow")
pytest.importorskip("matplotlib", reason="draws a picture")


def test_a_power_is_found() -> None:
    slope, residual = scaling.line({x: 3 * x**1.5 for x in (1, 2, 4, 8)})
    assert slope == pytest.approx(1.5) and residual == pytest.approx(0, abs=1e-9)


def test_the_residual_is_the_largest_distance_from_the_line() -> None:
    # On a line through the logarithms of 1, 1.2 and 1 at equal distances lies 1.2^(1/3): off by 1.2^(2/3) in the middle.
    slope, residual = scaling.line({1: 1.0, 10: 1.2, 100: 1.0})
    assert slope == pytest.approx(0, abs=1e-9)
    assert residual == pytest.approx(1.2 ** (2 / 3) - 1)


def comparison(series: str, power: float) -> Comparison:
    """Two rounds; the slower calls of a round do not count."""
    times = {
        scaling.measure_name(measure, point): [[float(point.x) ** power, 1e9], [2 * float(point.x) ** power]]
        for point in SERIES[series].points
        for measure in SERIES[series].measures
    }
    return Comparison({series: times}, {series: {"keras": "3.0"}}, environment(Plan(rounds=2)))


def test_slopes_are_those_of_the_rounds_and_targets_of_what_is_linear(tmp_path) -> None:
    measured = {series: scaling.growths(comparison(series, 1.1), series) for series in SERIES}
    for found in measured.values():
        assert all(growth.slope.low == pytest.approx(1.1) and growth.slope.count == 2 for growth in found.values())
    targets = scaling.targets(measured)
    assert not any(target.met for target in targets)
    assert [sum(f"over {what}" in target.text for target in targets) for what in ("images", "pixels")] == [6, 6]
    assert sum(target.text.startswith(("slope of build", "slope of trace")) for target in targets) == 2
    assert not any("radix" in target.text or "cardinality" in target.text for target in targets)
    how = scaling.how(comparison("radix, ResNeSt-50", 1))
    files = write_page("scaling", scaling.TITLE, scaling.cells(measured), how, {}, targets, (),
                       lambda figure: scaling.plot(figure, measured), tmp_path)  # fmt: skip
    assert [file.suffix for file in files] == [".md", ".json", ".svg"]
    assert len(scaling.cells(measured)) == 1 + 2 * len(SERIES)


def test_the_cardinality_series_does_equal_work() -> None:
    """Table 2 of the ResNeXt paper (arXiv 1611.05431): all about 4.1 billion multiply-adds."""
    series = "cardinality, ResNeXt-50 of equal work"
    gmacs = scaling.work(series)
    at_224 = {x: amount * (224 / 160) ** 2 for x, amount in gmacs.items()}
    assert list(at_224) == [1, 2, 4, 8, 32]
    assert all(amount == pytest.approx(4.15, rel=0.06) for amount in at_224.values())


def test_depths_are_those_of_the_networks() -> None:
    """Three convolutions to a bottleneck; in He et al.'s count the stem and the classifier are layers too."""
    for blocks, name in scaling.DEPTHS.items():
        assert 3 * blocks + 2 == int(name.removeprefix("resnet"))


def test_measures_are_those_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Point(3, "resnet20_cifar", 2, 16, {"depth": 1})
    monkeypatch.setitem(SERIES, "steps", Series("blocks", (small,)))
    monkeypatch.setitem(SERIES, "construction", Series("blocks", (small,), (BUILD, TRACE)))
    steps = scaling.series_measures("steps")
    assert list(steps) == [f"{TRAIN}, 3", f"{INFERENCE}, 3"]
    first, second = steps[f"{TRAIN}, 3"](), steps[f"{TRAIN}, 3"]()
    assert second != first  # the weights have changed
    assert steps[f"{INFERENCE}, 3"]().shape == (2, 10)
    construction = scaling.series_measures("construction")
    assert len(construction[f"{BUILD}, 3"]().layers) < 20
    traced = construction[f"{TRACE}, 3"]()
    operations = {operation.type for operation in traced.graph.get_operations()}
    assert {"Conv2D", "Conv2DBackpropFilter"} <= operations
    assert construction[f"{TRACE}, 3"]() is not traced


def test_a_collection_of_garbage_is_nobodys_time() -> None:
    assert scaling._without_collection(gc.isenabled)() is False
    with pytest.raises(ZeroDivisionError):
        scaling._without_collection(lambda: 1 / 0)()
    assert gc.isenabled()
