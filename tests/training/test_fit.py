"""`compile` and `fit` by a user, outside `training.train`: plainly, in half precision, on two replicas of a MirroredStrategy."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import fit_cases
import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
QUICK = ("plain", "mixed_float16", "synchronized", "stochastic_depth")
OTHERS = [name for name in fit_cases.CASES if name not in QUICK]


def on_replicas(*names: str) -> dict[str, Any]:
    """What `fit_cases` prints about the cases."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [sys.executable, fit_cases.__file__, *names], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    return on_replicas(*QUICK)


def check(case: fit_cases.Case, results: dict[str, Any]) -> None:
    """Training went on; with synchronised statistics and nothing random it was the same as on one device."""
    two = results["two"]
    assert np.isfinite(two["losses"]).all() and two["dtypes"] == ["float64" if case.policy == "float64" else "float32"]
    assert all(change > 0 for path, change in two["changes"].items() if not path.endswith("progress"))
    if case.epochs > 1:
        assert two["losses"][-1] < two["losses"][0] / 2
    assert (two["optimizer"] == "LossScaleOptimizer") == (case.policy == "mixed_float16")
    # Dropout and DropBlock draw other masks on other numbers of replicas.
    if "one" in results and not {"dropout_rate", "drop_block_rate"} & set(case.options):
        np.testing.assert_allclose(two["losses"], results["one"]["losses"], rtol=1e-5)
        for path, change in results["one"]["changes"].items():
            assert two["changes"][path] == pytest.approx(change, rel=0.01), path


@pytest.mark.parametrize("name", QUICK)
def test_fit_on_two_replicas(quick: dict[str, Any], name: str) -> None:
    check(fit_cases.CASES[name], quick["fit"][name])


@pytest.mark.parametrize("name", fit_cases.RANDOM)
def test_random_layers_on_two_replicas(quick: dict[str, Any], name: str) -> None:
    """Replicas draw for themselves; stochastic depth draws for the whole batch what one device would draw."""
    drawn = quick["draws"][name]
    assert not drawn["same"]
    assert drawn["as_one_device"] == (name == "stochastic_depth")
    assert all(0.2 < kept < 0.95 for kept in drawn["kept"])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_fit_of_other_networks_on_two_replicas(name: str) -> None:
    check(fit_cases.CASES[name], on_replicas(name)["fit"][name])


@pytest.mark.parametrize("name", ["plain", pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"])
def test_fit_on_one_device(name: str, tmp_path: pathlib.Path) -> None:
    """Learns a few images by heart, and the saved network goes on being trained with its optimizer's state."""
    case = fit_cases.CASES[name]
    model = fit_cases.compiled(case)
    batches = fit_cases.batches(model, case)
    losses = model.fit(batches, epochs=case.epochs, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    assert int(again.optimizer.iterations) == case.epochs * fit_cases.STEPS
    x, labels = next(iter(batches))
    assert float(again.train_on_batch(x, labels)) == pytest.approx(float(model.train_on_batch(x, labels)), rel=1e-5)
