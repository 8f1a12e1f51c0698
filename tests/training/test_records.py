"""Records: the converter, and epochs of what it wrote."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import tensorflow as tf

from training import make_tfrecords, records
from training.data import Data, open_data
from training.parts import Files, Taken
from training.recipe import DataRecipe

CLASSES = ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of 23 numbered images and one that is damaged, and 7 of each to test on."""
    root = tmp_path_factory.mktemp("images")
    for place, name in enumerate(CLASSES):
        photos.make_folder(root / "train", [name], photos.numbered_photos(23, 30 * place) | {"damaged.jpg": b"text"})
        photos.make_folder(root / "val", [name], photos.numbered_photos(7, 100 + 10 * place))
    return root


@pytest.fixture(scope="module")
def written(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("records") / "out"
    assert make_tfrecords.main([f"folder:{source}", str(out), "--shards", "5"]) == 0
    return out


@pytest.fixture(scope="module")
def data(written: Path) -> Data:
    return open_data(DataRecipe(source=f"tfrecord:{written}"))


def content(part: Any, handle: tf.Tensor) -> tuple[int, int]:
    """The number that an image shows, and its label."""
    encoded, label = part.load(handle)
    return int(photos.by_pillow(encoded.numpy())[0, 0, 0]), int(label)


def test_files_and_index(source: Path, written: Path, data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    index = json.loads((written / "index.json").read_text())
    assert {part: len(shards) for part, shards in index["shards"].items()} == {"train": 5, "test": 2}
    assert (written / "classes.txt").read_text().split() == list(CLASSES) == list(data.class_names)
    assert data.train_count == 69 and data.test_count == 21
    listed = {shard["file"] for shards in index["shards"].values() for shard in shards}
    assert {path.name for path in written.iterdir()} == {*listed, "index.json", "classes.txt"}
    names = [name for shard in index["shards"]["train"] for name, _ in shard["left_out"]]
    assert sorted(names) == [f"train/{name}/damaged.jpg" for name in CLASSES]
    found = {}
    for shards in index["shards"].values():
        for shard in shards:
            for record in tf.data.TFRecordDataset(str(written / shard["file"])):
                features = tf.train.Example.FromString(record.numpy()).features.feature
                name = features["image/filename"].bytes_list.value[0].decode()
                assert name.split("/")[1] == CLASSES[features["image/class/label"].int64_list.value[0]]
                found[name] = features["image/encoded"].bytes_list.value[0]
    assert found == {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*.png")}
    assert make_tfrecords.main([f"folder:{source}", str(written), "--shards", "5"]) == 0
    said = capsys.readouterr().out
    assert "train: 69 images in 5 files" in said and "3 images cannot be decoded" in said and "it is no image" in said


def epoch(data: Data, number: int, batch: int, low: int, high: int, first: int = 0) -> list[list[tuple[int, int]]]:
    """Of every step what is shown."""
    taken = Taken(batch, low, high, data.train_count // batch)
    steps = data.train.drawn(tf.constant([9, number]), taken, tf.constant(first))
    return [[content(data.train, handles[0]) for handles in step] for step in steps]


@pytest.mark.parametrize("batch", [12, 16, 7, 69])
def test_epochs(data: Data, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image once at most with its label, whatever is read; and the same for any part of it and from any step on."""
    monkeypatch.setattr(records, "SHUFFLED", 10)  # so that lanes have several blocks
    whole = [epoch(data, number, batch, 0, batch) for number in (0, 1)]
    for steps in whole:
        shown = [image for step in steps for image in step]
        assert len(set(shown)) == len(shown) == 69 // batch * batch
        assert all(number // 30 == label for number, label in shown)
    assert whole[0][0] != whole[1][0] and (batch == 69 or set(whole[0][0]) != set(whole[1][0]))
    for low, high in ((0, batch // 2), (batch // 3, batch), (batch - 1, batch)):
        first = len(whole[1]) // 2
        assert epoch(data, 1, batch, low, high, first) == [step[low:high] for step in whole[1][first:]]


def test_order_is_random(data: Data) -> None:
    """Classes are mixed in every batch, and an image's place differs between epochs."""
    shown = [[number for step in epoch(data, number, 12, 0, 12) for number, _ in step] for number in range(2)]
    for numbers in shown:
        assert all(len({number // 30 for number in numbers[start : start + 12]}) == 3 for start in range(0, 60, 12))
    places = [{number: place for place, number in enumerate(numbers)} for numbers in shown]
    moves = [abs(places[0][number] - places[1][number]) for number in places[0].keys() & places[1].keys()]
    assert np.mean(moves) > 12


@pytest.mark.parametrize("start, stop", [(0, 21), (0, 11), (11, 21), (5, 5), (13, 14)])
def test_test_images_in_order(data: Data, start: int, stop: int) -> None:
    everything = [content(data.test, handle) for handle in data.test.in_order(0, 21)]
    assert sorted(everything) == [(100 + 10 * place + number, place) for place in range(3) for number in range(7)]
    assert [content(data.test, handle) for handle in data.test.in_order(start, stop)] == everything[start:stop]


def test_names_of_records(data: Data) -> None:
    handles = list(data.test.in_order(0, 21))
    assert {data.test.name(handle) for handle in handles} >= {"val/ant/100.png", "val/cow/126.png"}


def test_interrupted_conversion_goes_on(
    source: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the third file: the two before are kept as they are, and the result is that of the whole."""
    command, done = [f"folder:{source}", str(tmp_path / "out"), "--shards", "5"], []
    reason = make_tfrecords.reason

    def stopping(content: bytes) -> str | None:
        done.append(content)
        if len(done) == 40:
            raise KeyboardInterrupt
        return reason(content)

    monkeypatch.setattr(make_tfrecords, "reason", stopping)
    assert make_tfrecords.main(command) == 130
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    assert 1 <= len(kept) < 5 and not (tmp_path / "out" / "index.json").exists()
    with pytest.raises(ValueError, match="to the end"):
        open_data(DataRecipe(source=f"tfrecord:{tmp_path / 'out'}"))
    assert make_tfrecords.main(command) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_held_out_by_share(tmp_path: Path) -> None:
    """The same images as those of the folder itself, in files as large as those for training."""
    photos.make_folder(tmp_path / "in", ["a", "b"], photos.numbered_photos(10))
    arguments = [
        f"folder:{tmp_path / 'in'}",
        str(tmp_path / "out"),
        "--test-fraction",
        "0.3",
        "--split-seed",
        "2",
        "--shards",
        "2",
    ]
    assert make_tfrecords.main(arguments) == 0
    data = open_data(DataRecipe(source=f"tfrecord:{tmp_path / 'out'}"))
    folder = open_data(DataRecipe(source=f"folder:{tmp_path / 'in'}", test_fraction=0.3, split_seed=2))
    assert isinstance(folder.test, Files) and data.test_count == 6
    assert {data.test.name(handle) for handle in data.test.in_order(0, 6)} == {
        os.path.relpath(path, tmp_path / "in") for path in folder.test.paths
    }


def test_wrong_input(source: Path, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[list[object], str]] = [
        ([f"folder:{tmp_path / 'absent'}", tmp_path / "out"], "does not exist"),
        ([tmp_path, tmp_path / "out"], "the source must be folder:PATH"),
        ([f"folder:{source}", written, "--shards", "4"], "holds records of other images"),
        ([f"folder:{source}", tmp_path / "out", "--shards", "-1"], "--shards must be at least 1"),
        ([f"folder:{source}", tmp_path / "out", "--test-fraction", "1"], "--test-fraction between 0 and 1"),
    ]
    for arguments, message in cases:
        assert make_tfrecords.main([str(argument) for argument in arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_folders_of_records(written: Path, tmp_path: Path) -> None:
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first, second = sorted(tmp_path.glob("train-*"))[:2]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{first.name}' has .* bytes, index.json knows it with"):
        open_data(DataRecipe(source=f"tfrecord:{tmp_path}"))
    first.write_bytes((written / first.name).read_bytes())
    second.unlink()
    with pytest.raises(ValueError, match=f"{second.name}' is missing"):
        open_data(DataRecipe(source=f"tfrecord:{tmp_path}"))
