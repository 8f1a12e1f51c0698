"""Inference on the CPU: Keras and every exported artifact; beside timm in PyTorch, ONNX Runtime and OpenVINO, and stock Keras.

The files are made first, once: some minutes per network.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Contender, Plan, can_import, compare
from benchmarks.inference_files import APPLICATIONS, FOLDER, image_size, make
from benchmarks.inference_page import (
    APPLICATIONS_LITE,
    COMPILED,
    FUSED,
    KERAS,
    LITE,
    LITE_INT8,
    ONE,
    ORT,
    SAVED,
    SINGLE,
    STOCK,
    TIMM,
    TIMM_LAST,
    TIMM_ORT,
    TIMM_VINO,
    VINO,
    network_targets,
    page,
    summarise,
)
from benchmarks.networks import TEN
from benchmarks.options import TORCH_ENVIRONMENT, add_options, choose, chosen_plan, measured_lately, peers_missing
from benchmarks.table import write

RUNNERS = "benchmarks.inference_runners"
# What torch.compile has made is kept as the files are.
_TORCH = {**TORCH_ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(FOLDER / "torch.compile")}


@dataclasses.dataclass(frozen=True)
class Row:
    """A contender.

    Attributes:
        runner: function of `benchmarks.inference_runners`.
        maker: of the file that it runs; None where it makes the network itself.
        arguments: of the runner, besides network or path, answers and threads.
        modules: what the interpreter has to have, if that is the peers'.
        networks: which networks have it.
        environment: variables of its process.
    """

    runner: str
    maker: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    modules: Sequence[str] = ()
    networks: Sequence[str] = TEN
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


_ONE_IMAGE = {"batches": [1], "tolerance": None}
_FIRST = {"channels_first": True}
_TIMM = ("torch", "timm")
_TIMM_ONNX = (*_TIMM, "onnxscript")
# A server's setting, for weights that never change: TensorFlow keeps them in the order that oneDNN wants.
_FROZEN = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
ROWS = {
    KERAS: Row("keras_predict", arguments={"fused": False}),
    FUSED: Row("keras_predict", arguments={"fused": True}),
    SAVED: Row("saved_model", "saved_model"),
    "ours → SavedModel, weights assumed frozen": Row("saved_model", "saved_model", environment=_FROZEN),
    LITE: Row("tflite", "tflite", networks=(*TEN, *APPLICATIONS)),
    LITE_INT8: Row("tflite", "tflite_int8", _ONE_IMAGE),
    ORT: Row("onnxruntime", "onnx", modules=["onnxruntime"]),
    "ours → ONNX, NCHW input → ONNX Runtime": Row("onnxruntime", "onnx_nchw", _FIRST, ["onnxruntime"], SINGLE),
    "ours → ONNX int8 → ONNX Runtime": Row("onnxruntime", "onnx_int8", _ONE_IMAGE, ["onnxruntime"], SINGLE),
    VINO: Row("openvino", "onnx", modules=["openvino"]),
    TIMM: Row("timm", arguments={"channels_last": False}, modules=_TIMM),
    TIMM_LAST: Row("timm", arguments={"channels_last": True}, modules=_TIMM),
    COMPILED: Row("timm", arguments={"channels_last": True, "compiled": True}, modules=_TIMM),
    TIMM_ORT: Row("onnxruntime", "timm_onnx", _FIRST, [*_TIMM_ONNX, "onnxruntime"]),
    TIMM_VINO: Row("openvino", "timm_onnx", _FIRST, [*_TIMM_ONNX, "openvino"]),
    "timm → ONNX → OpenVINO in bfloat16, its default":
        Row("openvino", "timm_onnx", {**_FIRST, "precision": None}, [*_TIMM_ONNX, "openvino"]),
    STOCK: Row("saved_model", "stock_saved_model", {"tolerance": None}),
    "stock Keras → SavedModel, weights assumed frozen":
        Row("saved_model", "stock_saved_model", {"tolerance": None}, networks=SINGLE, environment=_FROZEN),
    APPLICATIONS_LITE: Row("tflite", "applications_tflite", {"tolerance": None}, networks=tuple(APPLICATIONS)),
}  # fmt: skip
NETWORKS = (*TEN, *(name for name in APPLICATIONS if name not in TEN))
PEERS = ("torch", "timm", "onnxscript", "onnxruntime", "openvino")


def rows_of(network: str, missing: Sequence[str] = ()) -> dict[str, Row]:
    """Those that a network has, and whose packages are there."""
    return {name: row for name, row in ROWS.items() if network in row.networks and not set(row.modules) & set(missing)}


def contender(name: str, network: str, threads: int, peers_python: str) -> Contender:
    """The row `name` for a network, its file made."""
    row = ROWS[name]
    python = peers_python if row.modules else sys.executable
    arguments = {**row.arguments, "answers": str(make("answers", network))}
    if row.maker is None:
        arguments["network"] = network
    else:
        arguments["path"] = str(make(row.maker, network, peers_python))
    if row.runner not in ("keras_predict", "saved_model"):  # TensorFlow takes what the harness sets for the process
        arguments["threads"] = threads
    environment = {**row.environment, **(_TORCH if row.runner == "timm" else {})}
    return Contender(name, f"{RUNNERS}:{row.runner}", arguments, python, environment)


def measure(network: str, options: argparse.Namespace) -> None:
    """Compares one network and writes its page."""
    from rich.progress import track

    plan, python = chosen_plan(options), options.peers_python
    missing = [module for module in PEERS if not can_import(python, module)]
    names = track(rows_of(network, missing), f"files of {network}")
    comparison = compare([contender(name, network, plan.threads, python) for name in names], plan)
    size = image_size(network)
    title = f"Inference, {network} at {size}x{size}, float32, {plan.threads} threads, CPU"
    reference = TIMM_ORT if TIMM_ORT in comparison.times else LITE
    fastest_calls = {name: [min(turn) for turn in found[ONE]] for name, found in comparison.times.items()}
    remarks = [*peers_missing(python, *missing), "8-bit rows and those that say so are not float32."]
    write(page(network), title, comparison, reference, network_targets(network, fastest_calls), remarks)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run inference", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (default: all)")
    add_options(parser, Plan(rounds=5, seconds=0.3, warm_up_seconds=0.5))
    options = parser.parse_args(arguments)
    for network in choose(options.networks, NETWORKS, parser):
        if not measured_lately(page(network), options):
            print(f"{network}:", flush=True)
            measure(network, options)
    summarise(chosen_plan(options))
