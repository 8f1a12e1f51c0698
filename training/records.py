"""Images stored as records in files (shards), which are read from beginning to end."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from training.draws import seed_for
from training.parts import Part, Taken

LANES = 16
SHUFFLED = 2048  # records that are in memory to be shuffled, and as many that are being read meanwhile
BUFFER = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Shard:
    """A TFRecord file, and how many records it holds."""

    path: str
    count: int


@dataclasses.dataclass(frozen=True)
class Records(Part):
    """Images in shards.

    An epoch puts the shards in random order, one after the other, and cuts this sequence into lanes of equal length. A batch
    takes as many records of every lane; within a lane, blocks of records are shuffled. A process reads the lanes that its
    part of the batch comes from, and of their shards no more than the lane has: two processes read two halves of the data.
    What a resumed run has done already is skipped without being decoded.

    Attributes:
        shards: the files.
        parse: gives content and label of a record.
        describe: gives a name to a record.
    """

    shards: Sequence[Shard]
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    describe: Callable[[tf.Tensor], str]

    def __len__(self) -> int:
        return sum(shard.count for shard in self.shards)

    def drawn(self, seed: tf.Tensor, taken: Taken, first: tf.Tensor) -> tf.data.Dataset:
        lanes = max(number for number in range(1, LANES + 1) if taken.batch % number == 0)
        per_step, length, block = taken.batch // lanes, len(self) // lanes, -(-SHUFFLED // lanes)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(self.shards)), seed_for("shards", seed))
        counts = tf.gather(tf.constant([shard.count for shard in self.shards], tf.int64), order)
        paths = tf.gather(tf.constant([shard.path for shard in self.shards]), order)
        first = tf.cast(first, tf.int64)
        done = first * per_step

        def lane(number: tf.Tensor) -> tf.data.Dataset:
            lane_seed = tf.random.fold_in(seed_for("records", seed), tf.cast(number, tf.int32))

            def shuffled(block_number: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
                block_seed = tf.random.fold_in(lane_seed, tf.cast(block_number, tf.int32))
                return tf.gather(
                    records, tf.random.experimental.stateless_shuffle(tf.range(tf.size(records)), block_seed)
                )

            start = number * length + done // block * block
            records = _read(paths, counts, start, (number + 1) * length)
            blocks = records.batch(block).enumerate(start=done // block).map(shuffled).prefetch(1)
            return blocks.unbatch().skip(done % block).batch(per_step, drop_remainder=True).take(taken.steps - first)

        begin, end = taken.low // per_step, -(-taken.high // per_step)

        def step(records: tf.Tensor) -> tf.Tensor:
            """The next record of the lane and step is what takes the place of one."""
            pairs = tf.reshape(tf.stack([records, tf.roll(records, -1, axis=1)], axis=-1), (-1, 2))
            return pairs[taken.low - begin * per_step : taken.high - begin * per_step]

        together = tf.data.Dataset.range(begin, end).interleave(
            lane, cycle_length=end - begin, num_parallel_calls=end - begin, deterministic=True
        )
        return together.batch(end - begin, drop_remainder=True).map(step)

    def in_order(self, start: int, stop: int) -> tf.data.Dataset:
        counts = tf.constant([shard.count for shard in self.shards], tf.int64)
        return _read(tf.constant([shard.path for shard in self.shards]), counts, tf.constant(start, tf.int64), stop)

    def load(self, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.parse(handle)

    def name(self, handle: tf.Tensor) -> str:
        return self.describe(handle)


def _read(paths: tf.Tensor, counts: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.data.Dataset:
    """Records from number `start` to before `stop` of some files, one after the other, that hold `counts` records."""
    before = tf.cumsum(counts, exclusive=True)
    skipped = tf.clip_by_value(start - before, 0, counts)
    wanted = tf.clip_by_value(stop - before, 0, counts) - skipped
    some = wanted > 0
    windows = tf.data.Dataset.from_tensor_slices(
        tuple(tf.boolean_mask(value, some) for value in (paths, skipped, wanted))
    )
    return windows.flat_map(
        lambda path, skip, take: tf.data.TFRecordDataset(path, buffer_size=BUFFER).skip(skip).take(take)
    )


def example_record(content: bytes, label: int, name: str) -> bytes:
    """An image as a record with the usual keys of `tf.train.Example`."""
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def parse_record(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Content and label of a record of `example_record`."""
    features = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string),
        "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    }
    values = tf.io.parse_single_example(record, features)
    return values["image/encoded"], tf.cast(values["image/class/label"], tf.int32)


def describe_record(record: tf.Tensor) -> str:
    """The file name in a record of `example_record`."""
    features = {"image/filename": tf.io.FixedLenFeature((), tf.string, "record without a name")}
    return tf.io.parse_single_example(record, features)["image/filename"].numpy().decode()
