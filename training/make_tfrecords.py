"""Packs a folder of images into shards: `python -m training.make_tfrecords folder:PATH OUT`.

The files are taken as they are, in random order; those that cannot be decoded are left out and named. Every shard is written to its
end or not at all, and the program, started again after an interruption, goes on with the next one.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data import open_data
from training.images import reason
from training.parts import Files
from training.recipe import DataRecipe
from training.records import example_record
from training.run_folder import replacing
from training.tfrecords import CLASSES, INDEX, PARTS

UNFINISHED = "unfinished.json"
SHARD_BYTES = 128 * 2**20  # of a shard, where their number is not given


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a shard holds.

    Attributes:
        file: its name.
        part: "train" or "test".
        files: paths of the images in the source's folder, and their labels.
    """

    file: str
    part: str
    files: tuple[tuple[str, int], ...]


def plan(part: str, files: Files, shards: int, root: Path) -> list[Plan]:
    """The images of a part, shuffled always the same way, in shards that differ by one image at most."""
    order = np.random.default_rng(0).permutation(len(files))
    shards = min(shards, len(files))
    return [
        Plan(f"{part}-{number:05}-of-{shards:05}.tfrecord", part,
             tuple((str(Path(files.paths[place]).relative_to(root)), int(files.labels[place])) for place in places))
        for number, places in enumerate(np.array_split(order, shards))
    ]  # fmt: skip


def write_shard(
    shard: Plan, out: Path, root: Path, pool: ThreadPoolExecutor, done: Callable[[], Any]
) -> dict[str, Any]:
    """Writes a shard's file; returns its entry of the index, with what was left out and why."""

    def read(file: tuple[str, int]) -> tuple[bytes, str | None]:
        content = (root / file[0]).read_bytes()
        return content, reason(content)

    count, left_out = 0, []
    with replacing(out / shard.file) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for (name, label), (content, problem) in zip(shard.files, pool.map(read, shard.files), strict=True):
                if problem is None:
                    writer.write(example_record(content, label, name))
                    count += 1
                else:
                    left_out.append([name, problem])
                done()
        size = Path(temporary).stat().st_size
    return {"file": shard.file, "count": count, "bytes": size, "left_out": left_out}


def convert(source: str, out: Path, shards: int, recipe: DataRecipe, console: Console) -> dict[str, Any]:
    """Writes all shards that are not there yet, then the index; returns the index.

    Args:
        source: path of a folder of images, as in the recipes' "folder:PATH".
        out: folder to write to.
        shards: how many to make of the training part, 0 for as many as give files of 128 MB; of the test part in proportion.
        recipe: says what is held out, where the source has no test part of its own.
        console: for progress.

    Raises:
        ValueError: the source cannot be read, or `out` holds other data.
    """
    data = open_data(recipe)
    assert isinstance(data.train, Files) and isinstance(data.test, Files)
    each = -(-data.train_count // shards) if shards else None
    root = Path(source)
    plans = [
        plan(part, files, _shards(files, each), root)
        for part, files in zip(PARTS, (data.train, data.test), strict=True)
    ]
    every = [shard for part in plans for shard in part]
    sizes = [[(root / name).stat().st_size for name, _ in shard.files] for shard in every]
    fingerprint = hashlib.sha256(repr((data.class_names, every, sizes)).encode()).hexdigest()
    written = _written(out, fingerprint)
    out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ThreadPoolExecutor() as pool, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("images", total=sum(len(shard.files) for shard in every))
        for shard in every:
            if shard.file in written:
                progress.advance(task, len(shard.files))
                continue
            written[shard.file] = write_shard(shard, out, root, pool, lambda: progress.advance(task))
            _write_json(out / UNFINISHED, {"fingerprint": fingerprint, "shards": written})
    entries = {part: [written[shard.file] for shard in every if shard.part == part] for part in PARTS}
    index = {"source": f"folder {root.name}", "fingerprint": fingerprint, "shards": entries}
    with replacing(out / CLASSES) as temporary:
        Path(temporary).write_text("".join(f"{name}\n" for name in data.class_names), "utf-8")
    _write_json(out / INDEX, index)
    (out / UNFINISHED).unlink(missing_ok=True)
    return index


def _shards(files: Files, each: int | None) -> int:
    if each is not None:
        return -(-len(files) // each)
    return -(-sum(Path(path).stat().st_size for path in files.paths) // SHARD_BYTES) or 1


def _written(out: Path, fingerprint: str) -> dict[str, Any]:
    """Entries of the shards that an earlier start finished."""
    known: dict[str, Any] = {}
    for name in (INDEX, UNFINISHED):
        if (out / name).is_file():
            content = json.loads((out / name).read_text("utf-8"))
            if content["fingerprint"] != fingerprint:
                raise ValueError(
                    f"{str(out)!r} holds records of other images, or in other shards: name another folder, or delete it"
                )
            entries = content["shards"]
            known |= (
                entries if name == UNFINISHED else {entry["file"]: entry for part in PARTS for entry in entries[part]}
            )
    return {
        file: entry
        for file, entry in known.items()
        if (out / file).is_file() and (out / file).stat().st_size == entry["bytes"]
    }


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def report(index: dict[str, Any], console: Console) -> None:
    """Prints what was written, and what was left out."""
    for part in PARTS:
        entries = index["shards"][part]
        count = sum(entry["count"] for entry in entries)
        console.print(f"{part}: {count} images in {len(entries)} files", highlight=False)
    left_out = [problem for part in PARTS for entry in index["shards"][part] for problem in entry["left_out"]]
    if left_out:
        console.print(f"{len(left_out)} images cannot be decoded and were left out:", highlight=False)
    for name, problem in left_out:
        console.print(f"  {name}: {problem}", highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 1 for wrong input, 130 after Ctrl-C."""
    defaults = DataRecipe(source="digits")
    parser = argparse.ArgumentParser(prog="python -m training.make_tfrecords",
                                     description="Pack a folder of images into shards for data.source tfrecord:OUT.")  # fmt: skip
    parser.add_argument("source", help="folder:PATH, of class folders, or of folders train and val of such")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--shards", type=int, default=0, metavar="N",
                        help="files for the training images (default: files of 128 MB)")  # fmt: skip
    parser.add_argument("--test-fraction", type=float, default=defaults.test_fraction,
                        help="share of every class to hold out, if there is no folder val (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--split-seed", type=int, default=defaults.split_seed, help="draws these (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    console = Console()
    try:
        kind, _, place = options.source.partition(":")
        if kind != "folder" or not place:
            raise ValueError(f"the source must be folder:PATH, not {options.source!r}")
        if options.shards < 0 or not 0 < options.test_fraction < 1:
            raise ValueError("--shards must be at least 1, and --test-fraction between 0 and 1")
        recipe = DataRecipe(source=options.source, test_fraction=options.test_fraction, split_seed=options.split_seed)
        index = convert(place, options.out, options.shards, recipe, console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. The same command goes on with the next file.")
        return 130
    report(index, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
