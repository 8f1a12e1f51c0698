"""Recipes: what to train, on what, how. One YAML file each, checked key by key against the dataclasses below."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from keras_resnets.assembly import nearest
from training.schema import Between, convert

RECIPES = Path(__file__).parent / "recipes"

SOURCES = ("digits", "folder", "tfds", "tfrecord")
Fraction = Annotated[float, Between(0, 1)]
Positive = Annotated[int, Between(1)]
NotNegative = Annotated[float, Between(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The network.

    Attributes:
        name: as in `keras_resnets.list_models`.
        preprocessing: tag of the weights entry of that network whose preprocessing the images get, and as whose weights
            the trained network will be known. Empty for the preprocessing of a network without such weights.
        weights: what training starts from: a tag of the network's weights, or a checkpoint or `.keras` file; empty for random
            weights.
        freeze: the last part that is not trained, as in `keras_resnets.freeze`, or "head" to train the classifier alone.
        options: further keywords of `keras_resnets.create_model`, such as `zero_gamma`, `drop_path_rate`, `bn_synchronized`.
    """

    name: str
    preprocessing: str = ""
    weights: str = ""
    freeze: str = "none"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Where images come from, and how large the network sees them.

    Attributes:
        source: "digits", the 1,797 handwritten digits inside scikit-learn; "folder:PATH", a folder of class folders, or of
            `train` and `val` folders of such; "tfds:NAME", a dataset of tensorflow-datasets; "tfrecord:FOLDER", written by
            `training.make_tfrecords`.
        test_fraction: share of every class that is held out for testing, of sources that have no test part of their own.
        split_seed: draws the held-out images.
        image_size: side of the square training images in pixels; the 8x8 digits are enlarged to it.
        test_size: side of the square test images; 0 for `image_size`.
        test_crop: share of the short side that a test image keeps; 1 for sources that are small already.
        interpolation: of every resize.
        repeats: how many times an image occurs in a batch, augmented differently (Hoffer et al., 2020, arXiv 1901.09335); an
            epoch has as many steps as without.
    """

    source: str
    test_fraction: Annotated[float, Between(0.01, 0.99)] = 0.2
    split_seed: Annotated[int, Between(0)] = 0
    image_size: Annotated[int, Between(8)] = 32
    test_size: Annotated[int, Between(0)] = 0
    test_crop: Annotated[float, Between(0.1, 1)] = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    repeats: Positive = 1

    def __post_init__(self) -> None:
        kind, colon, place = self.source.partition(":")
        if (kind == "digits") == bool(colon) or kind not in SOURCES or bool(colon) != bool(place):
            raise ValueError(f"data.source: unknown source {self.source!r}: {nearest(kind, SOURCES)} (digits, folder:PATH, "
                             "tfds:NAME, tfrecord:FOLDER)")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """Random changes of training images, in this order; by default none.

    Attributes:
        crop: "resize" the whole image to the square; "random_area", a random area and aspect ratio (Szegedy et al., 2014,
            arXiv 1409.4842); "random_scale", the short side uniform in `short_side`, then a random square; "pad", a margin of
            `pad` pixels, then a random square; "centre", as for testing; "shifted_centre", the same with a random place
            along the longer side (FixRes).
        area, aspect: ranges of "random_area": share of the image, and width over height.
        short_side: range of "random_scale" in pixels.
        pad: of "pad".
        pad_value: "zero", or "mean" for the mean that the preprocessing subtracts.
        flip: mirror half of the images.
        shift, rotation, zoom, shear: largest amounts of one random affine map: pixels along both axes, degrees, fraction of
            the size along both axes, degrees of the vertical axis.
        policy: "autoaugment" (Cubuk et al., 2018, arXiv 1805.09501, ImageNet policy) or "randaugment" (2019, arXiv
            1909.13719), or none.
        policy_ops, policy_magnitude, policy_noise: of "randaugment": operations per image, their strength of 10, and its
            standard deviation.
        policy_first: apply the policy to the whole image, before the crop.
        brightness, contrast, saturation: largest change of each, as a fraction, in random order; `hue`: as a fraction of the
            circle.
        lighting: standard deviation of noise along the principal components of ImageNet's colours (Krizhevsky et al., 2012).
        erasing: probability that a random rectangle is blanked (Zhong et al., 2017, arXiv 1708.04896).
        mixup, cutmix: alpha of the Beta distribution (Zhang et al., 2017, arXiv 1710.09412; Yun et al., 2019, arXiv 1905.04899), 0
            for none; with both, each batch gets one of them, with equal chances.
        mixup_off_epoch: from this epoch on there is neither; 0 for never.
    """

    crop: Literal["resize", "random_area", "random_scale", "pad", "centre", "shifted_centre"] = "resize"
    area: tuple[Fraction, ...] = (0.08, 1.0)
    aspect: tuple[NotNegative, ...] = (3 / 4, 4 / 3)
    short_side: tuple[Positive, ...] = (256, 480)
    pad: Annotated[int, Between(0)] = 4
    pad_value: Literal["zero", "mean"] = "zero"
    flip: bool = False
    shift: NotNegative = 0.0
    rotation: Annotated[float, Between(0, 180)] = 0.0
    zoom: Annotated[float, Between(0, 0.9)] = 0.0
    shear: Annotated[float, Between(0, 80)] = 0.0
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    policy_ops: Positive = 2
    policy_magnitude: Annotated[float, Between(0, 10)] = 9.0
    policy_noise: NotNegative = 0.0
    policy_first: bool = False
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Between(0, 0.5)] = 0.0
    lighting: NotNegative = 0.0
    erasing: Fraction = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    mixup_off_epoch: Annotated[int, Between(0)] = 0

    def __post_init__(self) -> None:
        for key in ("area", "aspect", "short_side"):
            low_high = getattr(self, key)
            if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
                raise ValueError(f"augment.{key} must be [smallest, largest], both above 0, not {list(low_high)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """Stochastic gradient descent with momentum, LAMB or RMSProp, see `training.optimizers`.

    Attributes:
        lr: learning rate at the end of the warm-up.
        lr_batch: batch size that `lr` is meant for; other batch sizes scale it in proportion (Goyal et al., 2017, arXiv
            1706.02677). 0 leaves it as it is.
        momentum: of "sgd" and "rmsprop"; nesterov: of "sgd".
        l2: coupled weight decay, of "sgd" and "rmsprop".
        l2_on: "kernels", of convolutions and dense layers, or "all", biases and normalisation as well.
        weight_decay: of kernels, within the update, of "lamb".
        rho, epsilon: of "rmsprop": weight of the old mean of squares, and what is added to it.
        clip_norm: largest norm of the gradient of the whole batch over all weights; 0 for no limit.
    """

    name: Literal["sgd", "lamb", "rmsprop"] = "sgd"
    lr: NotNegative
    lr_batch: Annotated[int, Between(0)] = 0
    momentum: Fraction = 0.9
    nesterov: bool = True
    l2: NotNegative = 0.0
    l2_on: Literal["kernels", "all"] = "kernels"
    weight_decay: NotNegative = 0.0
    rho: Fraction = 0.9
    epsilon: NotNegative = 1.0
    clip_norm: NotNegative = 0.0

    def __post_init__(self) -> None:
        for key, owners in (("l2", ("sgd", "rmsprop")), ("weight_decay", ("lamb",))):
            if getattr(self, key) and self.name not in owners:
                raise ValueError(f"optimizer.{key} is for {' and '.join(owners)}, the optimizer is {self.name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """The learning rate over the steps, see `training.schedules`.

    Attributes:
        name: "cosine" down to `final` of the rate; "step"; "exponential"; or "constant".
        warmup_epochs: of rise.
        warmup: "linear", or "constant" at the share `warmup_from` of the rate.
        warmup_from: share of the rate that the warm-up starts at; 0 for the first of as many equal parts as it has steps.
        drop_epochs: where "step" multiplies the rate by `factor`.
        factor: of "step", and of "exponential" every `every_epochs`.
        every_epochs: of "exponential".
        final: of "cosine", share of the rate.
    """

    name: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    warmup: Literal["linear", "constant"] = "linear"
    warmup_from: Fraction = 0.0
    drop_epochs: tuple[NotNegative, ...] = ()
    factor: Annotated[float, Between(0, 1)] = 0.1
    every_epochs: NotNegative = 1.0
    final: Fraction = 0.0

    def __post_init__(self) -> None:
        if bool(self.drop_epochs) != (self.name == "step"):
            raise ValueError("schedule.drop_epochs must be given for 'step', and for no other schedule")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationRecipe:
    """A teacher whose probabilities are learned beside the labels (Hinton et al., 2015, arXiv 1503.02531).

    Attributes:
        teacher: a network as in `keras_resnets.list_models`; empty for none.
        weights: of the teacher: a tag, or a `.keras` file.
        temperature: by which both sets of logits are divided.
        weight: of the teacher's part of the loss, which has the factor temperature squared besides.
    """

    teacher: str = ""
    weights: str = ""
    temperature: Annotated[float, Between(0.01)] = 20.0
    weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        if bool(self.teacher) != bool(self.weights):
            raise ValueError("distillation.teacher and distillation.weights must both be given, or neither")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: of the recipe; also of its default run folder.
        description: one line, printed before training.
        epochs: passes over the training images.
        batch_size: images per optimizer step, over all replicas; the last, smaller batch of an epoch is left out.
        accumulate: parts that a replica's share of the batch is computed in, one after the other, to save memory.
        precision: in which convolutions are computed; weights and statistics are float32 in any.
        loss: "softmax" cross-entropy, or "sigmoid" (the mean over the classes of their binary cross-entropies: "ResNet
            strikes back").
        aux_weight: of the loss of auxiliary logits, which is added to that of the others; above 0 for networks that have
            them (`model.options.aux_logits` of Inception-v3), and for no other.
        label_smoothing: share of the target probability that is spread over all classes.
        ema: weight of the old values in an average over the steps of all weights, statistics of normalisation among them, which
            is then what is tested and saved; 0 for none.
        test_every: epochs between tests.
        seed: of initialisation, order, augmentation and dropout: the same recipe gives the same weights.
    """

    name: str
    description: str = ""
    model: ModelRecipe
    data: DataRecipe
    augment: AugmentRecipe = AugmentRecipe()
    optimizer: OptimizerRecipe
    schedule: ScheduleRecipe = ScheduleRecipe()
    distillation: DistillationRecipe = DistillationRecipe()
    epochs: Positive
    batch_size: Positive
    accumulate: Positive = 1
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    aux_weight: NotNegative = 0.0
    label_smoothing: Annotated[float, Between(0, 0.99)] = 0.0
    ema: Annotated[float, Between(0, 0.999999)] = 0.0
    test_every: Positive = 1
    seed: Annotated[int, Between(0, 2**31 - 1)] = 0

    def to_yaml(self) -> str:
        """The recipe with every default written out, as `load_recipe` reads it."""
        content = json.loads(json.dumps(dataclasses.asdict(self)))  # tuples as lists
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """YAML with two surprises removed: a key given twice is an error, and 1e-4 is a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from error


def load_recipe(source: str | os.PathLike, overrides: Iterable[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        source: path of a YAML file, or the name of one in `training/recipes`.
        overrides: "key=value" each, dots between levels: "optimizer.lr=0.2".

    Raises:
        ValueError: there is no such recipe, or a key or value of it or of an override is wrong; the message names the key
            and the nearest valid one.
    """
    path = _find(source)
    content = _parse(path.read_text("utf-8"), f"recipe {os.fspath(source)!r}")
    try:
        for override in overrides:
            _apply(override, content)
        return convert(content, Recipe)
    except ValueError as error:
        raise ValueError(f"recipe {os.fspath(source)!r}: {error}") from error


def _find(source: str | os.PathLike) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    bundled = {recipe.stem: recipe for recipe in RECIPES.glob("*.yaml")}
    if os.fspath(source) not in bundled:
        raise ValueError(f"no recipe {os.fspath(source)!r}, neither a file nor a name: {nearest(path.stem, bundled)}")
    return bundled[os.fspath(source)]


def _apply(override: str, content: Any) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"override {override!r} must be key=value, such as optimizer.lr=0.2")
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {}) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise ValueError(f"override {override!r}: {'.'.join(sections)!r} is not a section")
    content[last] = _parse(text, f"the value of override {override!r}")


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Every value of `recipe` by its dotted key."""
    return dict(_leaves(dataclasses.asdict(recipe)))


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
