"""Commands about exported networks: export, verify, benchmark."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.cli.networks import open_network
from keras_resnets.cli.output import print_json, print_table
from keras_resnets.export import ExportReport, export, run_artifact, verify
from keras_resnets.preprocessing import expected_input, load_image, preprocess_input

# Options of `export` that are passed on where they are given.
_OPTIONS = ("quantization", "interface", "batch_size", "input_size", "opset", "layout", "version", "tolerance")
_IMAGE_FILES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds this file's commands; `command(name, function, description)` makes a parser."""
    exporting = command(
        "export", export_network, "Write a network for another runtime, with a proof that it computes the same."
    )
    exporting.add_argument("model", help="network or .keras file")
    exporting.add_argument("path", help="file or folder to write")
    exporting.add_argument(
        "--format", choices=("saved_model", "tflite", "onnx"), help="(default: by the path's suffix)"
    )
    exporting.add_argument("--overwrite", action="store_true", help="replace what is at the path")
    exporting.add_argument("--weights", help="tag, file, or 'none' for random ones (default: the network's first)")
    exporting.add_argument("--quantization", help="float16, dynamic, int8 or int16x8 (tflite); int8 (onnx)")
    exporting.add_argument("--calibration", metavar="FOLDER", help="real images, from which 8-bit scales are taken")
    exporting.add_argument(
        "--calibration-images", type=int, default=300, help="at most how many (default: %(default)s)"
    )
    exporting.add_argument("--interface", help="type of input and output of an 8-bit tflite file")
    exporting.add_argument("--batch-size", type=int, help="images per call of a tflite file (default: 1)")
    exporting.add_argument("--input-size", type=int, help="side of a tflite file's input (default: the network's)")
    exporting.add_argument("--opset", type=int, help="of an onnx file (default: 17)")
    exporting.add_argument("--layout", help="of an onnx file's input: nhwc (default) or nchw")
    exporting.add_argument("--version", type=int, help="write a saved_model as this version of TF Serving's layout")
    exporting.add_argument("--tolerance", type=float, help="largest accepted relative difference")

    verifying = command("verify", verify_artifact, "Repeat the proof of an exported network.")
    verifying.add_argument("artifact", help="folder or file that export wrote")

    timing = command("benchmark", benchmark, "Time exported networks, each in its own runtime and process.")
    timing.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help="folders or files that export wrote")
    timing.add_argument("--batch-size", type=int, default=1, help="images per call (default: %(default)s)")
    timing.add_argument("--threads", type=int, help="of the processor (default: the runtime chooses)")
    timing.add_argument(
        "--rounds", type=int, default=3, help="how often every artifact has its turn (default: %(default)s)"
    )


def export_network(options: argparse.Namespace) -> None:
    suffix = Path(options.path).suffix[1:]
    format = options.format or (suffix if suffix in ("tflite", "onnx") else "saved_model")
    model = open_network(options.model, options.weights)
    given = {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}
    if options.calibration is not None:
        given["calibration"] = _calibration(options.calibration, options.calibration_images, model)
    report = export(model, options.path, format=format, overwrite=options.overwrite, **given)
    if options.json:
        return print_json(report.to_dict())
    print_table(("", ""), [("written", report.path), *_facts(report)])


def verify_artifact(options: argparse.Namespace) -> None:
    report = verify(options.artifact)
    if options.json:
        return print_json(report.to_dict())
    print_table(("", ""), [("verified", f"{report.path}: computes what its model computed"), *_facts(report)])


def benchmark(options: argparse.Namespace) -> None:
    """Round by round, so that a slow minute of the machine hits every artifact."""
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, not {options.rounds}")
    reports = [ExportReport.from_json(path) for path in options.artifacts]
    times: list[list[float]] = [[] for _ in reports]
    for _ in range(options.rounds):
        for path, report, taken in zip(options.artifacts, reports, times, strict=True):
            shape = [size or 224 for size in report.input_shape[1:]]
            images = np.zeros((options.batch_size, *shape), "float32")
            taken.append(run_artifact(path, images, options.batch_size, threads=options.threads)[1])
    results: list[dict[str, Any]] = [
        {"artifact": path, "network": report.network, "format": report.format, "size_bytes": report.size_bytes,
         "batch_size": options.batch_size, "min_ms": min(taken), "median_ms": float(np.median(taken)), "max_ms": max(taken)}
        for path, report, taken in zip(options.artifacts, reports, times, strict=True)
    ]  # fmt: skip
    if options.json:
        return print_json(results)
    columns = ("artifact", "network", "format", "MB", "min (ms)", "median (ms)", "max (ms)", "÷ first")
    rows = [
        (row["artifact"], row["network"], row["format"], f"{row['size_bytes'] / 1e6:.2f}",
         *(f"{row[name]:.2f}" for name in ("min_ms", "median_ms", "max_ms")),
         f"{row['median_ms'] / results[0]['median_ms']:.2f}")
        for row in results
    ]  # fmt: skip
    print_table(columns, rows, numbers=columns[3:])


def _facts(report: ExportReport) -> list[tuple[str, str]]:
    agreement = "" if report.top1_agreement is None else f", top-1 agreement {report.top1_agreement:.2%}"
    facts = [
        ("format", report.format + (f", {report.options['quantization']}" if report.options.get("quantization") else "")),
        ("network", f"{report.network}, weights {report.weights_tag or 'not published ones'}"),
        ("size", f"{report.size_bytes / 1e6:.2f} MB"),
        ("latency", f"{report.latency_ms:.2f} ms per image"),
        ("difference", f"{report.relative_difference:.1e} relative{agreement}, on {report.real_images} real and "
                       f"{report.random_images} random images"),
        ("operators", f"{sum(report.operators.values())} of {len(report.operators)} kinds"),
    ]  # fmt: skip
    if report.partitions is not None:
        facts.append(("partitions", f"{report.partitions} of XNNPACK"))
    return facts


def _calibration(folder: str, count: int, network: Any) -> np.ndarray:
    """At most `count` image files of a folder and its subfolders, evenly spaced, as `network` takes them."""
    if not isinstance(network, Network):
        raise ValueError("--calibration needs a network of this package: of others the preprocessing is unknown")
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _IMAGE_FILES)
    if not files:
        raise ValueError(f"--calibration must be a folder of {', '.join(_IMAGE_FILES)} files, not {folder!r}")
    if count < 1:
        raise ValueError(f"--calibration-images must be at least 1, not {count}")
    entry = expected_input(network)
    chosen = files[:: -(-len(files) // count)]
    return preprocess_input(np.stack([load_image(path, entry) for path in chosen]), network)
