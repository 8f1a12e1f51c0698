"""Filtering every position of every image with a kernel of its own: what involution and dynamic convolutions compute."""

from typing import Any

from keras import ops


def dynamic_filter(x: Any, kernels: Any, kernel_size: tuple[int, int], strides: tuple[int, int] = (1, 1),
                   dilation: tuple[int, int] = (1, 1)) -> Any:  # fmt: skip
    """The sum over the taps of shifted `x` times that tap of the kernels, which are data instead of weights.

    Zero padding of `dilation * (kernel_size - 1) / 2` pixels on all sides. No patches are extracted.

    Args:
        x: `(batch, height, width, channels)`.
        kernels: `(batch, out_height, out_width, taps * groups)`, or `(batch, 1, 1, taps * groups)` for one kernel at all
            positions of an image. Channel `tap * groups + g` is the tap `tap = ky * kernel_width + kx` of group `g`, whose
            channels of `x` are the g-th `channels / groups`.
        kernel_size: odd height and width.
        strides: step along height and width.
        dilation: spacing of the taps along height and width.

    Returns:
        `(batch, out_height, out_width, channels)` with `out_height = ⌈height / strides[0]⌉`.

    Raises:
        ValueError: `kernel_size` is even; the channels of `kernels` do not divide by the number of taps, or those of `x` by
            the number of groups.
    """
    groups = _groups(x, kernels, kernel_size)
    repeats, total = x.shape[-1] // groups, 0
    reach = [step * (size - 1) for size, step in zip(kernel_size, dilation, strict=True)]
    padded = ops.pad(x, ((0, 0), *((both // 2, both // 2) for both in reach), (0, 0)))
    for tap in range(kernel_size[0] * kernel_size[1]):
        first = [index * step for index, step in zip(divmod(tap, kernel_size[1]), dilation, strict=True)]
        rows, columns = (slice(first[i], first[i] - reach[i] or None, strides[i]) for i in (0, 1))
        weight = kernels[..., tap * groups : (tap + 1) * groups]
        weight = weight if groups == 1 else ops.repeat(weight, repeats, axis=-1)
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
