"""Compares contenders fairly on a noisy machine: one process each, taking turns.

Each contender lives in a process of its own, so that thread pools and memory allocators do not meet, on the same cores and
with the same number of threads. Rounds go A B C A B C …, each contender being timed for a moment while the others wait; a ratio is
taken within each round, so that both sides of it saw the same weather.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

ROOT = pathlib.Path(__file__).absolute().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# A measure's times in milliseconds, one list per round.
Rounds = list[list[float]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        name: as shown in the table.
        target: "module:function"; the function returns the measures, callables by name.
        arguments: keyword arguments of that function.
        python: the interpreter to run it with.
        environment: environment variables to set for its process.
        rounds: take part in the first so many rounds only (for what takes minutes per call).
    """

    name: str
    target: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    python: str = sys.executable
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rounds: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: how many turns everybody gets.
        seconds: how long a measure is repeated within a turn; at least one call.
        warm_up_seconds: how long each measure is repeated beforehand; at least one call.
        threads: cores that each process is pinned to, and threads it may use.
    """

    rounds: int = 7
    seconds: float = 0.5
    warm_up_seconds: float = 1.0
    threads: int = 2


@dataclasses.dataclass(frozen=True)
class Summary:
    """Median and range of some numbers."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclasses.dataclass
class Comparison:
    """What was measured: times by contender and measure, versions of the packages by contender, the machine."""

    times: dict[str, dict[str, Rounds]]
    versions: dict[str, dict[str, str]]
    environment: dict[str, Any]

    def time(self, contender: str, measure: str) -> Summary:
        """Milliseconds per call, over all rounds."""
        return Summary.of([time for turn in self.times[contender][measure] for time in turn])

    def ratio(self, contender: str, reference: str, measure: str) -> Summary:
        """How many times as long `contender` takes as `reference`, by rounds that both took part in.

        A round counts with its fastest call on either side: other programs on the machine only ever add time.
        """
        turns = zip(self.times[contender][measure], self.times[reference][measure], strict=False)
        return Summary.of([min(ours) / min(theirs) for ours, theirs in turns])

    def fastest(self, contenders: Sequence[str], measure: str) -> str:
        """The contender with the smallest median."""
        return min(contenders, key=lambda name: self.time(name, measure).median)


class _Worker:
    """A running contender."""

    def __init__(self, contender: Contender, plan: Plan, log: IO[str]) -> None:
        self.contender, self._log = contender, log
        threads = str(plan.threads)
        pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        job = {"target": contender.target, "arguments": dict(contender.arguments), "threads": plan.threads,
               "warm_up_seconds": plan.warm_up_seconds}  # fmt: skip
        self._process = subprocess.Popen(
            [contender.python, "-m", "benchmarks.worker", json.dumps(job)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **{pool: threads for pool in pools}, **contender.environment},
        )  # fmt: skip
        ready = self._answer()
        self.versions: dict[str, str] = ready["versions"]
        self.measures: list[str] = ready["measures"]

    def time(self, measure: str, seconds: float) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"measure": measure, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"{self.contender.name} stopped with exit code {self._process.returncode}:\n"
                               + self._log.read()[-2000:])  # fmt: skip
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _worker(contender: Contender, plan: Plan) -> Iterator[_Worker]:
    with tempfile.TemporaryFile("w+") as log, contextlib.closing(_Worker(contender, plan, log)) as worker:
        yield worker


def compare(contenders: Sequence[Contender], plan: Plan) -> Comparison:
    """Starts every contender, lets them take turns, and returns their times.

    Raises:
        RuntimeError: a contender's process failed; the message ends with what it printed.
    """
    from rich.progress import track

    with contextlib.ExitStack() as stack:
        starting = track(contenders, "starting and warming up")
        workers = [stack.enter_context(_worker(contender, plan)) for contender in starting]
        times: dict[str, dict[str, Rounds]] = {
            worker.contender.name: {measure: [] for measure in worker.measures} for worker in workers
        }
        for turn in track(range(plan.rounds), "measuring"):
            for worker in workers:
                if worker.contender.rounds is None or turn < worker.contender.rounds:
                    for measure, rounds in times[worker.contender.name].items():
                        rounds.append(worker.time(measure, plan.seconds))
        versions = {worker.contender.name: worker.versions for worker in workers}
    return Comparison(times, versions, environment(plan))


def environment(plan: Plan) -> dict[str, Any]:
    """The machine in general terms, and how it was measured on."""
    text = ""
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if re.search(rf"\b{flag}\b", text)]
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": model[1] if model else "",
        "vector_extensions": flags,
        "cores": os.cpu_count(),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load_at_end": round(os.getloadavg()[0], 1),
        **dataclasses.asdict(plan),
    }


def describe_machine(surroundings: dict[str, Any]) -> str:
    """The machine of an `environment` in a few words."""
    e = surroundings
    flags = ", ".join(e["vector_extensions"]) or "no vector extensions known"
    processor = e.get("processor") or e["machine"]
    return f"{e['system']}, {processor} ({flags}), {e['cores']} cores"


def machines(records: Iterable[dict[str, Any]]) -> list[str]:
    """The machines that results were measured on, each once: of a page over other pages, theirs and not its own."""
    return list(
        dict.fromkeys(
            machine
            for record in records
            for machine in record.get("machines") or [describe_machine(record["environment"])]
        )
    )


def describe(surroundings: dict[str, Any]) -> str:
    """An `environment` in a line."""
    return f"{describe_machine(surroundings)}, load average {surroundings['load_at_end']:g} at the end"


def can_import(python: str, module: str) -> bool:
    """Whether the interpreter `python` has `module`, imported as the contenders do."""
    modules = f"benchmarks.torchvision_cpu, {module}" if module == "timm" else module
    command = [python, "-c", f"import {modules}"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
