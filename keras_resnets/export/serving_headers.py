"""What the first bytes of an image file say: format, size, and which way up. In TensorFlow operators, for exported graphs.

Of tensors: `content` is a file as a scalar string, `data` the same as bytes `(length,)`. Reading beyond the end gives the last
byte: nothing here fails, a file that is cut off is for its decoder to refuse.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

FORMATS = (
    "",
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "WebP",
)  # in the order of `format_of`, which gives 0 for what is none of them

_JPEG_SCAN, _JPEG_EXIF, _JPEG_FILL = 0xDA, 0xE1, 0xFF  # markers behind 0xFF
_GIF_EXTENSION, _GIF_IMAGE, _GIF_END = 0x21, 0x2C, b"\x3b"
_ORIENTATION = 0x0112  # the tag of Exif
_MAX_CHUNKS = 10_000  # that are walked through
_MAX_GIF_BLOCKS = 200_000  # of at most 255 bytes
_BYTES = [bytes([value]) for value in range(256)]


def format_of(content: Any) -> Any:
    """The index in `FORMATS` of a file, by its first bytes."""
    head = tf.strings.substr(content, 0, 12)

    def begins(magic: bytes) -> Any:
        return tf.strings.substr(head, 0, len(magic)) == magic

    webp = tf.strings.regex_full_match(head, r"(?s)RIFF\C{4}WEBP")
    gif = tf.logical_or(begins(b"GIF87a"), begins(b"GIF89a"))
    matches = tf.stack([begins(b"\xff\xd8\xff"), begins(b"\x89PNG\r\n\x1a\n"), gif, begins(b"BM"), webp])
    return tf.reduce_max(tf.where(matches, tf.range(1, len(FORMATS)), 0))


def number(data: Any, at: Any, size: int, big_endian: Any = False) -> Any:
    """The unsigned whole number of `size` bytes at a position, int64."""
    places = tf.cast(at, tf.int64) + tf.range(size, dtype=tf.int64)
    values = tf.cast(tf.gather(data, tf.clip_by_value(places, 0, tf.size(data, tf.int64) - 1)), tf.int64)
    weights = [256**place for place in range(size)]
    return tf.reduce_sum(values * tf.where(big_endian, tf.constant(weights[::-1], tf.int64), weights))


def part(content: Any, start: Any, end: Any) -> Any:
    """`content` from one position to another, or to its end."""
    start, end = tf.cast(start, tf.int64), tf.cast(end, tf.int64)
    return tf.strings.substr(content, start, end - start)


def size_of(kind: Any, content: Any, data: Any) -> tuple[Any, Any]:
    """Height and width, int64, that a file of format `kind` announces, without decoding it; 0 where they make no sense.

    Raises (when it runs):
        tf.errors.InvalidArgumentError: a JPEG without a frame.
    """

    def jpeg() -> tuple[Any, Any]:
        shape = tf.cast(tf.io.extract_jpeg_shape(content), tf.int64)
        return shape[0], shape[1]

    def png() -> tuple[Any, Any]:
        return number(data, 20, 4, True), number(data, 16, 4, True)

    def gif() -> tuple[Any, Any]:  # of the first frame
        at = gif_image(data)
        return number(data, at + 7, 2), number(data, at + 5, 2)

    def bmp() -> tuple[Any, Any]:
        height = number(data, 22, 4)
        return tf.minimum(height, (1 << 32) - height), number(data, 18, 4)  # a negative height: top row first

    return tf.switch_case(kind - 1, [jpeg, png, gif, bmp, lambda: _webp_size(data)])


def _webp_size(data: Any) -> tuple[Any, Any]:
    kind = number(data, 15, 1)  # behind "VP8"
    bits = number(data, 21, 4)

    def simple(at: int) -> Any:
        return number(data, at, 2) & 0x3FFF

    cases = {" ": (simple(28), simple(26)), "L": ((bits // 0x4000 & 0x3FFF) + 1, (bits & 0x3FFF) + 1),
             "X": (number(data, 27, 3) + 1, number(data, 24, 3) + 1)}  # fmt: skip
    height = width = tf.constant(0, tf.int64)
    for letter, (high, wide) in cases.items():
        height, width = tf.where(kind == ord(letter), high, height), tf.where(kind == ord(letter), wide, width)
    return height, width


def gif_image(data: Any) -> Any:
    """Where the first frame's descriptor begins: behind the colours and whatever blocks of extensions."""

    def step(at: Any, inside: Any) -> tuple[Any, Any]:
        length = number(data, at, 1)
        return at + tf.where(inside, length + 1, 2), tf.logical_or(~inside, length > 0)

    def unfinished(at: Any, inside: Any) -> Any:
        return (at < tf.size(data, tf.int64)) & (inside | (number(data, at, 1) == _GIF_EXTENSION))

    at, _ = tf.while_loop(unfinished, step, (_gif_colours(data, 10, 13), tf.constant(False)),
                          maximum_iterations=_MAX_GIF_BLOCKS)  # fmt: skip
    return at


def _gif_colours(data: Any, flags_at: Any, behind: Any) -> Any:
    """Where a table of colours ends that, if the flags say so, begins at `behind`."""
    flags = number(data, flags_at, 1)
    return tf.cast(behind, tf.int64) + tf.where(flags & 0x80 > 0, 6 * tf.pow(tf.constant(2, tf.int64), flags & 7), 0)


def first_frame(content: Any, data: Any) -> Any:
    """A GIF cut down to its first frame, as an opaque picture of its own.

    TensorFlow's decoder unpacks every frame, whatever size each of them announces, before it returns the first one.

    Raises (when it runs):
        tf.errors.InvalidArgumentError: there is no whole frame.
    """
    at = gif_image(data)
    size = tf.size(data, tf.int64)

    def step(end: Any, _: Any) -> tuple[Any, Any]:
        length = number(data, end, 1)
        return end + length + 1, length > 0

    start = _gif_colours(data, at + 9, at + 10) + 1
    end, more = tf.while_loop(lambda end, more: more & (end < size), step, (start, tf.constant(True)),
                              maximum_iterations=_MAX_GIF_BLOCKS)  # fmt: skip
    whole = (number(data, at, 1) == _GIF_IMAGE) & ~more & (end <= size)
    with tf.control_dependencies([tf.debugging.Assert(whole, ["a GIF without a whole frame"])]):
        head = part(content, 0, _gif_colours(data, 10, 13))
    frame = part(content, at + 5, end)  # behind its place on the screen
    return tf.strings.join([head, _BYTES[_GIF_IMAGE] + bytes(4), frame, _GIF_END])


def is_animated_webp(data: Any) -> Any:
    return (number(data, 15, 1) == ord("X")) & (number(data, 20, 1) & 0x02 > 0)


def with_alpha(content: Any, data: Any) -> Any:
    """An animated WebP, marked as transparent: TensorFlow decodes it as such whatever the mark says."""
    flags = tf.gather(tf.constant(_BYTES), number(data, 20, 1) | 0x10)
    return tf.strings.join([part(content, 0, 20), flags, part(content, 21, tf.size(data))])


def orientation(kind: Any, data: Any) -> Any:
    """The mark of Exif that says how a camera was held, 1 to 8; 1, upright, where there is none."""

    def none() -> Any:
        return tf.constant(1, tf.int64)

    def png() -> Any:
        at = _walk(data, 8, lambda at: number(data, at + 4, 4, True) == _letters(b"eXIf", "big"),
                   lambda at: 12 + number(data, at, 4, True))  # fmt: skip
        return _tiff_orientation(data, at + 8)

    def webp() -> Any:
        at = _walk(data, 12, lambda at: number(data, at, 4) == _letters(b"EXIF", "little"),
                   lambda at: 8 + (number(data, at + 4, 4) + 1) // 2 * 2)  # fmt: skip
        return _tiff_orientation(data, at + 8)

    return tf.switch_case(kind - 1, [lambda: _jpeg_orientation(data), png, none, none, webp])


def _letters(name: bytes, order: Any) -> int:
    return int.from_bytes(name, order)


def _walk(data: Any, start: int, found: Callable[[Any], Any], length: Callable[[Any], Any]) -> Any:
    """Where a chunk begins, the end of `data` if there is no such chunk."""
    size = tf.size(data, tf.int64)
    (at,) = tf.while_loop(lambda at: (at < size) & ~found(at), lambda at: [at + length(at)],
                          [tf.constant(start, tf.int64)], maximum_iterations=_MAX_CHUNKS)  # fmt: skip
    return tf.where(found(at), at, size)


def _jpeg_orientation(data: Any) -> Any:
    def marker(at: Any) -> Any:
        return number(data, at + 1, 1)

    def found(at: Any) -> Any:
        over = (number(data, at, 1) != 0xFF) | (marker(at) == _JPEG_SCAN)
        return over | ((marker(at) == _JPEG_EXIF) & (number(data, at + 4, 4, True) == _letters(b"Exif", "big")))

    def length(at: Any) -> Any:
        return tf.where(marker(at) != _JPEG_FILL, 2 + number(data, at + 2, 2, True), 1)

    at = _walk(data, 2, found, length)
    return tf.where(marker(at) == _JPEG_EXIF, _tiff_orientation(data, at + 4), 1)


def _tiff_orientation(data: Any, at: Any) -> Any:
    """From the directory of tags at a position, which may have a heading of its own."""
    at += tf.where(number(data, at, 4, True) == _letters(b"Exif", "big"), tf.constant(6, tf.int64), 0)
    byte_order = number(data, at, 2)
    big = byte_order == _letters(b"MM", "little")
    directory = at + number(data, at + 4, 4, big)
    count = number(data, directory, 2, big)
    tags = tf.strided_slice(data, [directory + 2], [directory + 2 + 12 * count])
    tags = tf.cast(tf.reshape(tags[: tf.size(tags) // 12 * 12], (-1, 12)), tf.int64)

    def short(column: int) -> Any:
        first, second = tags[:, column], tags[:, column + 1]
        return tf.where(big, first * 256 + second, second * 256 + first)

    value = tf.reduce_max(tf.where(short(0) == _ORIENTATION, short(8), 0))
    known = big | (byte_order == _letters(b"II", "little"))
    return tf.where(known & (value >= 1) & (value <= 8), value, 1)
