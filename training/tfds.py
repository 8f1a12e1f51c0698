"""Datasets of tensorflow-datasets that are prepared on this machine. Nothing is downloaded here."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnets.assembly import nearest
from training.folders import held_out
from training.parts import Contents, Part, Split
from training.recipe import DataRecipe
from training.records import Records, Shard

IN_MEMORY = 2**30  # bytes of a training part: larger ones are read from their files
TEST_SPLITS = ("validation", "test")


def open_tfds(name: str, recipe: DataRecipe) -> tuple[Part, Part, tuple[str, ...]]:
    """Training part, test part, and names of the classes of the dataset `name`.

    The test part is the split "validation", else "test", else drawn from "train" as the recipe says.

    Raises:
        ValueError: tensorflow-datasets is not installed, has no such dataset, it is not prepared on this machine, or it is
            not one of images with a class each.
    """
    builder = _builder(name)
    keys = _keys(builder)
    names = tuple(builder.info.features[keys[1]].names)
    splits = builder.info.splits  # empty for made-up data, which have any split
    test = next((split for split in TEST_SPLITS if not splits or split in splits), None)
    if "train" in splits and splits["train"].num_bytes > IN_MEMORY:
        if test is None:
            raise ValueError(f"data.source: tfds:{name} has none of the splits {', '.join(TEST_SPLITS)} to test on")
        return _records(builder, "train", keys), _records(builder, test, keys), names
    train = _in_memory(builder, "train", keys)
    if test is not None:
        return train, _in_memory(builder, test, keys), names
    chosen = held_out(train.labels, names, recipe.test_fraction, recipe.split_seed)
    return train.only(~chosen), train.only(chosen), names


def open_split(name: str, wanted: Sequence[str] = TEST_SPLITS) -> tuple[Part, tuple[str, ...], str]:
    """The first of the `wanted` splits that the dataset `name` has, the names of the classes, and what to call it.

    Raises:
        ValueError: as `open_tfds` does, or it has none of them.
    """
    builder = _builder(name)
    keys, splits = _keys(builder), builder.info.splits  # empty for made-up data, which have any split
    split = next((split for split in wanted if not splits or split in splits), None)
    if split is None:
        raise ValueError(
            f"data.source: {_title(builder)} has no split {' or '.join(wanted)}: {nearest(wanted[0], splits)}"
        )
    large = bool(splits) and splits[split].num_bytes > IN_MEMORY
    part = (_records if large else _in_memory)(builder, split, keys)
    return part, tuple(builder.info.features[keys[1]].names), f"{_title(builder)} {split}"


def _builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"data.source 'tfds:{name}' needs tensorflow-datasets, which is not installed: pip install tensorflow-datasets"
        ) from error
    try:
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise ValueError(f"data.source: tensorflow-datasets has no dataset {name!r}: {nearest(name, known)}") from None


def _keys(builder: Any) -> tuple[str, str]:
    """Names of the features that are image and class."""
    import tensorflow_datasets as tfds

    keys, features = builder.info.supervised_keys, builder.info.features
    if keys is not None and len(keys) == 2:
        image, label = (features[key] for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise ValueError(f"data.source: {_title(builder)} is no dataset of images with a class each")


def _title(builder: Any) -> str:
    """What the dataset is called in a recipe."""
    config = builder.builder_config
    return f"tfds:{builder.name}/{config.name}" if config is not None else f"tfds:{builder.name}"


def _read(builder: Any, split: str, **options: Any) -> tf.data.Dataset:
    try:
        return builder.as_dataset(split=split, shuffle_files=False, **options)
    except AssertionError:  # what tensorflow-datasets raises for data that are not there
        raise ValueError(
            f"data.source: {_title(builder)} is not prepared in {os.fspath(builder.data_dir)!r}: run "
            f"`tfds build {_title(builder).removeprefix('tfds:')}`, or set TFDS_DATA_DIR to where it is"
        ) from None


def _in_memory(builder: Any, split: str, keys: tuple[str, str]) -> Split | Contents:
    """A part as pixels where all images have the same size, else as they are stored."""
    import tensorflow_datasets as tfds

    image, label = keys
    shape = builder.info.features[image].shape
    if None not in shape:
        examples = list(_read(builder, split).map(lambda example: (example[image], example[label])).as_numpy_iterator())
        pixels = np.stack([pixels for pixels, _ in examples])
        return Split(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), np.array([number for _, number in examples]))
    dataset = _read(builder, split, decoders={image: tfds.decode.SkipDecoding()})
    examples = list(dataset.map(lambda example: (example[image], example[label])).as_numpy_iterator())
    contents, labels = [content for content, _ in examples], np.array([number for _, number in examples])
    return Contents(contents, labels, f"{_title(builder)} {split}")


def _records(builder: Any, split: str, keys: tuple[str, str]) -> Records:
    """A part in its files, of which the images are left encoded."""
    import tensorflow_datasets as tfds

    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(f"data.source: {_title(builder)} is stored as {builder.info.file_format.value}, and only tfrecord can "
                         "be read: build it with `--file_format=tfrecord`")  # fmt: skip
    (image, label), features = keys, builder.info.features
    decoders = {image: tfds.decode.SkipDecoding()}

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = features.deserialize_example(record, decoders=decoders)
        return example[image], tf.cast(example[label], tf.int32)

    def describe(record: tf.Tensor) -> str:
        example = features.deserialize_example(record, decoders=decoders)
        names = [example[key].numpy().decode() for key in ("file_name", "id") if key in example]
        return f"{_title(builder)} {split}, {names[0] if names else 'record without a name'}"

    info = builder.info.splits[split]
    return Records([Shard(str(path), count) for path, count in zip(info.filepaths, info.shard_lengths, strict=True)],
                   parse, describe)  # fmt: skip
