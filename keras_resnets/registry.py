"""The table of networks: registration, construction by name, facts about each row."""

import csv
import dataclasses
import fnmatch
import functools
import importlib.resources
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_resnets.assembly import Network, Pooling, Spec, assemble, image_input, nearest
from keras_resnets.costs import Sizes, measured

# A pattern in our variable paths and what it becomes.
Rename = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclasses.dataclass(frozen=True)
class WeightsEntry:
    """Published weights of a network: where they are and what they expect.

    Attributes:
        tag: name of the weights among those of their network, such as "a1_in1k".
        source: "hub:owner/name" on the Hugging Face hub, an "https:" address, or "package:file" inside this package.
        classes: outputs of the classifier.
        input_size: side of the square input in pixels.
        crop: fraction of the resized image's short side that the centre crop keeps.
        interpolation: "bilinear" or "bicubic".
        mean, std: per RGB channel, of pixels scaled to 0..1.
        top1, top5: published accuracy in percent, or None.
        licence: SPDX identifier in lower case, as declared by the publisher.
        digest: how the file's digest begins where the publisher states one: "sha256:0676ba61", "md5:2cb95161"; else "".
            (Files of the hub are announced with their SHA-256.)
        test_input_size, test_crop, test_top1, test_top5: a second, larger setting for evaluation and what it reaches, or None.
    """

    tag: str
    source: str
    classes: int
    input_size: int
    crop: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    top1: float | None
    top5: float | None
    licence: str
    digest: str = ""
    test_input_size: int | None = None
    test_crop: float | None = None
    test_top1: float | None = None
    test_top5: float | None = None


class Weights(dict[str, WeightsEntry]):
    """Entries by tag. "imagenet" is found as well, without being listed: it is the first entry of 1000 classes."""

    def __missing__(self, tag: str) -> WeightsEntry:
        if tag == "imagenet":
            for entry in self.values():
                if entry.classes == 1000:
                    return entry
        raise KeyError(tag)

    def __contains__(self, tag: object) -> bool:
        try:
            return bool(self[tag])  # type: ignore[index]
        except KeyError:
            return False


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row: a named network.

    Attributes:
        name: as in `list_models`.
        builder: name of the public builder function.
        family: name of the family.
        paper: citation.
        body: makes the last feature map from a spec and an input tensor.
        spec: hyper-parameters.
        pytorch_names: rules that turn our variable paths into the reference's parameter names.
        input_size, classes: defaults of the input's side in pixels and of the classifier's outputs.
    """

    name: str
    builder: str
    family: str
    paper: str
    body: Callable[[Any, Any], Any]
    spec: Spec
    pytorch_names: Sequence[Rename]
    input_size: int = 224
    classes: int = 1000

    @property
    def weights(self) -> Weights:
        """Published weights by tag, the default ("imagenet") first."""
        return _published_weights().get(self.name, Weights())


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Facts about a network, with the default number of classes and for one image of `input_size`.

    Attributes:
        params: trainable scalars.
        gmacs: billions of multiply-accumulates of convolutions and the classifier.
        cio: convolutional input/output: elements of the feature maps that all convolutions read and write, see
            `costs.LayerCost` (the HarDNet paper prints millions).
        input_size: side of the square image in pixels.
        weights: published ones by tag, the default first; "imagenet" finds the first of 1000 classes.
    """

    name: str
    family: str
    builder: str
    params: int
    gmacs: float
    cio: int
    input_size: int
    paper: str
    weights: Weights

    @property
    def moc(self) -> float:
        """Multiply-accumulates per element of `cio`: how much is computed for what goes through memory."""
        return self.gmacs * 1e9 / self.cio


_VARIANTS: dict[str, Variant] = {}

# Mean and standard deviation per RGB channel, of pixels scaled to 0..1.
NORMALISATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),
}


def _read_data(name: str) -> str:
    return importlib.resources.files("keras_resnets").joinpath("data").joinpath(name).read_text("utf-8")


@functools.cache
def _published_weights() -> dict[str, Weights]:
    table: dict[str, Weights] = {}
    for row in csv.DictReader(_read_data("weights.csv").splitlines()):
        mean, std = NORMALISATION[row["normalisation"]]
        table.setdefault(row["network"], Weights())[row["tag"]] = WeightsEntry(
            tag=row["tag"],
            source=row["source"],
            classes=int(row["classes"]),
            input_size=int(row["input_size"]),
            crop=float(row["crop"]),
            interpolation=row["interpolation"],
            mean=mean,
            std=std,
            top1=_figure(row["top1"]),
            top5=_figure(row["top5"]),
            licence=row["licence"],
            digest=row["digest"],
            test_input_size=int(row["test_input_size"]) if row["test_input_size"] else None,
            test_crop=_figure(row["test_crop"]),
            test_top1=_figure(row["test_top1"]),
            test_top5=_figure(row["test_top5"]),
        )
    return table


def _figure(text: str) -> float | None:
    return float(text) if text else None


@functools.cache
def sizes() -> dict[str, Sizes]:
    """Measured sizes by network, from the package's data."""
    return {name: Sizes(*measured) for name, measured in json.loads(_read_data("sizes.json")).items()}


def register(variants: Iterable[Variant]) -> dict[str, Callable[..., Network]]:
    """Adds rows to the table and returns their public builder functions by name.

    Raises:
        ValueError: a name or builder is taken.
    """
    builders = {}
    for variant in variants:
        if variant.name in _VARIANTS or any(other.builder == variant.builder for other in _VARIANTS.values()):
            raise ValueError(f"network {variant.name!r} or builder {variant.builder!r} is registered twice")
        _VARIANTS[variant.name] = variant
        builders[variant.builder] = _builder(variant)
    return builders


def _builder(variant: Variant) -> Callable[..., Network]:
    def build(
        include_top: bool = True,
        weights: str | os.PathLike | None = None,
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: Pooling = None,
        classes: int = variant.classes,
        classifier_activation: str | None = "softmax",
        name: str | None = None,
        **options: Any,
    ) -> Network:
        return _create(variant, include_top, weights, input_tensor, input_shape, pooling, classes, classifier_activation,
                       name, options)  # fmt: skip

    default = "imagenet" if "imagenet" in variant.weights else None
    signature = inspect.signature(build)
    parameters = [p.replace(default=default) if p.name == "weights" else p for p in signature.parameters.values()]
    if default is not None:
        build.__defaults__ = (True, default, *(build.__defaults__ or ())[2:])
    build.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    build.__name__ = build.__qualname__ = variant.builder
    build.__module__ = variant.body.__module__
    options_text = ", ".join(f.name for f in dataclasses.fields(variant.spec))
    build.__doc__ = f"""{variant.name} ({variant.family}; {variant.paper}).

    Args:
        include_top: with global average pooling and the classifier.
        weights: None for random initialisation, a tag of `model_info({variant.name!r}).weights`, "imagenet" for the first of
            them, or the path of a `.safetensors`, `.pth` or `.weights.h5` file. Default {default!r}. A classifier for
            another number of `classes` starts new; the first convolution is adapted to other channels than RGB.
        input_tensor: a `keras.Input` to build on.
        input_shape: (height, width, channels), default ({variant.input_size}, {variant.input_size}, 3); None for an unknown size.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of the classifier.
        classifier_activation: None gives logits.
        name: of the model.
        **options: hyper-parameters, overriding the table's row: {options_text}.

    Returns:
        A `keras.Model` with input "image" `(batch, height, width, channels)`.

    Raises:
        ValueError: an argument is not allowed; the message says what is.
        OSError: the weights are not to be had.
    """
    return build


def find(name: str | None) -> Variant:
    """The row called `name`; ValueError with the nearest names if there is none."""
    if name is None or name not in _VARIANTS:
        raise ValueError(f"unknown network {name!r}: {nearest(name, _VARIANTS)}")
    return _VARIANTS[name]


def create_model(
    name: str,
    weights: str | os.PathLike | None = None,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: Pooling = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    **options: Any,
) -> Network:
    """The network called `name`, as in `list_models`; the other arguments are those of its builder function.

    Raises:
        ValueError: the name, an option or a value is not allowed; the message says what is, with the nearest name.
        OSError: the weights are not to be had.
    """
    variant = find(name)
    return _create(variant, include_top, weights, input_tensor, input_shape, pooling,
                   variant.classes if classes is None else classes, classifier_activation, None, options)  # fmt: skip


def _create(variant: Variant, include_top: bool, weights: str | os.PathLike | None, input_tensor: Any, input_shape: Any,
            pooling: Pooling, classes: int, classifier_activation: str | None, name: str | None,
            options: dict[str, Any]) -> Network:  # fmt: skip
    from keras_resnets.weights import load_weights, resolve

    if not isinstance(include_top, bool):
        raise ValueError(f"include_top must be True or False, not {include_top!r}")
    source = resolve(variant, weights)
    spec = variant.spec.replace(options)
    smallest = 4 if variant.input_size == 32 else spec.smallest_input
    inputs = image_input(input_shape, input_tensor, variant.input_size, smallest)
    network = assemble(variant.body, spec, inputs, include_top=include_top, pooling=pooling, classes=classes,
                       classifier_activation=classifier_activation, name=name or variant.name)  # fmt: skip
    network.variant = variant.name
    if source is not None:
        load_weights(network, source)
    return network


def list_models(pattern: str = "*", family: str | None = None, pretrained: bool = False) -> list[str]:
    """Sorted names of the networks.

    Args:
        pattern: as in `fnmatch`, such as "resnext*".
        family: only that family.
        pretrained: only those with published weights.

    Raises:
        ValueError: there is no such family.
    """
    families = {variant.family for variant in _VARIANTS.values()}
    if family is not None and family not in families:
        raise ValueError(f"unknown family {family!r}: {nearest(family, families)}")
    return sorted(
        name
        for name, variant in _VARIANTS.items()
        if fnmatch.fnmatch(name, pattern) and family in (None, variant.family) and (variant.weights or not pretrained)
    )


def model_info(name: str) -> ModelInfo:
    """Facts about the network called `name`; ValueError with the nearest names if there is none."""
    variant = find(name)
    params, gmacs, cio = sizes().get(name) or measure(name)
    return ModelInfo(variant.name, variant.family, variant.builder, params, gmacs, cio, variant.input_size, variant.paper,
                     Weights(variant.weights))  # fmt: skip


def measure(name: str) -> Sizes:
    """The sizes of the network called `name`, counted on the network itself."""
    return measured(lambda: create_model(name))
