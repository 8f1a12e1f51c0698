"""DCDC-ResNet: residual networks of dual complementary dynamic convolutions.

DCDC-style, unverified. The paper (Yan et al., 2022, arXiv 2211.06163) has no public code, and its block, its depths and its
numbers are not known here: everything below is inferred, and no published figure confirms it. Bottlenecks follow RedNet: the
3x3 is a `DualComplementaryDynamicConvolution`, and the depths are RedNet's. In basic blocks, which RedNet has not, each 3x3
is a 1x1 convolution without normalisation followed by that layer. The stem is ResNet's 7x7, or with `stem="rednet"` RedNet's,
its involution replaced by that layer with 3x3 kernels. Every such choice is a field of `DCDCSpec`.

With `use_gsi=False` and `stem="rednet"` a network is the RedNet of its depth, which then has the same PyTorch names.
"""

import dataclasses
from typing import Any, Literal

import keras

from keras_resnets.assembly import BlockPlace, Spec, StemPool
from keras_resnets.layers import DualComplementaryDynamicConvolution, NormAct
from keras_resnets.layers.base import register_layer
from keras_resnets.layers.conv import bare_conv
from keras_resnets.layers.dynamic import KernelNorm
from keras_resnets.layers.residual import ResidualBlock, ShortcutKind
from keras_resnets.models import rednet, resnet
from keras_resnets.registry import Rename, Variant, register


@register_layer
class DCDCBottleneck(rednet.OperatorBottleneck):
    """1x1 → dual complementary dynamic convolution → 1x1, added to a shortcut (DCDC-style, unverified).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        dynamic: keyword arguments of `DualComplementaryDynamicConvolution` beside strides, dilation and norm.
        dilation: of the dynamic convolution.
        filters, width, strides, zero_gamma, norm, shortcut, drop_path: see `OperatorBottleneck`.
    """

    def __init__(self, filters: int, width: int, strides: int = 1, *, norm: dict[str, Any], dynamic: dict[str, Any],
                 dilation: int = 1, zero_gamma: bool = False, shortcut: ShortcutKind = "B", drop_path: float = 0.0,
                 **kwargs: Any) -> None:  # fmt: skip
        operator = DualComplementaryDynamicConvolution(
            strides=strides, norm=norm, dilation=dilation, name="conv2", **dynamic
        )
        super().__init__(operator, filters, width, strides, norm=norm, zero_gamma=zero_gamma, shortcut=shortcut,
                         drop_path=drop_path, **kwargs)  # fmt: skip


@register_layer
class DCDCBasicBlock(ResidualBlock):
    """Twice 1x1 → dual complementary dynamic convolution, added to a shortcut (DCDC-style, unverified).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: of both 1x1 convolutions.
        strides, first_dilation: of the first dynamic convolution.
        dilation: of the second one.
        dynamic: keyword arguments of `DualComplementaryDynamicConvolution` beside strides, dilation and norm.
        zero_gamma: start the last normalisation's scale at zero.
        shortcut, norm, drop_path: see `ResidualBlock`.
    """

    def __init__(self, filters: int, strides: int = 1, *, norm: dict[str, Any], dynamic: dict[str, Any],
                 first_dilation: int = 1, dilation: int = 1, zero_gamma: bool = False, shortcut: ShortcutKind = "B",
                 drop_path: float = 0.0, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(filters, strides, shortcut, norm, drop_path, **kwargs)
        self.branch = [
            bare_conv(filters, 1, name="project1"),
            DualComplementaryDynamicConvolution(strides=strides, norm=norm, dilation=first_dilation, name="dynamic1", **dynamic),
            NormAct(norm, name="norm1"),
            bare_conv(filters, 1, name="project2"),
            DualComplementaryDynamicConvolution(norm=norm, dilation=dilation, name="dynamic2", **dynamic),
            NormAct({**norm, "zero_gamma": zero_gamma}, activation=None, name="norm2"),
        ]  # fmt: skip


@register_layer
class DCDCStem(rednet.OperatorStem):
    """3x3 convolution of stride 2 → dual complementary dynamic convolution → 3x3 convolution (DCDC-style, unverified).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/2⌉, ⌈width/2⌉, 64)`.

    Args:
        norm: keyword arguments of `BatchNorm`.
        dynamic: keyword arguments of `DualComplementaryDynamicConvolution` beside norm.
    """

    def __init__(self, norm: dict[str, Any], dynamic: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(DualComplementaryDynamicConvolution(norm=norm, name="operator", **dynamic), norm, **kwargs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DCDCSpec(Spec):
    """A row of this table. Every default from `stem` on is inferred, none is published.

    Attributes:
        zero_gamma: on, as in RedNet.
        block: "basic" or "bottleneck".
        depths: blocks per stage.
        stem: "conv" for ResNet's 7x7, "rednet" for three layers with a dynamic convolution of 3x3 kernels in the middle.
        stem_pool: see `assembly.stem_pool`.
        kernel_size_lsa, kernel_size_gsi, group_channels, reduction_lsa, reduction_gsi, use_lsa, use_gsi, kernel_norm,
            kernel_stddev, gsi_identity: see `DualComplementaryDynamicConvolution`.
        shortcut: see `shortcut_layers`.
        output_stride: 32, 16 or 8; smaller ones spread the taps of the last stages' kernels instead of striding.
    """

    zero_gamma: bool = True
    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, int, int, int]
    stem: Literal["conv", "rednet"] = "conv"
    stem_pool: StemPool = "max"
    kernel_size_lsa: int = 7
    kernel_size_gsi: int = 3
    group_channels: int = 16
    reduction_lsa: int = 4
    reduction_gsi: int = 4
    use_lsa: bool = True
    use_gsi: bool = True
    kernel_norm: KernelNorm = "none"
    kernel_stddev: float = 1e-3
    gsi_identity: bool = False
    shortcut: ShortcutKind = "B"
    output_stride: Literal[32, 16, 8] = 32

    @property
    def dynamic(self) -> dict[str, Any]:
        """Keyword arguments of `DualComplementaryDynamicConvolution` that are the same in all blocks."""
        names = ("kernel_size_lsa", "kernel_size_gsi", "group_channels", "reduction_lsa", "reduction_gsi", "use_lsa", "use_gsi",
                 "kernel_norm", "kernel_stddev", "gsi_identity")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def dcdc_block(spec: DCDCSpec, stage: int, place: BlockPlace) -> ResidualBlock:
    """The block at `place` of stage 0 to 3."""
    width = resnet.WIDTHS[stage]
    shared: dict[str, Any] = {
        "strides": place.strides, "norm": spec.norm, "dynamic": spec.dynamic, "zero_gamma": spec.zero_gamma,
        "shortcut": spec.shortcut, "drop_path": place.drop_path, "name": place.name,
    }  # fmt: skip
    if spec.block == "basic":
        return DCDCBasicBlock(width, first_dilation=place.first_dilation, dilation=place.dilation, **shared)
    return DCDCBottleneck(4 * width, width, dilation=place.first_dilation, **shared)


def dcdc_stem(spec: DCDCSpec) -> keras.layers.Layer:
    """The stem of three layers."""
    return DCDCStem(spec.norm, {**spec.dynamic, "kernel_size_lsa": 3, "kernel_size_gsi": 3}, name="stem")


def dcdc(spec: DCDCSpec, inputs: Any) -> Any:
    """A RedNet with other blocks and another stem."""
    return rednet.rednet(spec, inputs, dcdc_block, dcdc_stem)


# There is no reference: names after RedNet's, so that its checkpoints fit what a network shares with it.
PYTORCH_NAMES: list[Rename] = [
    (r"/lsa/", "/"),
    (r"/gsi/reduce/", ".gsi_conv1."),
    (r"/gsi/span/", ".gsi_conv2.conv."),
    (r"/gsi/gain", ".gsi_norm.weight"),
    *rednet.PYTORCH_NAMES,
    (r"(gsi_conv1\.)norm/", r"\1bn."),
    (r"(gsi_conv1\.)conv/", r"\1conv."),
    (r"project(\d)/", r"conv\1.0."),
    (r"dynamic(\d)", r"conv\1.1"),
    (r"norm(\d)/norm/", r"bn\1."),
]

PAPER = "after Yan et al., 2022, arXiv 2211.06163; DCDC-style, unverified"


def _row(depth: int) -> Variant:
    basic = depth in (18, 34)
    spec = DCDCSpec(
        block="basic" if basic else "bottleneck", depths=resnet.DEPTHS[depth] if basic else rednet.DEPTHS[depth]
    )
    return Variant(f"dcdc{depth}", f"DCDCResNet{depth}", "DCDC", PAPER, dcdc, spec, PYTORCH_NAMES)


VARIANTS = [_row(depth) for depth in (18, 26, 34, 38, 50, 101, 152)]

BUILDERS = register(VARIANTS)
