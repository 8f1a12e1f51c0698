"""From a published checkpoint's tag to the reference's logits: name rules, layouts, conversion, cache and loading in one go."""

from pathlib import Path

import numpy as np
import pytest
import reference
import safetensors.numpy

import keras_resnets as kr

ENTRIES = [entry for entry in reference.LEAST_OF_FAMILY if kr.model_info(reference.load(entry).network).weights]
SHORT = ("hardnet39ds", "dpn68b", "skresnet18")


@pytest.mark.parametrize(
    "entry", [entry if entry in SHORT else pytest.param(entry, marks=pytest.mark.slow) for entry in ENTRIES]
)
def test_published_weights(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the reference's names and values, batch counters among them, under the name of the network's first weights."""
    golden = reference.load(entry)
    weights = next(iter(kr.model_info(golden.network).weights.values()))
    if weights.source.startswith("package:"):
        pytest.skip("these weights come with the package: test_weights.py asks what they know")
    state = {**golden.state(), "bn1.num_batches_tracked": np.array(7)}
    stem = weights.source.rpartition("/")[2].removesuffix(".pth")
    if weights.source.endswith(".pth"):
        torch = pytest.importorskip("torch", reason="PyTorch writes the checkpoint")
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, tmp_path / f"{stem}.pth")
    else:
        safetensors.numpy.save_file(state, tmp_path / f"{stem}.safetensors")
    monkeypatch.setenv("KERAS_RESNETS_MIRROR", str(tmp_path))
    monkeypatch.setenv("KERAS_RESNETS_HOME", str(tmp_path / "home"))
    shape = (golden.row["H"], golden.row["W"], 3)
    for _ in range(2):  # converted, then from the cache
        model = kr.create_model(golden.network, weights.tag, input_shape=shape, classifier_activation=None)
        distances = reference.eval_distances(golden, model, "float32")
        reference.assert_within(distances, reference.limits(golden.row, "float32"))
