"""Speed and memory, side by side with stock Keras and other libraries.

python -m benchmarks.run SUITE [NETWORK …] [options]
python -m benchmarks.run all [options]
"""

import importlib
import subprocess
import sys
import time
from collections.abc import Sequence

# In the order of `all`: quick ones first.
SUITES = {
    "startup": "import, build, load weights, first prediction; beside keras.applications",
    "grouped_conv": "a grouped convolution; beside stock Keras and PyTorch",
    "batch_norm": "batch normalisation; beside stock Keras and PyTorch",
    "roofline": "how near each network comes to what the machine can do",
    "scaling": "cost against batch, resolution, depth, cardinality and radix",
    "distributed": "one, two and four replicas and workers on this machine",
    "memory": "peak memory of training; beside timm",
    "input_pipeline": "files to batches; beside decoding alone and PyTorch's DataLoader",
    "augmentation": "images per second of every augmentation",
    "train_loop": "the training program; beside a bare compiled step and fit",
    "weights": "converting and loading published weights",
    "inference": "Keras and every exported artifact; beside timm, ONNX Runtime, OpenVINO",
    "train_step": "a step of training; beside timm and stock Keras, whose grouped convolutions take minutes",
}


def usage() -> str:
    """What the program can be asked for."""
    width = max(map(len, SUITES)) + 2
    suites = "\n".join(f"  {name:{width}}{text}" for name, text in {**SUITES, "all": "all of these"}.items())
    return f"{__doc__}\nSuites:\n{suites}\n\nOptions of a suite: python -m benchmarks.run SUITE --help"


def run_all(options: Sequence[str]) -> None:
    """Every suite, whatever becomes of the others; ends the program with the names of those that failed."""
    failed = []
    began = time.monotonic()
    for i, name in enumerate(SUITES, start=1):
        print(f"\n== {name} ({i} of {len(SUITES)}, after {(time.monotonic() - began) / 60:.0f} minutes) ==", flush=True)
        if subprocess.run([sys.executable, "-m", "benchmarks.run", name, *options], check=False).returncode:
            failed.append(name)
    print(f"\n{len(SUITES)} suites took {(time.monotonic() - began) / 60:.0f} minutes", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def main(arguments: Sequence[str] | None = None) -> None:
    suite, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if suite in ("-h", "--help"):
        print(usage())
    elif suite == "all":
        run_all(rest)
    elif suite in SUITES:
        importlib.import_module(f"benchmarks.{suite}").main(rest)
    else:
        sys.exit(f"SUITE must be one of {', '.join(SUITES)}, all; not {suite!r}")


if __name__ == "__main__":
    main()
