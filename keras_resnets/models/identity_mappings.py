"""The ablations of Identity Mappings (He et al., 2016, arXiv 1603.05027) on CIFAR ResNets, as options.

`activation_order` (table 2, figure 4) moves normalisation and ReLU around the addition; `skip` (table 1, figure 2) puts
something on the shortcut of every unit. The rows are the paper's ResNet-110 of basic units and ResNet-164 of bottlenecks; by
default they are the original units and the identity, that is the networks of resnet_cifar.py. Shortcuts that change the shape
do so before `skip` applies (the paper does not say); projections are bare where the input is pre-activated.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_resnets.assembly import BlockPlace, Spec, level, stage_plan
from keras_resnets.layers import Composite, Conv2D, ConvNorm, Dropout, NormAct
from keras_resnets.layers.base import Shape, chain, register_layer
from keras_resnets.layers.conv import bare_conv, he_fan_out
from keras_resnets.layers.residual import ShortcutKind, shortcut_layers
from keras_resnets.models.resnet_cifar import PYTORCH_NAMES
from keras_resnets.registry import Variant, register

ActivationOrder = Literal["original", "bn_after_addition", "relu_before_addition", "relu_only", "full"]
Skip = Literal["identity", "constant", "exclusive_gate", "shortcut_gate", "conv1x1", "dropout"]


@register_layer
class SkipScaling(Composite):
    """What the paper's table 1 does to a unit: called with `[residual, shortcut]`, returns their combination.

    Both inputs and the output are `(batch, height, width, channels)`. With `g = sigmoid(1x1 convolution of the shortcut)`:

    Args:
        skip: "identity" adds; "constant" adds `residual_scale · residual + shortcut_scale · shortcut`; "exclusive_gate" adds
            `g · residual + (1 - g) · shortcut`; "shortcut_gate" adds `residual + (1 - g) · shortcut`; "conv1x1" convolves
            the shortcut; "dropout" drops half of the shortcut's values in training.
        shortcut_scale, residual_scale: for "constant"; the paper's are 0.5 and 0.5 or 1.
        gate_bias: initial bias of the gate's convolution; the paper tries 0 to -10, -6 serves best.
    """

    def __init__(self, skip: Skip, shortcut_scale: float = 0.5, residual_scale: float = 0.5, gate_bias: float = -6.0,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.skip, self.shortcut_scale, self.residual_scale = skip, shortcut_scale, residual_scale
        self.gate_bias = gate_bias
        self.on_shortcut: list[keras.layers.Layer] = []

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.on_shortcut]

    def build(self, input_shape: Sequence[Shape]) -> None:
        shape = input_shape[1]
        if self.skip in ("exclusive_gate", "shortcut_gate"):
            bias = keras.initializers.Constant(self.gate_bias)
            self.on_shortcut = [
                Conv2D(
                    shape[-1],
                    1,
                    kernel_initializer=he_fan_out(),
                    bias_initializer=bias,
                    activation="sigmoid",
                    name="gate",
                )
            ]
        elif self.skip == "conv1x1":
            self.on_shortcut = [bare_conv(shape[-1], 1, name="conv")]
        elif self.skip == "dropout":
            self.on_shortcut = [Dropout(0.5, name="dropout")]
        super().build(shape)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return tuple(input_shape[0])

    def call(self, inputs: Sequence[Any]) -> Any:
        residual, shortcut = inputs
        if self.skip == "constant":
            return self.residual_scale * residual + self.shortcut_scale * shortcut
        changed = chain(self.on_shortcut, shortcut)
        if self.skip == "exclusive_gate":
            return changed * residual + (1 - changed) * shortcut
        if self.skip == "shortcut_gate":
            return residual + (1 - changed) * shortcut
        return residual + changed


@register_layer
class AblationBlock(Composite):
    """Two 3x3, or 1x1 → 3x3 → 1x1, with normalisation, activation and shortcut as the ablations ask.

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)`.

    Args:
        filters: output channels.
        width: channels of a bottleneck's 3x3; None for a basic block.
        strides: of the first convolution.
        activation_order: "original", "bn_after_addition", "relu_before_addition", "relu_only" (pre-activation by ReLU alone),
            or "full" (pre-activation): (a) to (e) of figure 4.
        preactivate: for the last two: the block's branch starts with its own activation; False where the input has been
            activated before the split.
        skip: see `SkipScaling`; `skip_options` are its other arguments.
        norm, shortcut: see `ResidualBlock`.
    """

    def __init__(self, filters: int, width: int | None = None, strides: int = 1, *, norm: dict[str, Any],
                 activation_order: ActivationOrder = "original", preactivate: bool = True, skip: Skip = "identity",
                 skip_options: dict[str, float] | None = None, shortcut: ShortcutKind = "B", **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        convs = [(filters, 3), (filters, 3)] if width is None else [(width, 1), (width, 3), (filters, 1)]
        self.branch: list[keras.layers.Layer] = []
        if activation_order == "relu_only" and preactivate:
            self.branch.append(keras.layers.ReLU(name="preact"))
        elif activation_order == "full" and preactivate:
            self.branch.append(NormAct(norm, name="preact"))
        for i, (channels, size) in enumerate(convs, start=1):
            step, last = strides if i == 1 else 1, i == len(convs)
            if last and activation_order in ("bn_after_addition", "full"):
                self.branch.append(bare_conv(channels, size, name=f"conv{i}"))
                continue
            activation = "relu" if not last or activation_order == "relu_before_addition" else None
            self.branch.append(ConvNorm(channels, size, step, activation=activation, norm=norm, name=f"conv{i}"))
        projection_norm = None if activation_order in ("relu_only", "full") else norm
        self.shortcut_arguments = (filters, strides, projection_norm)
        self.shortcut_kind = shortcut
        self.shortcut: list[keras.layers.Layer] = []
        self.merge = SkipScaling(skip, **(skip_options or {}), name="skip")
        self.after: list[keras.layers.Layer] = []
        if activation_order == "original":
            self.after = [keras.layers.ReLU(name="after")]
        elif activation_order == "bn_after_addition":
            self.after = [NormAct(norm, name="after")]

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.branch, self.shortcut]

    def build(self, input_shape: Shape) -> None:
        self.shortcut = shortcut_layers(self.shortcut_kind, input_shape[-1], *self.shortcut_arguments)
        super().build(input_shape)
        shape = self.compute_output_shape(input_shape)
        self.merge.dtype_policy = self.dtype_policy
        self.merge.build([shape, shape])
        self.build_chain(self.after, shape)

    def call(self, x: Any) -> Any:
        return chain(self.after, self.merge([chain(self.branch, x), chain(self.shortcut, x)]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationSpec(Spec):
    """A row of this table.

    Attributes:
        block: "basic" or "bottleneck".
        depth: blocks per stage.
        shortcut: "A" or "B", where the shape changes.
        activation_order, skip, shortcut_scale, residual_scale, gate_bias: see `AblationBlock` and `SkipScaling`.
    """

    block: Literal["basic", "bottleneck"]
    depth: int
    shortcut: Literal["A", "B"]
    activation_order: ActivationOrder = "original"
    skip: Skip = "identity"
    shortcut_scale: float = 0.5
    residual_scale: float = 0.5
    gate_bias: float = -6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_residual_options("these ablations are without it")


def identity_mappings(spec: AblationSpec, inputs: Any) -> Any:
    """A 3x3 stem, three stages, and the activation that pre-activated units lack at the end."""
    order = spec.activation_order
    if order == "full":
        x = bare_conv(16, 3, name="stem")(inputs)
    else:
        x = ConvNorm(16, 3, activation=None if order == "relu_only" else "relu", norm=spec.norm, name="stem")(inputs)
    x = level(x, "C1")
    for stage, places in enumerate(stage_plan([spec.depth] * 3, stem_stride=1), start=1):
        x = _shared_activation(spec, x, f"stage{stage}_preact")
        if stage > 1:
            x = level(x, f"C{stage}")
        for place in places:
            x = _block(spec, 16 * 2 ** (stage - 1), place)(x)
    return level(_shared_activation(spec, x, "norm"), "C4")


def _shared_activation(spec: AblationSpec, x: Any, name: str) -> Any:
    if spec.activation_order == "full":
        return NormAct(spec.norm, name=name)(x)
    return keras.layers.ReLU(name=name)(x) if spec.activation_order == "relu_only" else x


def _block(spec: AblationSpec, width: int, place: BlockPlace) -> AblationBlock:
    bottleneck = spec.block == "bottleneck"
    return AblationBlock(
        4 * width if bottleneck else width, width if bottleneck else None, place.strides, norm=spec.norm,
        activation_order=spec.activation_order, preactivate=place.index > 0, skip=spec.skip, shortcut=spec.shortcut,
        skip_options={key: getattr(spec, key) for key in ("shortcut_scale", "residual_scale", "gate_bias")},
        name=place.name,
    )  # fmt: skip


def _row(layers: int, block: Literal["basic", "bottleneck"], depth: int, shortcut: Literal["A", "B"]) -> Variant:
    spec = AblationSpec(block=block, depth=depth, shortcut=shortcut)
    paper = "He et al., 2016, arXiv 1603.05027"
    return Variant(f"identity_mappings{layers}_cifar", f"IdentityMappings{layers}Cifar", "IdentityMappings-CIFAR", paper,
                   identity_mappings, spec, PYTORCH_NAMES, input_size=32, classes=10)  # fmt: skip


VARIANTS = [_row(110, "basic", 18, "A"), _row(164, "bottleneck", 18, "B")]

BUILDERS = register(VARIANTS)
