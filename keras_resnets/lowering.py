"""What an exported graph is made of: other operators than those that train fastest, with the same values.

XNNPACK, TensorFlow Lite's fast kernels, takes a graph in one piece only if it has every operator of it. It has none for strided
slices, 1x1 pools, mirrored padding and concatenations of more than five maps, nor for average pools in 8 bits. Depthwise
convolutions, slices and concatenations of few maps take their place here; they are at least as fast. In 8 bits their weights are
exact, being one per channel, or equal.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from keras import ops

Runtime = Literal["any", "xnnpack", "int8", "onnx"]
Pads = tuple[tuple[int, int], tuple[int, int]]

_MOST_CONCATENATED = 5  # maps that XNNPACK concatenates at a time

_exporting: list[Runtime] = []


@contextlib.contextmanager
def exporting(runtime: Runtime = "any") -> Iterator[None]:
    """While active, calls are traced for export: with operators that other runtimes have, whatever this machine could train with.

    TF Serving, TFLite and ONNX Runtime all have the native grouped convolution; the chunked form would leave dozens of small
    convolutions in the file.

    Args:
        runtime: "xnnpack" for TFLite in floating point or 8-bit integers, inside it "int8" for the latter; "onnx" where maps are
            channels first and pools pad by themselves. Contexts inside keep it.
    """
    _exporting.append(runtime)
    try:
        yield
    finally:
        _exporting.pop()


def is_exporting(runtime: Runtime = "any") -> bool:
    """Whether `exporting` is active, for this runtime."""
    return bool(_exporting) if runtime == "any" else runtime in _exporting


def _depthwise(x: Any, window: Any, strides: tuple[int, int], mode: str = "valid") -> Any:
    """`x` convolved with a window `(height, width)` that all channels share; strides are equal."""
    kernel = np.tile(np.asarray(window)[:, :, None, None], (1, 1, x.shape[-1], 1))
    kernel = ops.convert_to_tensor(kernel, dtype=x.dtype)
    return ops.depthwise_conv(x, kernel, strides, mode, "channels_last")


def subsample(x: Any, strides: tuple[int, int]) -> Any:
    """Every `strides`-th pixel of `(batch, height, width, channels)`, from the first on."""
    if strides == (1, 1):
        return x
    if is_exporting("xnnpack") and strides[0] == strides[1]:
        return _depthwise(x, [[1.0]], strides)
    return x[:, :: strides[0], :: strides[1], :]


def mirror_pad(x: Any, padding: Pads, mode: str) -> Any:
    """`x` padded by a mirror image of its border, "symmetric" with or "reflect" without the border itself.

    XNNPACK knows neither, ONNX has no "symmetric": they are given the lines of the border one by one.
    """
    if not is_exporting("xnnpack" if mode == "reflect" else "any"):
        return ops.pad(x, ((0, 0), *padding, (0, 0)), mode)
    skip = int(mode == "reflect")
    for axis, (before, after) in zip((1, 2), padding, strict=True):
        first = [_line(x, axis, i) for i in reversed(range(skip, skip + before))]
        last = [_line(x, axis, -1 - i) for i in range(skip, skip + after)]
        x = concatenate([*first, x, *last], axis)
    return x


def _line(x: Any, axis: int, i: int) -> Any:
    """The i-th row (axis 1) or column (axis 2) of `x`, from the end where `i` is negative."""
    pixels = slice(i, i + 1 or None)
    return x[:, pixels] if axis == 1 else x[:, :, pixels]


def average(x: Any, pool_size: tuple[int, int], strides: tuple[int, int], mode: str) -> Any:
    """Average pool as a convolution, `mode` "same" or "valid"; zeros around `x` are counted."""
    return _depthwise(x, np.full(pool_size, 1 / math.prod(pool_size)), strides, mode)


def scale_and_shift(x: Any, scale: Any, offset: Any) -> Any:
    """`x * scale + offset` by channel as one operator, into which a ReLU can be merged."""
    kernel = ops.reshape(ops.cast(scale, x.dtype), (1, 1, -1, 1))
    return ops.add(ops.depthwise_conv(x, kernel, 1, "valid", "channels_last"), ops.cast(offset, x.dtype))


def concatenate(maps: Sequence[Any], axis: int = -1) -> Any:
    """The maps side by side; one map is left as it is."""
    maps, most = list(maps), _MOST_CONCATENATED
    while is_exporting("xnnpack") and len(maps) > most:
        excess = len(maps) - most
        parts, width = min(-(-excess // (most - 1)), len(maps) // most), min(most, excess + 1)
        joined = [ops.concatenate(maps[i * width : (i + 1) * width], axis=axis) for i in range(parts)]
        maps = [*joined, *maps[parts * width :]]
    return maps[0] if len(maps) == 1 else ops.concatenate(maps, axis=axis)
