"""Recipes: what to train, on what, how. One YAML file each, checked key by key against dataclasses."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

import keras_resnets as kr
from keras_resnets.assembly import nearest
from training.schema import Between, convert
from training.sections import (
    AugmentRecipe,
    DataRecipe,
    DistillationRecipe,
    Fraction,
    ModelRecipe,
    NotNegative,
    OptimizerRecipe,
    Positive,
    ScheduleRecipe,
)

RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: of the recipe; also of its default run folder.
        description: one line, printed before training.
        epochs: passes over the training images.
        batch_size: images per optimizer step, over all replicas; the last, smaller batch of an epoch is left out.
        accumulate: parts that a replica's share of the batch is computed in, one after the other, to save memory.
        precision: in which convolutions are computed; weights and statistics are float32 in any but "float64", which is for
            comparisons.
        loss: "softmax" cross-entropy, or "sigmoid" (the mean over the classes of their binary cross-entropies: "ResNet
            strikes back").
        aux_weight: of the loss of auxiliary logits, which is added to that of the others; above 0 for networks that have
            them (`model.options.aux_logits` of Inception-v3), and for no other.
        label_smoothing: share of the target probability that is spread over all classes.
        target_threshold: of "sigmoid": targets above it become 1 and the others 0, so that each of two mixed classes is
            wholly there; 0 leaves them as mixed.
        ema: weight of the old values in an average over the steps of all weights, statistics of normalisation among them, which
            is then what is tested and saved; 0 for none.
        test_every: epochs between tests.
        seed: of initialisation, order, augmentation and dropout: the same recipe gives the same weights.
    """

    name: str
    description: str = ""
    model: ModelRecipe
    data: DataRecipe
    augment: AugmentRecipe = dataclasses.field(default_factory=AugmentRecipe)
    optimizer: OptimizerRecipe
    schedule: ScheduleRecipe = dataclasses.field(default_factory=ScheduleRecipe)
    distillation: DistillationRecipe = dataclasses.field(default_factory=DistillationRecipe)
    epochs: Positive
    batch_size: Positive
    accumulate: Positive = 1
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16", "float64"] = "float32"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    aux_weight: NotNegative = 0.0
    label_smoothing: Annotated[float, Between(0, 0.99)] = 0.0
    target_threshold: Fraction = 0.0
    ema: Annotated[float, Between(0, 0.999999)] = 0.0
    test_every: Positive = 1
    seed: Annotated[int, Between(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        if (self.augment.mixup or self.augment.cutmix) and self.batch_size % 2:
            raise ValueError(f"batch_size {self.batch_size} must be even: mixup and cutmix take images in pairs")
        for key, epochs in (("test_every", self.test_every), ("augment.mixup_off_epoch", self.augment.mixup_off_epoch)):
            if epochs > self.epochs:
                raise ValueError(f"{key} {epochs} is more than the {self.epochs} epochs")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} must be less than the {self.epochs} epochs"
            )
        if self.target_threshold and self.loss != "sigmoid":
            raise ValueError(f"target_threshold is for the loss 'sigmoid', the loss is {self.loss!r}")

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

    A file may hold, beside the keys of `Recipe`, a mapping `by_model` from names of networks to keys that are different for
    these: those of `model.name`, as the file or an override says it, are put into the recipe before the other overrides.

    Args:
        source: path of a YAML file, or the name of one in `training/recipes`.
        overrides: "key=value" each, dots between levels: "optimizer.lr=0.2"; the value is YAML, nothing is empty text.

    Raises:
        ValueError: there is no such recipe, or a key or value of it or of an override is wrong; the message names the key
            and the nearest valid one.
    """
    content = _parse(_find(source).read_text("utf-8"), f"recipe {os.fspath(source)!r}")
    try:
        given = dict(_key_and_value(override) for override in overrides)
        if isinstance(content, dict):  # else it is an error as it is
            content = _for_model(content, _model_name(given) or _model_name(content))
            for key, value in given.items():
                _put(content, key, value)
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


def _key_and_value(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"override {override!r} must be key=value, such as optimizer.lr=0.2")
    return key, _parse(text, f"the value of override {override!r}") if text.strip() else ""


def _model_name(content: dict[str, Any]) -> str | None:
    """What `content` says about `model.name`."""
    section = content.get("model")
    name = content.get("model.name", section.get("name") if isinstance(section, dict) else None)
    return name if isinstance(name, str) else None


def _for_model(content: dict[str, Any], name: str | None) -> Any:
    """`content` without `by_model`, and with what this says about the network called `name`."""
    if "by_model" not in content:
        return content
    common = {key: value for key, value in content.items() if key != "by_model"}
    by_model, known = content["by_model"], kr.list_models()
    if not isinstance(by_model, dict):
        raise ValueError(f"by_model must be a mapping of networks to keys and values, not {by_model!r}")
    merged = {}
    for network, different in by_model.items():
        if network not in known:
            raise ValueError(f"by_model: unknown network {network!r}: {nearest(network, known)}")
        merged[network] = _merged(common, {"model": {"name": network}})
        try:
            merged[network] = _merged(merged[network], different)
            convert(merged[network], Recipe)  # what is wrong is found whichever network is trained
        except ValueError as error:
            raise ValueError(f"by_model.{network}: {error}") from error
    return merged.get(name, common)


def _merged(content: Any, different: Any) -> Any:
    """`content` with the values of `different`, level by level."""
    if not isinstance(content, dict) or not isinstance(different, dict):
        return different
    return {**content, **{key: _merged(content.get(key), value) for key, value in different.items()}}


def _put(content: Any, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {}) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise ValueError(f"override {key!r}: {'.'.join(sections)!r} is not a section")
    content[last] = value


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Every value of `recipe` by its dotted key."""
    return dict(_leaves(dataclasses.asdict(recipe)))


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
