"""Training and inference on a GPU in bfloat16: this package on any backend of Keras, and PyTorch with torch.compile.

python -m benchmarks.gpu [NETWORK …] [--backend jax] [--batch N] [--size PIXELS] [--peers-python INTERPRETER]

Needs no TensorFlow, unless it is the backend, and no data.
"""

import argparse
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.fresh import in_fresh_process
from benchmarks.gpu_contenders import RIVAL
from benchmarks.gpu_page import Page, Part, page_name
from benchmarks.harness import RESULTS, Contender, Plan, can_import, compare
from benchmarks.options import PEERS_OPTION, add_options, chosen_plan, measured_lately
from benchmarks.train_step import NETWORKS as PEERS
from benchmarks.train_step import Row

NETWORKS = ("resnet50", "resnext50_32x4d", "resnest50d", "densenet121")
BACKENDS = ("jax", "tensorflow", "torch")
# The processes share the GPU: none may take all of its memory beforehand.
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
CONTENDERS = "benchmarks.gpu_contenders"


def ask(call: str, backend: str = "", python: str = sys.executable) -> Any:
    """What a call of a function of `benchmarks.gpu_contenders` returns, in a process of its own; exits with its last words."""
    environment = {**SHARING, "KERAS_BACKEND": backend} if backend else SHARING
    try:
        return in_fresh_process("gpu_contenders", call, os.cpu_count() or 1, python, environment)
    except RuntimeError as error:
        sys.exit(str(error).splitlines()[-1])


def gpu_of(backends: Sequence[str], anywhere: bool) -> str:
    """The GPU's name. Exits where a backend is not one of Keras', is not installed or sees no GPU."""
    names = []
    for backend in backends:
        if backend not in BACKENDS:
            sys.exit(f"the backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        if not can_import(sys.executable, backend):
            sys.exit(f"{backend} is not installed here (--backend chooses another of {', '.join(BACKENDS)})")
        names.append(ask(f"device({backend!r})"))
        if names[-1] is None and not anywhere:
            sys.exit(f"{backend} sees no GPU here (--anywhere measures nevertheless, which says nothing about GPUs)")
    return names[0] or "no GPU"


def driver() -> str:
    """The version of NVIDIA's driver; "" if it cannot be asked."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def rival(interpreter: str, network: str, arguments: dict[str, Any], anywhere: bool) -> Contender | str:
    """PyTorch's row, or why there is none."""
    module = PEERS.get(network, Row()).torch
    for needed in ("torch", "timm") if module == "timm" else ("torch",):
        if not can_import(interpreter, needed):
            return (
                f"{network}: no PyTorch row, since {needed} is not installed ({PEERS_OPTION} names another interpreter)"
            )
    if ask("device('torch')", python=interpreter) is None and not anywhere:
        return f"{network}: no PyTorch row, since this PyTorch sees no GPU"
    if module == "timm" and not ask(f"timm_has({network!r})", python=interpreter):
        return f"{network}: no PyTorch row, since timm has no network of this name"
    return Contender(RIVAL, f"{CONTENDERS}:torch_measures", {**arguments, "module": module}, interpreter)


def measure(network: str, gmacs: float, options: argparse.Namespace) -> tuple[Part, list[str]]:
    """Compares one network; also says who is missing."""
    arguments = {"network": network, "batch": options.batch, "size": options.size, "steps": options.steps,
                 "side": options.matrix}  # fmt: skip
    rows = [
        Contender(f"keras_resnets, {backend}", f"{CONTENDERS}:keras_measures", arguments,
                  environment={**SHARING, "KERAS_BACKEND": backend})
        for backend in options.backend
    ]  # fmt: skip
    other, missing = rival(options.peers_python, network, arguments, options.anywhere), []
    if isinstance(other, Contender):
        rows.append(other)
    else:
        missing.append(other)
        print(other)
    return Part(
        network, gmacs, options.batch, options.steps, options.matrix, compare(rows, chosen_plan(options))
    ), missing


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(NETWORKS),
                        help=f"as in keras_resnets.list_models() (default: {', '.join(NETWORKS)})")  # fmt: skip
    parser.add_argument("--backend", action="append", choices=BACKENDS,
                        help="of Keras; may be repeated (default: $KERAS_BACKEND, else jax)")  # fmt: skip
    parser.add_argument("--batch", type=int, default=256, help="images per step (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of the images (default %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps per timed call (default %(default)s)")
    parser.add_argument("--matrix", type=int, default=8192, metavar="SIDE",
                        help="of the matrices whose product is the peak (default %(default)s)")  # fmt: skip
    parser.add_argument("--folder", type=pathlib.Path, default=RESULTS, help="for the results (default %(default)s)")
    parser.add_argument("--anywhere", action="store_true", help="measure without a GPU too, to try the program")
    add_options(parser, Plan(rounds=5, seconds=1.0, warm_up_seconds=3.0, threads=os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    for name in ("batch", "size", "steps", "matrix"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(options, name)}")
    options.backend = options.backend or [os.environ.get("KERAS_BACKEND", "jax")]
    device = gpu_of(options.backend, options.anywhere)
    if measured_lately(page_name(device), options, options.folder):
        return
    gmacs = {name: ask(f"gmacs({name!r}, {options.size})", options.backend[0]) for name in options.networks}
    parts, missing = [], []
    for network in options.networks:
        part, absent = measure(network, gmacs[network], options)
        parts.append(part)
        missing += absent
        page = Page(device, driver(), options.size, parts, missing)
        written = page.write(options.folder)  # after every network: a run that is stopped leaves what it has measured
    print(page.markdown())
    print("wrote", *written)


if __name__ == "__main__":
    main()
