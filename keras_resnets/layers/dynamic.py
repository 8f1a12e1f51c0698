"""Dual complementary dynamic convolution: a kernel for every position beside a kernel for every image.

DCDC-style, unverified. Confirmed of Yan, Qin, Liu and Chen (2022, arXiv 2211.06163) are two parallel branches whose outputs
are summed: a local spatial-adaptive one (LSA), which predicts a kernel for every position, and a global shift-invariant one
(GSI), which predicts one kernel per image for all positions. No code is public, and how the kernels are predicted, their
sizes, groups, reductions, normalisation and initial values are inferred here from the nearest published operators
(involution, arXiv 2103.06255, and decoupled dynamic filters, arXiv 2104.14107). Each of these choices is an argument.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

from keras_resnets.dynamic_filter import dynamic_filter
from keras_resnets.layers.attention import gate_dtype
from keras_resnets.layers.base import Composite, Shape, chain, register_layer
from keras_resnets.layers.conv import ConvNorm
from keras_resnets.layers.involution import Involution, KernelSpan
from keras_resnets.padding import pair

KernelNorm = Literal["none", "filter_norm", "softmax"]


def normalized_kernels(kernels: Any, taps: int, kind: KernelNorm) -> Any:
    """Kernels `(batch, height, width, taps * groups)`, tap-major, each normalised over its taps in float32.

    Args:
        kind: "none"; "softmax"; or "filter_norm": mean 0 and unbiased standard deviation 1 (Zhou et al., 2021,
            arXiv 2104.14107). A kernel whose taps are all equal becomes zero then, and has no gradient.
    """
    if kind == "none":
        return kernels
    wide = ops.cast(kernels, gate_dtype(kernels))
    shape = (-1, *ops.shape(wide)[1:])
    wide = ops.reshape(wide, (-1, taps, wide.shape[-1] // taps))
    if kind == "softmax":
        wide = ops.softmax(wide, axis=1)
    else:
        wide = wide - ops.mean(wide, axis=1, keepdims=True)
        variance = ops.sum(ops.square(wide), axis=1, keepdims=True) / (taps - 1)
        varies = variance > 0
        deviation = ops.sqrt(ops.where(varies, variance, 1.0))  # the gradient of a root is infinite at 0
        wide = ops.where(varies, wide / (deviation + 1e-10), 0.0)
    return ops.cast(ops.reshape(wide, shape), kernels.dtype)


@register_layer
class LocalKernels(Involution):
    """`Involution` with normalised kernels.

    Args:
        kernel_norm: see `normalized_kernels`; with "filter_norm" the kernels are multiplied by `sqrt(2) / kernel_size`.
        kernel_size, strides, and all other keywords: as in `Involution`.
    """

    def __init__(self, kernel_size: int, strides: int = 1, *, kernel_norm: KernelNorm = "none", **kwargs: Any) -> None:
        super().__init__(kernel_size, strides, **kwargs)
        self.kernel_norm = kernel_norm

    def kernels(self, x: Any) -> Any:
        kernels = normalized_kernels(super().kernels(x), self.kernel_size**2, self.kernel_norm)
        return kernels * (math.sqrt(2) / self.kernel_size) if self.kernel_norm == "filter_norm" else kernels


@register_layer
class GlobalKernels(Composite):
    """Depth-wise convolution with a kernel per channel that is predicted from the average over all positions.

    Input and arguments as in `DualComplementaryDynamicConvolution`.
    """

    def __init__(self, kernel_size: int, strides: int, dilation: int, *, norm: dict[str, Any], reduction: int,
                 kernel_norm: KernelNorm, kernel_stddev: float, identity: bool, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.kernel_size, self.strides, self.dilation, self.norm = kernel_size, strides, dilation, norm
        self.reduction, self.kernel_norm = reduction, kernel_norm
        self.kernel_stddev, self.identity = kernel_stddev, identity

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[self.reduce, self.span]]

    def build(self, input_shape: Shape) -> None:
        channels, taps = input_shape[-1], self.kernel_size**2
        if channels < self.reduction:
            raise ValueError(f"reduction_gsi must be at most the input's {channels} channels, not {self.reduction}")
        self.reduce = ConvNorm(channels // self.reduction, 1, activation="relu", norm=self.norm, name="reduce")
        predict = keras.initializers.RandomNormal(stddev=self.kernel_stddev)
        self.span = KernelSpan(taps, channels, predict, bias_initializer=self._initial_bias, name="span")
        super().build((None, 1, 1, channels))
        if self.kernel_norm == "filter_norm":
            start = keras.initializers.RandomNormal(stddev=math.sqrt(2) / self.kernel_size)
            self.gain = self.add_weight((taps, channels), initializer=start, name="gain")

    def _initial_bias(self, shape: Shape, dtype: Any) -> Any:
        """One at the central tap of each channel's kernel, or zeros."""
        taps = self.kernel_size**2
        central = ops.one_hot(taps // 2, taps, dtype=dtype)
        return ops.tile(central if self.identity else ops.zeros_like(central), shape[0] // taps)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return (batch, *(size and -(-size // self.strides) for size in (height, width)), channels)

    def call(self, x: Any) -> Any:
        taps = self.kernel_size**2
        kernels = chain(self.branches()[0], ops.mean(x, axis=(1, 2), keepdims=True))
        kernels = normalized_kernels(kernels, taps, self.kernel_norm)
        if self.kernel_norm == "filter_norm":
            kernels = kernels * ops.reshape(self.gain, (1, 1, 1, -1))
        return dynamic_filter(x, kernels, *(pair(size) for size in (self.kernel_size, self.strides, self.dilation)))


@register_layer
class DualComplementaryDynamicConvolution(Composite):
    """Involution plus a depth-wise convolution whose kernels are predicted from the whole image.

    DCDC-style, unverified: all but the two branches and their sum is inferred (see this module).

    The local spatial-adaptive branch (LSA) is `Involution`. The global shift-invariant branch (GSI) averages the input over
    all positions, reduces its channels by a 1x1 convolution with batch normalisation and ReLU, predicts from that, by a 1x1
    convolution with bias, one kernel per channel, and filters all positions with it.
    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, channels)`.

    In training the GSI branch normalises one value per image and channel, so a batch (of each replica) needs at least two
    images. With one, set `layer.gsi.reduce.norm.trainable = False`: the normalisation then uses its moving statistics.

    Args:
        kernel_size_lsa, kernel_size_gsi: odd sides of the kernels of the two branches.
        strides: step along height and width.
        norm: keyword arguments of `BatchNorm`.
        group_channels: channels that share a kernel in the LSA branch.
        reduction_lsa, reduction_gsi: channels of the input per channel that the kernels are predicted from.
        use_lsa, use_gsi: whether there is the branch.
        kernel_norm: how every predicted kernel is normalised, see `normalized_kernels`. The outcome of "filter_norm" is
            multiplied by `sqrt(2) / kernel_size` (LSA), or by trained factors, one per tap and channel, that start normal
            with that standard deviation (GSI).
        kernel_stddev: standard deviation of the initial weights that predict the kernels.
        gsi_identity: start the GSI branch near the identity, by a bias of 1 for the kernels' central taps.
        dilation: spacing of the kernels' taps.

    Raises:
        ValueError: both branches are off; a kernel size is even, or 1 with "filter_norm"; the channels do not divide by
            `group_channels` or are fewer than a reduction; `kernel_norm` is unknown.
    """

    def __init__(self, kernel_size_lsa: int = 7, kernel_size_gsi: int = 3, strides: int = 1, *, norm: dict[str, Any],
                 group_channels: int = 16, reduction_lsa: int = 4, reduction_gsi: int = 4, use_lsa: bool = True,
                 use_gsi: bool = True, kernel_norm: KernelNorm = "none", kernel_stddev: float = 1e-3,
                 gsi_identity: bool = False, dilation: int = 1, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if not (use_lsa or use_gsi):
            raise ValueError("use_lsa=False and use_gsi=False leave no branch: at least one must be True")
        if kernel_norm not in get_args(KernelNorm):
            raise ValueError(f"kernel_norm must be one of {get_args(KernelNorm)}, not {kernel_norm!r}")
        smallest = 3 if kernel_norm == "filter_norm" else 1  # a deviation needs two taps
        for name, size in (("kernel_size_lsa", kernel_size_lsa), ("kernel_size_gsi", kernel_size_gsi)):
            if size < smallest or size % 2 == 0:
                raise ValueError(f"{name} must be odd and at least {smallest}, not {size}")
        shared: dict[str, Any] = {
            "strides": strides, "dilation": dilation, "norm": norm, "kernel_norm": kernel_norm,
            "kernel_stddev": kernel_stddev,
        }  # fmt: skip
        self.lsa = self.gsi = None
        if use_lsa:
            self.lsa = LocalKernels(
                kernel_size_lsa, group_channels=group_channels, reduction=reduction_lsa, name="lsa", **shared
            )
        if use_gsi:
            self.gsi = GlobalKernels(
                kernel_size_gsi, reduction=reduction_gsi, identity=gsi_identity, name="gsi", **shared
            )

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[branch] for branch in (self.lsa, self.gsi) if branch is not None]

    def call(self, x: Any) -> Any:
        first, *others = (chain(branch, x) for branch in self.branches())
        return first + others[0] if others else first
