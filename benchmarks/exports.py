"""Every network in every format: `make export-all`, or `python -m benchmarks.exports`.

Exports each network of the registry, with random weights and at a small input, as SavedModel, ONNX, TFLite and 8-bit TFLite,
and writes what the proofs measured: benchmarks/results/exports.csv, and the page docs/exports.md. Takes hours: a night on two
cores. Interrupted, it goes on where it was; `--fresh` starts over.
"""

import argparse
import csv
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras_resnets as kr
from benchmarks.harness import RESULTS
from docs import exports_page

TABLE = RESULTS / "exports.csv"
FORMATS: dict[str, dict[str, Any]] = {
    "saved_model": {"format": "saved_model"},
    "onnx": {"format": "onnx"},
    "tflite": {"format": "tflite"},
    "tflite int8": {"format": "tflite", "quantization": "int8", "interface": "float32", "quantizer": "converter"},
}
CALIBRATION_IMAGES = 32
# Pixels; networks for smaller images keep their own size. Inceptions end in too few pixels for the statistics that are made up
# here: at 96 the logits of Inception-v4, unfolded and in Keras, are 1e-5 from those in double precision, at 160 they are 2e-6.
SMALL, SMALL_INCEPTION = 64, 160
TIMEOUT = 3600  # seconds for one network

FRESH = multiprocessing.get_context("forkserver")  # new processes, in which TensorFlow is imported already
FRESH.set_forkserver_preload(["keras_resnets", "tensorflow"])


@dataclasses.dataclass(frozen=True)
class Row:
    """One network in one format; `error` instead of figures where the export was refused."""

    network: str
    family: str
    input_size: int
    format: str
    relative_difference: float | str = ""
    top1_agreement: float | str = ""
    size_mb: float | str = ""
    latency_ms: float | str = ""
    operators: int | str = ""
    partitions: int | str = ""
    seconds: float | str = ""
    error: str = ""


def read_table(path: pathlib.Path = TABLE) -> list[Row]:
    """The rows measured so far, as text."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def write_table(rows: Sequence[Row], path: pathlib.Path = TABLE) -> None:
    """Rows in the registry's order, by renaming a finished file."""
    order = {name: place for place, name in enumerate(kr.list_models())}
    rows = sorted(rows, key=lambda row: (order.get(row.network, 0), list(FORMATS).index(row.format)))
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
    os.replace(partial, path)


def small_size(name: str) -> int:
    """The side of the input that a network is exported with, in pixels."""
    info = kr.model_info(name)
    return min(info.input_size, SMALL_INCEPTION if info.family == "Inception" else SMALL)


def measure(name: str, formats: Sequence[str]) -> Iterator[Row]:
    """Exports one network, format by format; a refusal becomes its row's error."""
    import keras

    from keras_resnets.export.photos import real_images

    keras.utils.set_random_seed(0)
    size = small_size(name)
    network = kr.create_model(name, input_shape=(size, size, 3), classifier_activation=None)
    make_statistics_matter(network)
    for format in formats:
        options = dict(FORMATS[format])
        if "quantization" in options:  # of untrained weights the classes mean nothing, how far off the logits are does
            options |= {"calibration": real_images(network, CALIBRATION_IMAGES), "tolerance": 1.0, "min_agreement": 0.0}
        row, started = Row(name, kr.model_info(name).family, size, format), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            suffix = "" if options["format"] == "saved_model" else f".{options['format']}"
            try:
                report = kr.export(network, pathlib.Path(folder, f"network{suffix}"), **options)
            except ValueError as error:
                row = dataclasses.replace(row, error=" ".join(str(error).split())[:300])
            else:
                row = dataclasses.replace(
                    row, relative_difference=f"{report.relative_difference:.1e}", top1_agreement=f"{report.top1_agreement:.3f}",
                    size_mb=round(report.size_bytes / 1e6, 2), latency_ms=round(report.latency_ms, 2),
                    operators=sum(report.operators.values()), partitions="" if report.partitions is None else report.partitions,
                )  # fmt: skip
        yield dataclasses.replace(row, seconds=round(time.monotonic() - started, 1))


def make_statistics_matter(network: Any) -> None:
    """Batch normalisation that is not the identity, so that folding it wrongly would show: random scales and offsets, and the
    statistics of photographs and noise, on which exports are compared.

    The offsets are such that most values pass the ReLUs: an untrained deep network magnifies every rounding otherwise.
    """
    import numpy as np

    from keras_resnets.export.photos import real_images

    generator = np.random.default_rng(0)
    for variable in network.variables:
        if variable.path.endswith("gamma"):
            variable.assign(generator.uniform(0.8, 1.2, variable.shape))
        elif variable.path.endswith("beta"):
            variable.assign(generator.normal(2, 0.2, variable.shape))
    images = real_images(network, 12)
    images = np.concatenate([images, generator.normal(size=images.shape).astype(images.dtype)])
    norms = [layer for layer in network._flatten_layers() if hasattr(layer, "moving_variance")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    network(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def measure_to_file(name: str, formats: Sequence[str], folder: pathlib.Path) -> None:
    """Writes what `measure` gives as a table, row by row, and what is printed meanwhile, converters' chatter, beside it."""
    rows: list[Row] = []
    with (folder / f"{name}.log").open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        for row in measure(name, formats):
            rows.append(row)
            write_table(rows, folder / f"{name}.csv")


def measure_in_process(name: str, formats: Sequence[str], folder: pathlib.Path) -> list[Row]:
    """`measure` in a process of its own: one network's end is not the table's."""
    process = FRESH.Process(target=measure_to_file, args=(name, formats, folder))
    process.start()
    process.join(TIMEOUT)
    rows, status = read_table(folder / f"{name}.csv"), process.exitcode
    if status == 0:
        return rows
    process.kill()
    if status == -signal.SIGKILL:
        error = "killed, as a process is that takes more memory than there is"
    else:
        printed = (folder / f"{name}.log").read_text(errors="replace").split()
        failed = f"not done after {TIMEOUT} s" if status is None else f"exit status {status}"
        error = " ".join([f"{failed}:", *printed[-40:]])[:300]
    info, left = kr.model_info(name), [format for format in formats if format not in {row.format for row in rows}]
    return [*rows, *(Row(name, info.family, small_size(name), format, error=error) for format in left)]


def pending(rows: Sequence[Row], pattern: str) -> dict[str, list[str]]:
    """What is left to do, networks with few parameters first: formats by network that have no row of the input size of today."""
    done = {(row.network, row.format) for row in rows if int(row.input_size) == small_size(row.network)}
    names = sorted(kr.list_models(pattern), key=lambda name: kr.model_info(name).params)
    left = {name: [format for format in FORMATS if (name, format) not in done] for name in names}
    return {name: formats for name, formats in left.items() if formats}


def run(pattern: str, jobs: int, fresh: bool) -> list[Row]:
    """Measures what is pending, and writes the table after every network."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    rows = [row for row in read_table() if row.network in set(kr.list_models())]
    if fresh:
        rows = [row for row in rows if row.network not in set(kr.list_models(pattern))]
    left, lock = pending(rows, pattern), threading.Lock()
    rows = [row for row in rows if row.format not in left.get(row.network, ())]
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("networks", total=len(left))

        def one(name: str) -> None:
            measured = measure_in_process(name, left[name], pathlib.Path(folder))
            with lock:
                rows.extend(measured)
                write_table(rows)
                exports_page.write(read_table())
                progress.advance(task)
                for row in measured:
                    if row.error:
                        progress.console.print(f"{row.network}, {row.format}: {row.error}", markup=False)

        try:
            for finished in [pool.submit(one, name) for name in left]:
                finished.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; exit code 1 if a network was refused in a format, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="networks, such as 'resnest*' (default: all)")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="at once (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the table")
    options = parser.parse_args(arguments)
    if not kr.list_models(options.pattern):
        parser.error(f"no network is called {options.pattern!r}")
    try:
        rows = run(options.pattern, options.jobs, options.fresh)
    except KeyboardInterrupt:
        print("Interrupted: started again, it goes on with the next network.")
        return 130
    print(f"{len({row.network for row in rows})} networks in {TABLE} and {exports_page.PAGE}")
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
