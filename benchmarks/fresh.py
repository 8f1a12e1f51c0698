"""Calls in processes of their own, and the memory of a process. Imports the standard library alone: peers have no more."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).absolute().parent.parent
MIB = 2**20


def status(field: str) -> int:
    """A field of this process's memory, in bytes; Linux."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def reset_peak() -> int:
    """Resets the high-water mark of this process's memory; returns its size now, in bytes."""
    now = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return now


def in_fresh_process(module: str, call: str, threads: int, python: str = sys.executable,
                     environment: Mapping[str, str] | None = None) -> Any:  # fmt: skip
    """What a call of a function of `benchmarks.MODULE` returns, as JSON can say it, in a process of its own.

    The process runs the interpreter `python`, with `environment` added to its variables.

    Raises:
        RuntimeError: the process failed; the message ends with what it printed.
    """
    pools = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    finished = subprocess.run(
        [python, "-c", f"import json; from benchmarks import {module}; print(json.dumps({module}.{call}))"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **{pool: str(threads) for pool in pools}, **(environment or {})},
    )  # fmt: skip
    if finished.returncode:
        raise RuntimeError(f"the process of {call} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])
