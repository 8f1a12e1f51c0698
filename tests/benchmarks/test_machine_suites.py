"""The suites that know their measures beforehand write their pages, whatever was measured."""

import functools
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import batch_norm, grouped_conv, roofline_contenders, scaling, table
from benchmarks.distributed import STEP
from benchmarks.harness import Comparison, Contender, Plan, environment

pytest.importorskip("tensorflow", reason="the suites time TensorFlow")
pytest.importorskip("matplotlib", reason="draws pictures")


def measures(suite: str, contender: Contender) -> list[str]:
    """What the process of a contender would offer."""
    peaks = [*map(roofline_contenders.product, roofline_contenders.SIDES), roofline_contenders.COPY]
    if suite == "scaling":
        series = scaling.SERIES[contender.arguments["series"]]
        return [scaling.measure_name(measure, point) for measure in series.measures for point in series.points]
    if suite == "grouped_conv":
        forms = grouped_conv.FORWARD, grouped_conv.TRAIN
        return [grouped_conv.measure_name(form, case) for form in forms for case in grouped_conv.CASES]
    return {
        "batch_norm": list(batch_norm.CASES),
        "distributed": [STEP],
        "roofline": {
            roofline_contenders.OURS: [roofline_contenders.TRAIN, roofline_contenders.INFERENCE],
            roofline_contenders.ORT: [roofline_contenders.INFERENCE],
        }.get(contender.name, peaks),
    }[suite]


@pytest.mark.parametrize("suite", ["scaling", "distributed", "batch_norm", "roofline", "grouped_conv"])
def test_page_is_written(suite: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With everybody equally fast."""
    module = importlib.import_module(f"benchmarks.{suite}")

    def compare(contenders: Sequence[Contender], plan: Plan) -> Comparison:
        times = {each.name: {name: [[7.0]] * plan.rounds for name in measures(suite, each)} for each in contenders}
        return Comparison(times, {each.name: {"python": "3"} for each in contenders}, environment(plan))

    monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(module, "write_page", functools.partial(table.write_page, folder=tmp_path))
    module.main([*["resnet50"] * (suite == "roofline"), "--rounds", "2"])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".svg"]
    record = json.loads((tmp_path / f"{suite}.json").read_text("utf-8"))
    assert record["environment"]["rounds"] == 2
    slopes = {target["measured"] for target in record["targets"] if "slope" in target["text"]}
    assert all(abs(slope) < 1e-9 for slope in slopes)
    assert {target["measured"] for target in record["targets"] if "slope" not in target["text"]} <= {1.0}
