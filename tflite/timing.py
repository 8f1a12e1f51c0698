"""Times one TFLite file in this process and prints the figures as JSON: `tflite.benchmark` starts it for every measurement.

    python timing.py FILE THREADS XNNPACK BATCH WARMUP RUNS

It imports nothing of the package, so that the memory it reports is the interpreter's.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def memory() -> tuple[int, int]:
    """Peak and present resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields[key].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))  # type: ignore[return-value]


def measure(path: str, threads: int, xnnpack: bool, batch: int, warmup: int, runs: int) -> dict[str, object]:
    """Milliseconds of every call, and bytes of memory that the file took."""
    np.zeros((512, 512)) @ np.zeros((512, 512))  # what NumPy sets up at its first product is not the file's
    before = memory()[1]
    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(path, num_threads=threads, experimental_op_resolver_type=resolver)
    (source,) = interpreter.get_input_details()
    if int(source["shape"][0]) != batch:
        if int(source["shape_signature"][0]) > 0:
            raise SystemExit(f"the file is made for a batch of {int(source['shape'][0])}, not {batch}")
        interpreter.resize_tensor_input(source["index"], (batch, *source["shape"][1:]))
    interpreter.allocate_tensors()
    shape, kind = (batch, *source["shape"][1:]), np.dtype(source["dtype"])
    generator = np.random.default_rng(0)
    if kind.kind == "f":
        images = generator.normal(size=shape).astype(kind)
    else:
        images = generator.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    milliseconds = []
    for _ in range(warmup + runs):
        interpreter.set_tensor(source["index"], images)
        start = time.perf_counter()
        interpreter.invoke()
        milliseconds.append(1000 * (time.perf_counter() - start))
    partitions = sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
    return {
        "milliseconds": milliseconds[warmup:],
        "peak_bytes": memory()[0],
        "own_bytes": max(memory()[0] - before, 0),
        "partitions": partitions,
    }


if __name__ == "__main__":
    _path, *_numbers = sys.argv[1:]
    _threads, _xnnpack, _batch, _warmup, _runs = map(int, _numbers)
    print(json.dumps(measure(_path, _threads, bool(_xnnpack), _batch, _warmup, _runs)))
