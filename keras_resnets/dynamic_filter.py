"""Filtering every position of every image with a kernel of its own: what involution and dynamic convolutions compute."""

from typing import Any

from keras import ops


def dynamic_filter(x: Any, kernels: Any, kernel_size: tuple[int, int], strides: tuple[int, int] = (1, 1)) -> Any:
    """The sum over the taps of shifted `x` times that tap of the kernels, which are data instead of weights.

    Zero padding of `(kernel_size - 1) / 2` pixels on all sides. No patches are extracted.

    Args:
        x: `(batch, height, width, channels)`.
        kernels: `(batch, out_height, out_width, taps * groups)`, or `(batch, 1, 1, taps * groups)` for one kernel at all
            positions of an image. Channel `tap * groups + g` is the tap `tap = ky * kernel_width + kx` of group `g`, whose
            channels of `x` are the g-th `channels / groups`.
        kernel_size: odd height and width.
        strides: step along height and width.

    Returns:
        `(batch, out_height, out_width, channels)` with `out_height = ⌈height / strides[0]⌉`.

    Raises:
        ValueError: `kernel_size` is even; the channels of `kernels` do not divide by the number of taps, or those of `x` by
            the number of groups.
    """
    groups = _groups(x, kernels, kernel_size)
    height, width = kernel_size
    (top, left), repeats = [size // 2 for size in kernel_size], x.shape[-1] // groups
    padded = ops.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    total: Any = 0
    for tap in range(height * width):
        (ky, kx), weight = divmod(tap, width), kernels[..., tap * groups : (tap + 1) * groups]
        weight = weight if groups == 1 else ops.repeat(weight, repeats, axis=-1)
        rows, columns = slice(ky, ky - height + 1 or None, strides[0]), slice(kx, kx - width + 1 or None, strides[1])
        total = total + padded[:, rows, columns, :] * weight
    return total


def _groups(x: Any, kernels: Any, kernel_size: tuple[int, int]) -> int:
    if not all(size % 2 for size in kernel_size):
        raise ValueError(f"kernel_size must be odd, not {kernel_size}")
    groups, rest = divmod(kernels.shape[-1], kernel_size[0] * kernel_size[1])
    if rest or not groups or x.shape[-1] % groups:
        raise ValueError(f"kernels of {kernels.shape[-1]} channels do not fit {kernel_size} taps and x of "
                         f"{x.shape[-1]} channels: taps * groups, groups a divisor of the channels")  # fmt: skip
    return groups
