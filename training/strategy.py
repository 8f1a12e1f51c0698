"""Where training runs: on one device, on all of a machine, on several machines."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_resnets.assembly import nearest

STRATEGIES = ("auto", "none", "mirrored", "multiworker", "tpu")


@dataclasses.dataclass(frozen=True)
class Place:
    """A process's place in a training run.

    Attributes:
        strategy: of `tf.distribute`, over all processes.
        worker: number of this process.
        workers: how many processes there are.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def chief(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.worker == 0

    @property
    def title(self) -> str:
        """What to call it, for people."""
        replicas = self.strategy.num_replicas_in_sync
        name = type(self.strategy).__name__ if replicas > 1 or self.workers > 1 else "one device"
        return f"{name}, {replicas} replicas in {self.workers} processes" if self.workers > 1 else (
            f"{name}, {replicas} replicas" if replicas > 1 else name
        )  # fmt: skip


def open_strategy(kind: str = "auto", workers: str = "", worker: int | None = None, devices: int = 0) -> Place:
    """Sets up the devices of this process, and the connection to the others. Before anything else of TensorFlow runs.

    Args:
        kind: "none" for one device; "mirrored" for all GPUs of this machine; "multiworker" for several processes, each with
            all of its GPUs; "tpu" for the TPU that the environment names; "auto" for the one of these that fits: several
            processes if `workers`, TF_CONFIG or SLURM name them, else all GPUs if there are several.
        workers: addresses of all processes, "host:port,host:port", the same for each of them; by default those of TF_CONFIG or
            SLURM.
        worker: number of this process among `workers`, from 0.
        devices: so many replicas on this process's CPU, to try things out; 0 for one.

    Raises:
        ValueError: an argument is not allowed, or the machine does not have what is asked for.
    """
    if kind not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {kind!r}: {nearest(kind, STRATEGIES)}")
    addresses, number = named_workers(workers, worker)
    if len(addresses) > 1 and kind in ("none", "mirrored", "tpu"):
        raise ValueError(f"strategy {kind!r} is for one process, but {len(addresses)} workers are given: 'multiworker'")
    if devices:
        _split_cpu(devices)
    gpus = tf.config.list_logical_devices("GPU") if len(addresses) < 2 else []
    if kind == "auto":
        kind = "multiworker" if len(addresses) > 1 else "mirrored" if len(gpus) > 1 or devices > 1 else "none"
    if kind == "none":  # with a GPU a strategy of its own, which brings batches there ahead of time
        return Place(tf.distribute.OneDeviceStrategy("GPU:0") if gpus else tf.distribute.get_strategy())
    if kind == "tpu":
        return Place(_tpu())
    if kind == "mirrored":
        cpus = [f"CPU:{number}" for number in range(max(devices, 1))]
        return Place(tf.distribute.MirroredStrategy(None if gpus and not devices else cpus))
    if len(addresses) < 2:
        raise ValueError("strategy 'multiworker' needs the addresses of all workers: workers='host:port,host:port,…' and the "
                         "number of this one, or TF_CONFIG, or SLURM")  # fmt: skip
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
    )
    return Place(tf.distribute.MultiWorkerMirroredStrategy(), number, len(addresses))


class WorkerLost(RuntimeError):
    """Another process of the run is gone."""


@contextlib.contextmanager
def together(place: Place) -> Iterator[None]:
    """What the body does needs all processes of `place`.

    Raises:
        WorkerLost: one of them is gone.
    """
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError,
            tf.errors.DeadlineExceededError)  # fmt: skip
    try:
        yield
    except lost as error:
        if place.workers == 1:
            raise
        raise WorkerLost("another worker is gone. Start all workers again with the same commands: they continue from the last "
                         "checkpoint") from error  # fmt: skip


def require_same(place: Place, *numbers: int) -> None:
    """Raises ValueError unless all processes give the same step and the same recipe."""
    if place.workers == 1:
        return

    def gathered() -> Any:
        replica = tf.distribute.get_replica_context()
        own = tf.one_hot(place.worker, place.workers, dtype=tf.float64)[:, tf.newaxis] * tf.constant(
            numbers, tf.float64
        )
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, own)

    totals = place.strategy.experimental_local_results(tf.function(lambda: place.strategy.run(gathered))())[0].numpy()
    for what, column in zip(("checkpoints", "recipes"), totals.T, strict=True):
        if (column != column[0]).any():
            raise ValueError(f"the {place.workers} workers have different {what}: all need the same command, and a run folder that "
                             "all of them see")  # fmt: skip


def named_workers(addresses: str, number: int | None) -> tuple[list[str], int]:
    """All processes and the number of this one: from the arguments, else TF_CONFIG, else SLURM; none for a single process."""
    if addresses or number is not None:
        listed = [address.strip() for address in addresses.split(",") if address.strip()]
        if number is None or not 0 <= number < len(listed):
            raise ValueError(f"worker must be the number of this process among the {len(listed)} workers, from 0, "
                             f"not {number!r}")  # fmt: skip
        if strange := [
            address for address in listed if not address.rpartition(":")[2].isdecimal() or ":" not in address
        ]:
            raise ValueError(f"workers must be host:port each, not {strange[0]!r}")
        if len(set(listed)) != len(listed):
            raise ValueError(f"workers must differ: {addresses}")
        return listed, number
    if "TF_CONFIG" in os.environ:
        return _tf_config(os.environ["TF_CONFIG"])
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _slurm()
    return [], 0


def _tf_config(text: str) -> tuple[list[str], int]:
    try:
        config = json.loads(text)
        listed, task = config.get("cluster", {}).get("worker", []), config.get("task", {})
        number = int(task.get("index", 0))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG is not the JSON that TensorFlow expects: {text!r}") from error
    if listed and (task.get("type") != "worker" or not 0 <= number < len(listed)):
        raise ValueError(f"TF_CONFIG: task must be a worker from 0 to {len(listed) - 1}, not {task}")
    return list(listed), number


def _slurm() -> tuple[list[str], int]:
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    # srun gives each task its GPUs. The resolver would divide them again, and cannot without any: hence one imagined per task.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
    )
    return list(resolver.cluster_spec().as_dict()["worker"]), int(os.environ["SLURM_PROCID"])


def _split_cpu(devices: int) -> None:
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    except RuntimeError as error:
        raise ValueError("devices must be set before TensorFlow has run anything in this process") from error


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(f"strategy 'tpu': the environment names no TPU that answers: {error}") from error
    return tf.distribute.TPUStrategy(resolver)
