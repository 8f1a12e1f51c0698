"""The same run on one device, on two, in two processes, and in two processes of which one is killed."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import cluster_run
import keras
import numpy as np
import pytest

from training import strategy
from training.run_folder import RunFolder, read_log
from training.strategy import open_strategy
from training.train import AGAIN

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "TF_CONFIG" and not key.startswith("SLURM")}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "training")])


def start(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, cluster_run.__file__, *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    """What a run printed; it must end with `code`."""
    out, error = process.communicate(timeout=600)
    assert process.returncode == code, error[-3000:]
    return json.loads(out.splitlines()[-1]) if out.strip() else {"error": error}


def addresses(count: int = 2) -> list[str]:
    """Of this machine, with ports that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return [f"127.0.0.1:{port}" for port in ports]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return RunFolder(folder), finish(start(folder, "none", 0))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[dict[str, Any]]]:
    """One is told by the command line who they are, the other by TF_CONFIG."""
    folder, workers = tmp_path_factory.mktemp("workers") / "run", addresses()
    config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 1}}
    processes = [
        start(folder, "multiworker", 0, ",".join(workers), 0),
        start(folder, "auto", 0, TF_CONFIG=json.dumps(config)),
    ]
    return RunFolder(folder), [finish(process) for process in processes]


def weights(path: pathlib.Path) -> list[np.ndarray]:
    return keras.models.load_model(path).get_weights()


def assert_same_run(folder: RunFolder, losses: list[float], other: tuple[RunFolder, dict[str, Any]]) -> None:
    """The losses of 20 steps to 1e-10 (in double precision); the averaged weights and statistics; the test."""
    assert len(losses) == 20
    np.testing.assert_allclose(losses, other[1]["losses"], rtol=1e-10)
    for ours, theirs in zip(weights(folder.final), weights(other[0].final), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(read_log(folder.log), read_log(other[0].log), strict=True):
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-6)
        assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=1e-6)


def test_two_replicas(one_device: tuple[RunFolder, dict[str, Any]], tmp_path: pathlib.Path) -> None:
    printed = finish(start(tmp_path / "run", "mirrored", 2))
    assert printed["replicas"] == 2
    assert_same_run(RunFolder(tmp_path / "run"), printed["losses"], one_device)


def test_two_workers(one_device: tuple[RunFolder, dict[str, Any]],
                     two_workers: tuple[RunFolder, list[dict[str, Any]]]) -> None:  # fmt: skip
    folder, printed = two_workers
    assert [(each["replicas"], each["chief"]) for each in printed] == [(2, True), (2, False)]
    assert printed[0]["losses"] == printed[1]["losses"]
    assert_same_run(folder, printed[0]["losses"], one_device)


def test_a_killed_worker(two_workers: tuple[RunFolder, list[dict[str, Any]]], tmp_path: pathlib.Path) -> None:
    """The other ends with an error that says what to do; both started again end as if nothing had happened."""
    folder, workers = tmp_path / "run", addresses()
    processes = [start(folder, "multiworker", 0, ",".join(workers), 0),
                 start(folder, "multiworker", 0, ",".join(workers), 1, 13)]  # fmt: skip
    assert "another worker is gone. Start all workers again" in finish(processes[0], AGAIN)["error"]
    finish(processes[1], -9)
    workers = addresses()
    again = [start(folder, "multiworker", 0, ",".join(workers), worker) for worker in range(2)]
    assert [len(finish(process)["losses"]) for process in again] == [10, 10], "both continue after the first epoch"
    for ours, theirs in zip(weights(RunFolder(folder).final), weights(two_workers[0].final), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_workers_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tasks on two nodes, of which this is the last."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for key, value in (
        ("STEP_NUM_TASKS", "3"),
        ("PROCID", "2"),
        ("STEP_NODELIST", "node[07-08]"),
        ("STEP_TASKS_PER_NODE", "2,1"),
    ):
        monkeypatch.setenv(f"SLURM_{key}", value)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed, number = strategy.named_workers("", None)
    assert (listed, number) == (["node07:8888", "node07:8889", "node08:8888"], 2)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before, "srun has given out the GPUs"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"kind": "mirored"}, {}, "strategy must be one of .*not 'mirored': did you mean 'mirrored'"),
        ({"kind": "multiworker"}, {}, "needs the addresses of all workers"),
        ({"kind": "mirrored", "workers": "a:1,b:2", "worker": 0}, {}, "for one process, but 2 workers are given"),
        ({"workers": "a:1,b:2"}, {}, "worker must be the number of this process among the 2 workers, from 0, not None"),
        ({"workers": "a:1,b:2", "worker": 2}, {}, "from 0, not 2"),
        ({"workers": "a:1,b", "worker": 0}, {}, "host:port each, not 'b'"),
        ({"workers": "a:1,a:1", "worker": 0}, {}, "must differ"),
        ({"worker": 0}, {}, "among the 0 workers"),
        ({}, {"TF_CONFIG": "{"}, "TF_CONFIG is not the JSON"),
        (
            {},
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}}'},
            "must be a worker",
        ),
        (
            {},
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 5}}'},
            "from 0 to 1",
        ),
        ({"devices": 2}, {}, "devices must be set before TensorFlow has run anything"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], environment: dict[str, str], message: str,
                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    keras.ops.zeros(1)  # TensorFlow has run something
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=message):
        open_strategy(**arguments)
