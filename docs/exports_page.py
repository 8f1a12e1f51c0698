"""docs/exports.md: what the proofs of every network in every format measured, see benchmarks/exports.py."""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import keras_resnets as kr

PAGE = pathlib.Path(__file__).parent / "exports.md"
TITLES = {"saved_model": "SavedModel", "onnx": "ONNX", "tflite": "TFLite", "tflite int8": "TFLite, 8 bits"}
SIZE_AT_MOST = 0.27  # of the float32 file
HEAD = """# Every network in every format

Written by `make export-all` (`python -m benchmarks.exports`): each network of the registry with random weights, normalised by
statistics of photographs and noise, at the input size given, exported by `kr.export` and run in its own runtime on six photographs
and six random images (8 bits: on 32 parts of photographs, from which its scales were taken).

* **difference**: the largest of a logit from that of the Keras model, relative to the largest logit. Of 8 bits it says what an
  *untrained* network loses, more than a trained one does; for those see [mobile.md](mobile.md).
* **agreement**: images with the same top-1 class. The logits of untrained networks hardly differ, so 8 bits change many.
* **size** in MB; **latency** in ms for one image of this size, on a shared machine with two cores; **operators** in the graph;
  **partitions** that TFLite's XNNPACK delegate runs: 1 is best.
"""


def page(rows: Sequence[Any]) -> str:
    """The page's text from the rows of the table."""
    networks = kr.list_models()
    done = {name for name in networks if len([row for row in rows if row.network == name]) == len(TITLES)}
    lines = [HEAD]
    missing = [name for name in networks if name not in done]
    if missing:
        lines += [f"Not measured yet ({len(missing)} of {len(networks)}): {', '.join(missing)}.", ""]
    refused = [row for row in rows if row.error]
    if refused:
        lines += ["## Refused", "", "| network | format | why |", "|---|---|---|"]
        lines += [f"| `{row.network}` | {TITLES[row.format]} | {row.error} |" for row in refused] + [""]
    lines += ["## Summary", "", "| format | networks | largest difference | lowest agreement |", "|---|---:|---:|---:|"]
    for format, title in TITLES.items():
        good = [row for row in rows if row.format == format and not row.error]
        if good:
            largest = max(float(row.relative_difference) for row in good)
            lines.append(
                f"| {title} | {len(good)} | {largest:.1e} | {min(float(row.top1_agreement) for row in good):.1%} |"
            )
    lines += ["", *small_files(rows), ""]
    for family in sorted({row.family for row in rows}, key=str.lower):
        header = "| network | input | format | difference | agreement | size | latency | operators | partitions |"
        lines += [f"## {family}", "", header, "|---|---:|---|---:|---:|---:|---:|---:|---:|"]
        named = None
        for row in rows:
            if row.family == family and not row.error:
                start = "| | " if row.network == named else f"| `{row.network}` | {row.input_size} "
                named = row.network
                lines.append(f"{start}| {TITLES[row.format]} | {row.relative_difference} | {float(row.top1_agreement):.0%} | "
                             f"{row.size_mb} | {row.latency_ms} | {row.operators} | {row.partitions} |")  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def small_files(rows: Sequence[Any]) -> list[str]:
    """A sentence about the sizes of 8-bit files; none if there are none."""
    sizes = {(row.network, row.format): float(row.size_mb) for row in rows if not row.error}
    ratios = {name: size / sizes[name, "tflite"] for (name, format), size in sizes.items()
              if format == "tflite int8" and (name, "tflite") in sizes}  # fmt: skip
    if not ratios:
        return []
    large = sorted(
        (name for name in ratios if round(ratios[name], 2) > SIZE_AT_MOST), key=ratios.__getitem__, reverse=True
    )
    more = ". More: " + ", ".join(f"`{name}` {ratios[name]:.2f}" for name in large) if large else ""
    return [f"8-bit files take {statistics.median(ratios.values()):.3f} of the float32 files in the median, and at most "
            f"{SIZE_AT_MOST} for {len(ratios) - len(large)} of {len(ratios)} networks{more}."]  # fmt: skip


def write(rows: Sequence[Any]) -> pathlib.Path:
    """Writes the page and returns its path."""
    PAGE.write_text(page(rows), "utf-8")
    return PAGE
