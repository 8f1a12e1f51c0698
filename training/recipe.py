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
        options: further keywords of `keras_resnets.create_model`.
    """

    name: str
    preprocessing: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Where images come from.

    Attributes:
        source: "digits", the 1,797 handwritten digits inside scikit-learn.
        test_fraction: share of every class that is held out for testing.
        split_seed: draws the held-out images.
        image_size: side of the square images in pixels, as which the 8x8 scans are shown.
    """

    source: Literal["digits"]
    test_fraction: Annotated[float, Between(0.01, 0.99)] = 0.2
    split_seed: Annotated[int, Between(0)] = 0
    image_size: Annotated[int, Between(8)] = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """One random affine map per image and epoch; every number is the largest amount, drawn uniformly in both directions.

    Attributes:
        shift: in pixels, along height and width.
        rotation: in degrees.
        zoom: as a fraction of the size, along height and width independently.
        shear: in degrees, of the vertical axis.
    """

    shift: NotNegative = 0.0
    rotation: Annotated[float, Between(0, 180)] = 0.0
    zoom: Annotated[float, Between(0, 0.9)] = 0.0
    shear: Annotated[float, Between(0, 80)] = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """Stochastic gradient descent with momentum or LAMB, see `training.optimizers`.

    Attributes:
        lr: learning rate at the end of the warm-up.
        lr_batch: batch size that `lr` is meant for; other batch sizes scale it in proportion (Goyal et al., 2017, arXiv
            1706.02677). 0 leaves it as it is.
        momentum, nesterov: of "sgd".
        l2: coupled weight decay of convolution and dense kernels, of "sgd".
        weight_decay: of convolution and dense kernels, within the update, of "lamb".
    """

    name: Literal["sgd", "lamb"] = "sgd"
    lr: NotNegative
    lr_batch: Annotated[int, Between(0)] = 0
    momentum: Fraction = 0.9
    nesterov: bool = True
    l2: NotNegative = 0.0
    weight_decay: NotNegative = 0.0

    def __post_init__(self) -> None:
        for key, owner in (("l2", "sgd"), ("weight_decay", "lamb")):
            if getattr(self, key) and self.name != owner:
                raise ValueError(f"optimizer.{key} is for {owner!r}, the optimizer is {self.name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """The learning rate over the steps, see `training.schedules`.

    Attributes:
        name: "cosine" down to zero, or "step".
        warmup_epochs: of linear rise.
        drop_epochs: where "step" multiplies the rate by `factor`.
    """

    name: Literal["cosine", "step"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    drop_epochs: tuple[NotNegative, ...] = ()
    factor: Annotated[float, Between(0, 1)] = 0.1

    def __post_init__(self) -> None:
        if bool(self.drop_epochs) != (self.name == "step"):
            raise ValueError("schedule.drop_epochs must be given for 'step', and for no other schedule")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: of the recipe; also of its default run folder.
        description: one line, printed before training.
        epochs: passes over the training images.
        batch_size: images per step; the last, smaller batch of an epoch is left out.
        aux_weight: of the loss of auxiliary logits, which is added to that of the others; above 0 for networks that have
            them (`model.options.aux_logits` of Inception-v3), and for no other.
        label_smoothing: share of the target probability that is spread over all classes.
        seed: of initialisation, order and augmentation: the same recipe gives the same weights.
    """

    name: str
    description: str = ""
    model: ModelRecipe
    data: DataRecipe
    augment: AugmentRecipe = AugmentRecipe()
    optimizer: OptimizerRecipe
    schedule: ScheduleRecipe = ScheduleRecipe()
    epochs: Positive
    batch_size: Positive
    aux_weight: NotNegative = 0.0
    label_smoothing: Annotated[float, Between(0, 0.99)] = 0.0
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
