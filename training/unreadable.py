"""Images that cannot be decoded: found where they are decoded, noted, and replaced.

A chunk of images is decoded in the plain way at first, in which looking for an error costs next to nothing. Only if there is
one, the images of the chunk are taken up one by one.
"""

from collections.abc import Callable

import tensorflow as tf

from training.data import Data
from training.images import reason
from training.parts import Part

LARGEST_CHUNK = 32
Example = tuple[tf.Tensor, ...]


def in_chunks(handles: tf.data.Dataset, size: int, plain: Callable[..., Example],
              careful: Callable[..., Example]) -> tf.data.Dataset:  # fmt: skip
    """Batches of what `plain` makes of the elements, in parallel; or `careful`, where `plain` fails.

    Args:
        handles: elements of several components.
        size: of the batches.
        plain: makes an example of the components of an element, and may fail.
        careful: makes the same example if `plain` does not fail, and never fails.
    """
    chunk = max(number for number in range(1, LARGEST_CHUNK + 1) if size % number == 0)

    def together(*elements: tf.Tensor) -> Example:
        each = tf.data.Dataset.from_tensor_slices(elements)
        made = each.map(plain)
        nothing = tf.data.Dataset.from_tensors(tuple(tf.zeros((0, *spec.shape)) for spec in made.element_spec))
        found = made.ignore_errors().batch(chunk).concatenate(nothing).take(1).get_single_element()
        examples = tf.cond(
            tf.shape(found[0])[0] == chunk,
            lambda: found,
            lambda: each.map(careful).batch(chunk, drop_remainder=True).get_single_element(),
        )
        return tuple(tf.ensure_shape(value, (chunk, *value.shape[1:])) for value in examples)

    chunks = handles.batch(chunk, drop_remainder=True)
    chunks = chunks.map(together, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if chunk == size:
        return chunks
    batches = chunks.batch(size // chunk, drop_remainder=True)
    return batches.map(lambda *values: tuple(tf.reshape(value, (size, *value.shape[2:])) for value in values))


def first_decodable(data: Data, part: Part, handles: tf.Tensor,
                    decode: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:  # fmt: skip
    """The first of some images that can be decoded, its label, and whether there is one: else black, and no class.

    Nothing but `decode` may fail: an error anywhere else is one of this program and ends it.

    Args:
        data: takes note of those that cannot.
        part: of `data`, that the images are of.
        handles: of the images.
        decode: makes an image of the content of a file.
    """

    def attempt(number: tf.Tensor, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        content, label = part.load(handle)
        return decode(content), label, number

    def note(failed: tf.Tensor) -> int:
        for handle in failed:
            data.note_problem(part.name(handle), _reason(part, handle))
        return 0

    count = tf.size(handles, tf.int64)
    attempts = tf.data.Dataset.from_tensor_slices(handles).enumerate().map(attempt).ignore_errors()
    none = tf.data.Dataset.from_tensors((tf.zeros((1, 1, 3), tf.uint8), -1, count))
    image, label, failures = attempts.concatenate(none).take(1).get_single_element()
    tf.cond(failures > 0, lambda: tf.py_function(note, [handles[:failures]], tf.int32), lambda: 0)
    return image, label, failures < count


def _reason(part: Part, handle: tf.Tensor) -> str:
    """Why an image cannot be decoded."""
    try:
        content, _ = part.load(handle)
    except tf.errors.OpError as error:
        return error.message
    return reason(content.numpy()) or "it could not be read, and can be now"
