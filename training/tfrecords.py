"""Folders of TFRecord files that `training.make_tfrecords` wrote."""

import json
from pathlib import Path
from typing import Any

from training.records import Records, Shard, describe_record, parse_record

INDEX = "index.json"
CLASSES = "classes.txt"
PARTS = ("train", "test")


def open_tfrecords(path: Path) -> tuple[Records, Records, tuple[str, ...]]:
    """Training part, test part, and names of the classes.

    Raises:
        ValueError: there is no such folder, it was not written to its end, or a file of it is missing or has another size.
    """
    if not (path / INDEX).is_file():
        raise ValueError(
            f"data folder {str(path)!r} has no {INDEX}: it must be written, to the end, by python -m training.make_tfrecords"
        )
    index: dict[str, Any] = json.loads((path / INDEX).read_text("utf-8"))
    names = tuple((path / CLASSES).read_text("utf-8").splitlines())
    train, test = (_part(path, index["shards"][part]) for part in PARTS)
    return train, test, names


def _part(path: Path, shards: list[dict[str, Any]]) -> Records:
    for shard in shards:
        file = path / shard["file"]
        size = file.stat().st_size if file.is_file() else None
        if size != shard["bytes"]:
            raise ValueError(
                f"{str(file)!r} {'is missing' if size is None else f'has {size} bytes'}, {INDEX} knows it with "
                f"{shard['bytes']} bytes: copy it again, or write the folder again"
            )
    return Records(
        [Shard(str(path / shard["file"]), shard["count"]) for shard in shards], parse_record, describe_record
    )
