"""Where sliding windows lie: padding in every spelling, sizes of outputs, padded maps.

Padding is given in pixels, as `((top, bottom), (left, right))`, and means what it means in PyTorch, Caffe and MXNet; the TensorFlow
word "same" appears only where it is provably the same padding.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

from keras import ops

from keras_resnets import lowering

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """An int as ``(int, int)``; a pair unchanged."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def standardize_padding(
    padding: Any, kernel_size: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> Padding | Literal["same"]:
    """Any spelling of padding as `((top, bottom), (left, right))`, or "same", which depends on the input's size.

    Raises:
        ValueError: `padding` is not "valid", "same", "symmetric", an int, `(height, width)` or `((top, bottom), (left, right))`.
    """
    if padding == "same":
        return "same"
    if padding == "valid":
        return NO_PADDING
    if padding == "symmetric":
        (top, left) = (d * (k - 1) // 2 for k, d in zip(kernel_size, dilation, strict=True))
        return ((top, top), (left, left))
    if isinstance(padding, int) and padding >= 0:
        return ((padding, padding), (padding, padding))
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        if all(isinstance(p, int) and p >= 0 for p in padding):
            return ((padding[0], padding[0]), (padding[1], padding[1]))
        if all(isinstance(p, (tuple, list)) and len(p) == 2 and min(p) >= 0 for p in padding):
            return (tuple(padding[0]), tuple(padding[1]))
    raise ValueError(
        "padding must be 'valid', 'same', 'symmetric', a number of pixels, (height, width) or "
        f"((top, bottom), (left, right)), not {padding!r}"
    )


def window_output_shape(
    input_shape: Sequence[int | None],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding | Literal["same"],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int | None, int | None]:
    """Output height and width of a sliding window over `(batch, height, width, channels)`; None where unknown.

    Raises:
        ValueError: the window is larger than the padded input.
    """
    output: list[int | None] = []
    for axis in (0, 1):
        size = input_shape[1 + axis]
        if size is None:
            output.append(None)
        elif padding == "same":
            output.append(-(-size // strides[axis]))
        else:
            reach = dilation[axis] * (kernel_size[axis] - 1)
            length = (size + sum(padding[axis]) - reach - 1) // strides[axis] + 1
            if length < 1:
                raise ValueError(
                    f"input of shape {tuple(input_shape)} is too small: a window of {kernel_size} pixels "
                    f"(dilation {dilation}) does not fit into it with padding {padding}"
                )
            output.append(length)
    return (output[0], output[1])


def same_pads(size: int | None, kernel: int, stride: int, dilation: int) -> Any:
    """What TensorFlow's "same" pads along an axis; None if that depends on an unknown size."""
    reach = dilation * (kernel - 1)
    if stride == 1:
        total = reach
    elif size is None:
        return None
    else:
        total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return (total // 2, total - total // 2)


def read_padding(shape: Sequence[Any], window: Any, strides: Any, padding: Padding) -> Padding:
    """`padding` without the pixels at the bottom and right that no window over an input of this shape reads."""
    read = []
    for size, length, stride, (before, after) in zip(shape[1:3], window, strides, padding, strict=True):
        left = 0 if size is None else (size + before + after - length) % stride
        read.append((before, max(after - left, 0)))
    return (read[0], read[1])


def pad2d(x: Any, padding: Any, mode: str = "constant") -> Any:
    """Pads height and width by `((top, bottom), (left, right))` pixels; `mode` as in `keras.ops.pad`."""
    if padding == NO_PADDING:
        return x
    return lowering.mirror_pad(x, padding, mode) if mode != "constant" else ops.pad(x, ((0, 0), *padding, (0, 0)))


def pad_unless_same(x: Any, window: Any, strides: Any, dilation: Any, padding: Any, **pad: Any) -> tuple[Any, str]:
    """`x` ready for an op that knows "same" and "valid" only, and which of the two to use.

    "same" spares the padded copy wherever it is provably the padding asked for: stride 1 with an odd window, or
    stride 2 on an odd size.
    """
    if padding == NO_PADDING:
        return x, "valid"
    if padding == "same" or all(
        same_pads(x.shape[1 + i], window[i], strides[i], dilation[i]) == padding[i] for i in (0, 1)
    ):
        return x, "same"
    return pad2d(x, padding, **pad), "valid"
