"""From image to prediction: what every network of the package is assembled with.

A family's body turns an input tensor into a last feature map; input, head, level markers, the output-stride plan and the
drop-path schedule are here, once.
"""

import dataclasses
import difflib
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import keras

from keras_resnets.layers import AvgPool2D, BlurPool2D, Composite, ConvNorm, Dropout, MaxPool2D
from keras_resnets.layers.base import chain, register_layer
from keras_resnets.layers.conv import bare_conv, require_channels_last
from keras_resnets.network import Network as Network


def nearest(given: object, allowed: Iterable[str]) -> str:
    """A sentence part for error messages: the nearest of the allowed names, or all of them if few."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "allowed: " + ", ".join(repr(name) for name in names[:20]) + (" …" if len(names) > 20 else "")


OrZero = Annotated[int, "or 0"]  # an option that is a whole number and may be 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The hyper-parameters of a network: a table row sets some, a caller's options override them.

    Attributes:
        drop_path_rate: stochastic depth of the last block; earlier blocks have linearly less, the first one none.
        dropout_rate: before the classifier.
        zero_gamma: start every residual branch at zero (He et al., 2019, arXiv 1812.01187, section 3.1).
        bn_epsilon, bn_momentum: of every batch normalisation, momentum in Keras' sense.
        bn_synchronized: batch statistics over all replicas of a TensorFlow distribution strategy.
    """

    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    zero_gamma: bool = False
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.9
    bn_synchronized: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _require(field.name, getattr(self, field.name), field.type)
        for rate in ("drop_path_rate", "dropout_rate", "bn_momentum"):
            if not 0 <= getattr(self, rate) < 1:
                raise ValueError(f"{rate} must be at least 0 and below 1, not {getattr(self, rate)!r}")
        if self.bn_epsilon <= 0:
            raise ValueError(f"bn_epsilon must be above 0, not {self.bn_epsilon!r}")

    def replace(self, options: dict[str, Any]) -> "Spec":
        """This spec with a caller's options; unknown ones raise ValueError with the nearest name."""
        known = [field.name for field in dataclasses.fields(self)]
        for option in options:
            if option == "output_stride" and option not in known:
                raise ValueError(
                    "output_stride cannot be chosen: this family pools between its stages, or is for small images"
                )
            if option not in known:
                raise ValueError(f"unknown option {option!r}: {nearest(option, known)}")
        return dataclasses.replace(self, **options)

    def refuse_residual_options(self, reason: str) -> None:
        """Raises ValueError, with `reason`, if an option is set that only residual branches have."""
        for option in ("drop_path_rate", "zero_gamma"):
            if getattr(self, option):
                raise ValueError(f"{option} must be {type(getattr(self, option))()!r}: {reason}")

    @property
    def norm(self) -> dict[str, Any]:
        """Keyword arguments of `BatchNorm`."""
        norm: dict[str, Any] = {"epsilon": self.bn_epsilon, "momentum": self.bn_momentum}
        return {**norm, "synchronized": True} if self.bn_synchronized else norm

    @property
    def smallest_input(self) -> int:
        """Height and width of the smallest image that the network takes."""
        return 32

    def head(self, features: Any, classes: int, activation: str | None) -> Any:
        """The network's output from what its body returned: global average pool, dropout and classifier."""
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(features)
        if self.dropout_rate:
            x = Dropout(self.dropout_rate, name="dropout")(x)
        return classifier(x, classes, activation)


def _require(name: str, value: Any, annotation: Any) -> None:
    """Raises ValueError if `value` is not what the field `name` of a spec is annotated with."""
    if choices := _choices(annotation):
        fits, wanted = value in choices, "one of " + ", ".join(repr(choice) for choice in choices)
    elif typing.get_origin(annotation) is tuple:
        *_, last = typing.get_args(annotation)
        length = None if last is ... else len(typing.get_args(annotation))
        fits = isinstance(value, (tuple, list)) and bool(value) and all(_is_count(item) for item in value)
        fits, wanted = fits and length in (None, len(value)), f"{length or 'some'} whole numbers above 0"
    elif annotation is bool:
        fits, wanted = isinstance(value, bool), "True or False"
    elif annotation is OrZero:
        fits, wanted = _is_count(value) or (value == 0 and value is not False), "a whole number, 0 or above"
    elif annotation is int:
        fits, wanted = _is_count(value), "a whole number above 0"
    else:
        fits, wanted = isinstance(value, numbers.Real) and not isinstance(value, bool), "a number"
    if not fits:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _choices(annotation: Any) -> list[Any]:
    """What a Literal allows, or a union of one with None; empty for other annotations."""
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for part in typing.get_args(annotation) for choice in _choices(part) or [None]]
    return []


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) > 0


def classifier(x: Any, classes: int, activation: str | None, name: str = "predictions") -> Any:
    """A dense layer whose logits and probabilities stay float32 under mixed precision (float64 under that policy)."""
    dtype = keras.backend.result_type(keras.config.dtype_policy().compute_dtype, "float32")
    return keras.layers.Dense(classes, activation=activation, dtype=dtype, name=name)(x)


@dataclasses.dataclass(frozen=True)
class BlockPlace:
    """Where a block stands: its layer name, stride, dilation of its first and its other 3x3, drop-path rate."""

    name: str
    index: int
    strides: int
    first_dilation: int
    dilation: int
    drop_path: float


def stage_plan(depths: Sequence[int], drop_path_rate: float = 0.0, output_stride: int = 32,
               stem_stride: int = 4) -> Iterator[list[BlockPlace]]:  # fmt: skip
    """The blocks of each stage. Every stage but the first halves the map until `output_stride` is reached.

    From then on stages dilate instead: the first block of such a stage keeps the previous dilation, the later ones double
    it (Yu et al., 2017, arXiv 1705.09914). Weights are the same for every output stride.
    """
    blocks_before, stride, dilation = 0, stem_stride, 1
    for stage, depth in enumerate(depths, start=1):
        first_dilation, first_strides = dilation, 1
        if stage > 1 and stride < output_stride:
            stride, first_strides = stride * 2, 2
        elif stage > 1:
            dilation *= 2
        yield [
            BlockPlace(
                name=f"stage{stage}_block{index + 1}",
                index=index,
                strides=first_strides if index == 0 else 1,
                first_dilation=first_dilation if index == 0 else dilation,
                dilation=dilation,
                drop_path=drop_path_rate * (blocks_before + index) / max(sum(depths) - 1, 1),
            )
            for index in range(depth)
        ]
        blocks_before += depth


def level(x: Any, name: str) -> Any:
    """Marks `x` as a feature level, "C1" (stem) to "C5"."""
    return keras.layers.Identity(name=name)(x)


MakeBlock = Callable[[Any, int, BlockPlace], keras.layers.Layer]


def stages(x: Any, spec: Spec, plan: Iterable[list[BlockPlace]], make_block: MakeBlock) -> Any:
    """The blocks of `plan` one after the other; the ends of the stages are the levels from "C2" on.

    `make_block(spec, stage, place)` makes the block at a place of stage 0, 1, …
    """
    for stage, places in enumerate(plan):
        for place in places:
            x = make_block(spec, stage, place)(x)
        x = level(x, f"C{stage + 2}")
    return x


@register_layer
class DeepStem(Composite):
    """Three 3x3 convolutions in place of one 7x7, the first of stride 2 (He et al., 2019, arXiv 1812.01187, figure 2b).

    Input `(batch, height, width, channels)`, output `(batch, ⌈height/2⌉, ⌈width/2⌉, widths[-1])`.

    Args:
        widths: output channels of the convolutions.
        norm: keyword arguments of `BatchNorm`; each convolution is followed by it and a ReLU.
        bare_last: but for the last convolution, which stands alone (pre-activation networks).
    """

    def __init__(self, widths: Sequence[int], norm: dict[str, Any], bare_last: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convs = [
            bare_conv(width, 3, name=f"conv{i}")
            if bare_last and i == len(widths)
            else ConvNorm(width, 3, 2 if i == 1 else 1, activation="relu", norm=norm, name=f"conv{i}")
            for i, width in enumerate(widths, start=1)
        ]

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [self.convs]

    def call(self, x: Any) -> Any:
        return chain(self.convs, x)


def stem(x: Any, widths: Sequence[int], norm: dict[str, Any]) -> Any:
    """The first convolutions, halving the map: one 7x7 for a single width, else a deep stem."""
    if len(widths) == 1:
        return ConvNorm(widths[0], 7, 2, activation="relu", norm=norm, name="stem")(x)
    return DeepStem(widths, norm, name="stem")(x)


StemPool = Literal["max", "max_ceil", "max_blur", "avg", "conv"]


def stem_pool(x: Any, kind: StemPool, norm: dict[str, Any]) -> Any:
    """Halves the stem's map: "max" pads 1 pixel, "max_ceil" rounds up (Caffe), "max_blur" is anti-aliased, "avg" is a
    2x2 average, "conv" a strided convolution (ResNet-RS). The input is expected to come from a ReLU."""
    if kind == "conv":
        return ConvNorm(x.shape[-1], 3, 2, activation="relu", norm=norm, name="stem_pool")(x)
    if kind == "avg":
        return AvgPool2D(2, name="stem_pool")(x)
    if kind == "max_blur":
        x = MaxPool2D(3, 1, padding=1, nonnegative=True, name="stem_pool")(x)
        return BlurPool2D(name="stem_blur")(x)
    ceil = kind == "max_ceil"
    return MaxPool2D(3, 2, padding=0 if ceil else 1, ceil_mode=ceil, nonnegative=True, name="stem_pool")(x)


def image_input(input_shape: Sequence[int | None] | None, input_tensor: Any, input_size: int, smallest: int) -> Any:
    """The network's input, named "image": `(batch, height, width, channels)`.

    Args:
        input_shape, input_tensor: a caller's; at most one of them is needed.
        input_size: side of the square image that the table's row is for, the default.
        smallest: height and width that the image must have at least.

    Raises:
        ValueError: Keras is configured for channels-first images, `input_shape` is not (height, width, channels), or the
            image is smaller than `smallest`.
    """
    require_channels_last(keras.config.image_data_format())
    if input_tensor is not None:
        if input_shape is not None and tuple(input_tensor.shape[1:]) != tuple(input_shape):
            raise ValueError(f"input_shape {tuple(input_shape)} contradicts input_tensor of shape {input_tensor.shape}")
        if len(input_tensor.shape) != 4 or not input_tensor.shape[-1]:
            raise ValueError(f"input_tensor must be (batch, height, width, channels), not {tuple(input_tensor.shape)}")
        input_shape = tuple(input_tensor.shape[1:])
    shape: Any = (input_size, input_size, 3) if input_shape is None else input_shape
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), not {shape!r}")
    if not all(size is None or _is_count(size) for size in shape) or shape[-1] is None:
        raise ValueError(f"input_shape must hold positive sizes, None for an unknown height or width; not {shape}")
    if any(size is not None and size < smallest for size in shape[:2]):
        raise ValueError(
            f"input_shape must be (height, width, channels) of at least {smallest} x {smallest} pixels, not {shape}"
        )
    return keras.Input(shape, name="image") if input_tensor is None else input_tensor


Pooling = Literal["avg", "max"] | None


def _require_activation(name: Any) -> None:
    names = [key for key in dir(keras.activations) if not key.startswith("_")]
    if name is not None and not callable(name) and name not in names:
        raise ValueError(
            f"classifier_activation must be None or a Keras activation, not {name!r}: {nearest(name, names)}"
        )


def assemble(body: Callable[[Spec, Any], Any], spec: Spec, inputs: Any, *, include_top: bool, pooling: Pooling,
             classes: int, classifier_activation: str | None, name: str) -> Network:  # fmt: skip
    """The whole network: body, then the spec's head (global average pool, dropout, classifier) or the pooling asked for.

    Raises:
        ValueError: `classes` is not positive, `pooling` or `classifier_activation` is unknown, or a head that needs several
            feature maps is left away.
    """
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling must be None, 'avg' or 'max', not {pooling!r}")
    if include_top and not _is_count(classes):
        raise ValueError(f"classes must be a positive whole number, not {classes!r}")
    _require_activation(classifier_activation)
    x = body(spec, inputs)
    if include_top:
        x = spec.head(x, classes, classifier_activation)
    elif isinstance(x, tuple):
        raise ValueError("include_top must be True with aux_logits=True: the auxiliary classifier is part of the top")
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    return Network(inputs, x, name=name)
