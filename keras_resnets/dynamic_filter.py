"""Filtering every position of every image with a kernel of its own: what involution and dynamic convolutions compute.

The sum runs over shifted views of the input: no patches are extracted. Left to automatic differentiation it would keep the
product of every tap for the backward pass, as many copies of the activations as a kernel has taps; the gradient here keeps
the two inputs and computes everything else again. Where XLA compiles them, sum and gradients are a single pass each.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops as kops

from keras_resnets import ops, xla
from keras_resnets.padding import pad2d, pair

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

Pair = tuple[int, int]


def dynamic_filter(x: Any, kernels: Any, kernel_size: Pair, strides: Pair = (1, 1), dilation: Pair = (1, 1)) -> Any:
    """The sum over the taps of shifted `x` times that tap of the kernels, which are data instead of weights.

    Zero padding of `dilation * (kernel_size - 1) / 2` pixels on all sides. 16-bit inputs are summed in float32.

    Args:
        x: `(batch, height, width, channels)`.
        kernels: `(batch, out_height, out_width, taps * groups)`, or `(batch, 1, 1, taps * groups)` for one kernel at all
            positions of an image. Channel `tap * groups + g` is the tap `tap = ky * kernel_width + kx` of group `g`, whose
            channels of `x` are the g-th `channels / groups`.
        kernel_size: odd height and width.
        strides: step along height and width.
        dilation: spacing of the taps along height and width.

    Returns:
        `(batch, out_height, out_width, channels)` with `out_height = ⌈height / strides[0]⌉`, in the precision of `x`.

    Raises:
        ValueError: `kernel_size` is even; the channels of `kernels` do not divide by the number of taps, or those of `x` by
            the number of groups; height and width of `kernels` are not those of the output.
    """
    if not all(size % 2 for size in kernel_size):
        raise ValueError(f"kernel_size must be odd, not {kernel_size}")
    channels, positions = x.shape[-1], tuple(kernels.shape[1:3])
    groups, rest = divmod(kernels.shape[-1], kernel_size[0] * kernel_size[1])
    if rest or not groups or channels % groups:
        raise ValueError(f"kernels of {kernels.shape[-1]} channels do not fit {kernel_size} taps and x of {channels} "
                         "channels: taps * groups, groups a divisor of the channels")  # fmt: skip
    outputs = tuple(size and -(-size // step) for size, step in zip(x.shape[1:3], strides, strict=True))
    shared = positions == (1, 1) != outputs
    if not shared and any(None not in sizes and sizes[0] != sizes[1] for sizes in zip(positions, outputs, strict=True)):
        raise ValueError(f"kernels must be for {outputs} positions, or for (1, 1), not for {positions}")
    if shared and groups < channels:  # so few numbers that every channel can have its own
        kernels, groups = kops.repeat(kernels, channels // groups, axis=-1), channels
    window = _Window(pair(kernel_size), pair(strides), pair(dilation), groups, channels, shared)
    if ops.is_exporting("onnx"):
        return window.channels_first(x, kernels)
    if ops.is_exporting():
        return window.forward(x, kernels)
    return _differentiable(window)(kops.convert_to_tensor(x), kops.convert_to_tensor(kernels))


@functools.cache
def _differentiable(window: "_Window") -> Callable[[Any, Any], Any]:
    forward, backward = xla.compiled(window.forward), xla.compiled(window.backward)

    @kops.custom_gradient
    def apply(x: Any, kernels: Any) -> Any:
        def gradient(*arguments: Any, upstream: Any = None) -> Any:  # Keras' backends call it in two ways
            return backward(x, kernels, arguments[0] if upstream is None else upstream)

        # TensorFlow's tape records what it sees in here, and would keep the intermediate results as well.
        return forward(kops.stop_gradient(x), kops.stop_gradient(kernels)), gradient

    return apply


@dataclasses.dataclass(frozen=True)
class _Window:
    """The sum for inputs of one kind, and its gradients.

    Maps are four-dimensional throughout. So that a number of a kernel serves all channels of its group by broadcasting, a map
    is seen as `(batch, height, width * groups, channels / groups)`, "folded"; with one channel or all in a group it is
    left as it is.

    Attributes:
        kernel_size, strides, dilation, groups: see `dynamic_filter`.
        channels: of the input.
        shared: one kernel for all positions; `groups` is `channels` then.
    """

    kernel_size: Pair
    strides: Pair
    dilation: Pair
    groups: int
    channels: int
    shared: bool

    @property
    def fold(self) -> int:
        return self.groups if self.groups < self.channels else 1

    @property
    def reach(self) -> Pair:
        """Distance of the outermost taps from the centre."""
        return (self.kernel_size[0] // 2 * self.dilation[0], self.kernel_size[1] // 2 * self.dilation[1])

    @property
    def offsets(self) -> list[Pair]:
        """Distance of every tap from the centre."""
        rows, columns = (range(-far, far + 1, step) for far, step in zip(self.reach, self.dilation, strict=True))
        return list(itertools.product(rows, columns))

    def forward(self, x: Any, kernels: Any) -> Any:
        """The sum."""
        wide = _wide(kernels)
        terms = (view * self._tap(wide, tap) for tap, view in enumerate(self._views(_wide(x))))
        return kops.cast(self._unfolded(_total(terms, len(self.offsets)), self._size(x)), x.dtype)

    def channels_first(self, x: Any, kernels: Any) -> Any:
        """The sum for a runtime whose maps are channels first, where groups are an axis of their own for nothing."""
        (height, width), (step_y, step_x) = self._size(x), self.strides
        maps, weights = (kops.transpose(_wide(y), (0, 3, 1, 2)) for y in (self._padded(x), kernels))
        if self.fold > 1:
            maps = kops.reshape(maps, (-1, self.groups, self.channels // self.groups, *kops.shape(maps)[2:]))
            weights = kops.expand_dims(weights, 2)  # (batch, taps * groups, 1, height, width)

        def term(tap: int, offset: Pair) -> Any:
            y, x0 = (d + far for d, far in zip(offset, self.reach, strict=True))
            view = maps[..., y : y + (height - 1) * step_y + 1 : step_y, x0 : x0 + (width - 1) * step_x + 1 : step_x]
            return view * weights[:, tap * self.groups : (tap + 1) * self.groups]

        total = _total((term(tap, offset) for tap, offset in enumerate(self.offsets)), len(self.offsets))
        if self.fold > 1:
            total = kops.reshape(total, (-1, self.channels, height, width))
        return kops.cast(kops.transpose(total, (0, 2, 3, 1)), x.dtype)

    def backward(self, x: Any, kernels: Any, upstream: Any) -> tuple[Any, Any]:
        """The gradients for `x` and `kernels`, given that for the sum."""
        wide = _wide(upstream)
        for_x, for_kernels = self._for_x(x, _wide(kernels), wide), self._for_kernels(_wide(x), wide)
        return kops.cast(for_x, x.dtype), kops.cast(for_kernels, kernels.dtype)

    def _for_x(self, x: Any, kernels: Any, upstream: Any) -> Any:
        """Pixels that are a multiple of the strides apart are read by the same taps: a sum for each grid of such pixels."""
        size, (step_y, step_x) = self._size(x), self.strides
        pad_y, pad_x = ((far + step - 1) // step for far, step in zip(self.reach, self.strides, strict=True))
        padding = ((pad_y, pad_y), (pad_x, pad_x))
        upstream = self._folded(pad2d(upstream, padding))
        kernels = kernels if self.shared else pad2d(kernels, padding)

        def term(tap: int, start: Pair) -> Any:
            weight = self._tap(kernels, tap)
            return self._cut(upstream, start, size) * (weight if self.shared else self._cut(weight, start, size))

        def grid(y: int, x0: int) -> Any:
            readers = [
                (tap, ((y - down) // step_y + pad_y, (x0 - right) // step_x + pad_x))
                for tap, (down, right) in enumerate(self.offsets)
                if (y - down) % step_y == (x0 - right) % step_x == 0
            ]
            nothing = kops.zeros_like(self._cut(upstream, (0, 0), size))
            total = _total((term(*reader) for reader in readers), len(readers)) if readers else nothing
            return self._unfolded(total, size)

        rows = [kops.stack([grid(y, x0) for x0 in range(step_x)], axis=3) for y in range(step_y)]
        whole = kops.reshape(kops.stack(rows, axis=2), (-1, size[0] * step_y, size[1] * step_x, self.channels))
        height, width = _pixels(x)
        return whole[:, :height, :width]

    def _for_kernels(self, x: Any, upstream: Any) -> Any:
        if self.groups < self.channels and xla.compiles_here():
            return self._for_kernels_at_once(x, upstream)
        size, upstream = self._size(x), self._folded(upstream)
        taps = []
        for view in self._views(x):
            product = view * upstream
            if self.shared:
                taps.append(kops.sum(_fewer_rows(product), axis=(1, 2), keepdims=True))
            elif self.groups < self.channels:
                taps.append(kops.reshape(kops.sum(product, axis=-1), (-1, *size, self.groups)))
            else:
                taps.append(product)
        return kops.concatenate(taps, axis=-1)

    def _for_kernels_at_once(self, x: Any, upstream: Any) -> Any:
        """All taps by index: XLA makes one pass of gathering, multiplying and summing, and stores no patches."""
        size, padded = self._size(x), self._padded(x)
        height, width = _pixels(padded)
        row, column = (
            kops.arange(length)[:, None] * stride + kops.arange(taps) * step
            for length, stride, taps, step in zip(size, self.strides, self.kernel_size, self.dilation, strict=True)
        )
        pixels = kops.reshape(row[:, None, :, None] * width + column[None, :, None, :], (*size, len(self.offsets)))
        members = self.channels // self.groups
        patches = kops.take(kops.reshape(padded, (-1, height * width, self.groups, members)), pixels, axis=1)
        product = patches * kops.reshape(upstream, (-1, *size, 1, self.groups, members))
        return kops.reshape(kops.sum(product, axis=-1), (-1, *size, len(self.offsets) * self.groups))

    def _views(self, x: Any) -> Iterator[Any]:
        """What each tap reads of `x` for all outputs, folded."""
        size = self._size(x)
        grids = [[self._folded(grid) for grid in row] for row in _grids(self._padded(x), self.strides)]
        for offset in self.offsets:
            (y, row), (x0, column) = (
                divmod(d + far, s) for d, far, s in zip(offset, self.reach, self.strides, strict=True)
            )
            yield self._cut(grids[row][column], (y, x0), size)

    def _size(self, x: Any) -> list[Any]:
        """Height and width of the output for the input `x`."""
        return [-(-size // step) for size, step in zip(_pixels(x), self.strides, strict=True)]

    def _padded(self, x: Any) -> Any:
        return pad2d(x, ((self.reach[0],) * 2, (self.reach[1],) * 2))

    def _folded(self, x: Any) -> Any:
        if self.fold == 1:
            return x
        height, width = _pixels(x)
        return kops.reshape(x, (-1, height, width * self.fold, x.shape[-1] // self.fold))

    def _unfolded(self, x: Any, size: list[Any]) -> Any:
        return x if self.fold == 1 else kops.reshape(x, (-1, *size, self.channels))

    def _cut(self, x: Any, start: Pair, size: list[Any]) -> Any:
        """`size` pixels of a folded map from `start` on."""
        return x[:, start[0] : start[0] + size[0], start[1] * self.fold : (start[1] + size[1]) * self.fold]

    def _tap(self, kernels: Any, tap: int) -> Any:
        """The numbers of one tap, folded."""
        return self._folded(kernels[..., tap * self.groups : (tap + 1) * self.groups])


def _pixels(x: Any) -> Any:
    """Height and width of `x`: numbers, or tensors where they are unknown."""
    return x.shape[1:3] if None not in x.shape[1:3] else kops.shape(x)[1:3]


def _wide(x: Any) -> Any:
    return kops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _total(terms: Iterator[Any], count: int) -> Any:
    """Pairwise sum of `count` terms: of few partial sums at a time, and with less rounding, which matters in 8 bits."""
    return next(terms) if count == 1 else _total(terms, count // 2) + _total(terms, count - count // 2)


def _fewer_rows(x: Any) -> Any:
    """`x` summed over parts of its rows; XLA adds maps several times faster than it sums over positions."""
    parts = next(n for n in range(8, 0, -1) if (x.shape[1] or 1) % n == 0)
    return _total(iter(kops.split(x, parts, axis=1)), parts)


def _grids(x: Any, strides: Pair) -> list[list[Any]]:
    """The pixels of `x` that are a multiple of `strides` apart, by their first row and column."""
    step = strides[0]
    if (
        keras.backend.backend() == "tensorflow"
        and strides == (step, step)
        and None not in x.shape[1:3]
        and not xla.compiles_here()
    ):
        if step == 1:
            return [[x]]
        # One operator instead of strided slices, which are slow here and outside of XNNPACK.
        x = pad2d(x, tuple((0, -size % step) for size in x.shape[1:3]))
        parts = tf.split(tf.nn.space_to_depth(x, step), step * step, axis=-1)
        return [parts[row * step : (row + 1) * step] for row in range(step)]
    return [
        [x[:, row :: strides[0], column :: strides[1]] for column in range(strides[1])] for row in range(strides[0])
    ]
