"""The process of one contender: makes its measures, warms them up, then times them whenever the harness asks.

Started by `benchmarks.harness` as `python -m benchmarks.worker JOB`, JOB being JSON. It answers each line on standard input (the
name of a measure, and for how many seconds to repeat it) with one line of JSON on standard output. Imports nothing but the
standard library, since the interpreter may be one that has PyTorch only.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

_PACKAGES = ("tensorflow", "jax", "jaxlib", "keras", "torch", "triton", "timm", "numpy", "onnxruntime", "openvino")


def time_calls(measure: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call; calls until `seconds` have passed, at least once."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        measure()
        times.append(round(1000 * (time.perf_counter() - start), 3))
    return times


def _versions() -> dict[str, str]:
    loaded = [package for package in _PACKAGES if package in sys.modules]
    return {"python": platform.python_version(), **{package: importlib.metadata.version(package) for package in loaded}}


def main() -> None:
    job = json.loads(sys.argv[1])
    # Frameworks print to standard output as they please: answers go to a copy of it, the rest to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    module, function = job["target"].split(":")
    measures = getattr(importlib.import_module(module), function)(**job["arguments"])
    for measure in measures.values():
        time_calls(measure, job["warm_up_seconds"])
    print(json.dumps({"versions": _versions(), "measures": list(measures)}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        times = time_calls(measures[request["measure"]], request["seconds"])
        print(json.dumps(times), file=answers, flush=True)


if __name__ == "__main__":
    main()
