"""The benchmark of the input pipeline: what it measures, and what it says about it."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import input_pipeline
from benchmarks.harness import Comparison, Plan, environment


@pytest.mark.slow
def test_measures_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_pipeline, "FILES", 32)
    monkeypatch.setattr(input_pipeline, "IMAGES", 64)
    input_pipeline.make_files(tmp_path)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 32 and {Image.open(file).size for file in files} == {(500, 375)}
    (raw,) = input_pipeline.raw_measures(str(tmp_path)).values()
    (ours,) = input_pipeline.our_measures(str(tmp_path), {"mixup": 0.2}).values()
    assert raw() == ours() == 2  # batches


def test_rates_and_targets() -> None:
    """By hand: 2,048 images in 2 s alone, 2.5 s with us, 5 s with PyTorch."""
    seconds = {input_pipeline.RAW: 2, input_pipeline.CROPPED: 2.5, input_pipeline.PYTORCH: 5}
    times = {name: {input_pipeline.CALL: [[1000.0 * value]]} for name, value in seconds.items()}
    comparison = Comparison(times, {}, environment(Plan()))
    assert input_pipeline.rates(comparison) == [
        "decoding the crop alone: 1,024 images/s by the median call",
        "crop, flip, normalise: 819 images/s by the median call",
        "PyTorch: crop, flip, normalise: 410 images/s by the median call",
    ]
    share, faster = map(str, input_pipeline.targets(comparison))
    assert share.endswith("0.8 (target: at least 0.8; met)") and faster.endswith("2 (target: at least 1; met)")
