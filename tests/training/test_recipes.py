"""The bundled recipes: every one can be carried out, and is what docs/recipes.md says."""

import ast
import dataclasses
import itertools
import pathlib
import re
import shlex
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import keras_resnets as kr
from keras_resnets.costs import without_values
from keras_resnets.preprocessing import expected_input
from training.optimizers import make_optimizer
from training.recipe import RECIPES, Recipe, flatten, load_recipe
from training.schedules import make_schedule
from training.start import start_from

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
BY_MODEL = [
    (name, network)
    for name in NAMES
    for network in yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8")).get("by_model", {})
]


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section of the page, without its head."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("name", NAMES)
def test_can_be_carried_out(name: str, tmp_path: pathlib.Path) -> None:
    """Its network with its options and image size, schedule and optimizer; the resolved recipe is a recipe."""
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description
    size = recipe.data.image_size
    with without_values():
        network = kr.create_model(recipe.model.name, input_shape=(size, size, 3), **recipe.model.options)
    assert isinstance(network.output, dict) == bool(recipe.aux_weight)
    schedule = make_schedule(recipe, 50)
    assert 0 < float(schedule(25 * recipe.epochs)) < 1.0001 * schedule.peak
    assert make_optimizer(recipe, schedule).name.lower() == recipe.optimizer.name
    copy = tmp_path / "resolved.yaml"
    copy.write_text(recipe.to_yaml(), "utf-8")
    assert flatten(load_recipe(copy)) == flatten(recipe)


@pytest.mark.parametrize(("name", "network"), [*((name, None) for name in NAMES), *BY_MODEL])
def test_preprocessing_and_weights_are_published(name: str, network: str | None) -> None:
    recipe = load_recipe(name, [f"model.name={network}"] if network else [])
    entry = expected_input(recipe.model.name, recipe.model.preprocessing or None)
    teacher, weights = recipe.distillation.teacher, recipe.distillation.weights
    for owner, tag in ((recipe.model.name, recipe.model.weights), (teacher, weights)):
        assert not tag or tag in kr.model_info(owner).weights
    if recipe.model.weights:
        assert recipe.model.preprocessing == recipe.model.weights
    if not name.startswith(("bag_of_tricks_baseline", "digits", "inception")):
        assert entry.mean == (0.485, 0.456, 0.406), "the sources normalise by ImageNet's statistics"


def test_fixres_trains_what_it_says() -> None:
    recipe = load_recipe("fixres_finetune")
    with without_values():
        network = kr.create_model(recipe.model.name)
        without_weights = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, weights=""))
        start_from(network, without_weights)
    assert [variable.path for variable in network.trainable_variables] == ["predictions/kernel", "predictions/bias"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("resnest", {"model.name": "resnest50d", "data.image_size": 224, "data.test_size": 0, "batch_size": 8192}),
        ("resnest", {"model.name": "resnest101e", "data.image_size": 224, "data.test_size": 256, "batch_size": 4096}),
        ("resnest", {"model.name": "resnest200e", "data.image_size": 256, "data.test_size": 320, "batch_size": 2048}),
        ("resnest", {"model.name": "resnest269e", "data.image_size": 320, "data.test_size": 416, "batch_size": 2048}),
        ("densenet_imagenet", {"model.name": "densenet161", "batch_size": 128, "epochs": 100}),
        ("cifar_resnet", {"model.name": "resnet110_cifar", "schedule.warmup_epochs": 1.0, "schedule.warmup_from": 0.1}),
        ("fixres_finetune", {"model.name": "resnext101_32x48d", "data.image_size": 320, "model.weights": "wsl"}),
    ],
)
def test_values_by_network(name: str, values: dict[str, Any]) -> None:
    resolved = flatten(load_recipe(name, [f"model.name={values['model.name']}"]))
    assert {key: resolved[key] for key in values} == values


def test_page_lists_every_recipe() -> None:
    listed = rows("Published recipes") + rows("Small recipes on the digits")
    assert sorted(row[0].strip("`") for row in listed) == NAMES
    for name, network, source, *_ in listed:
        recipe = load_recipe(name.strip("`"))
        assert (recipe.model.name, recipe.data.source) == (network.strip("`"), source.strip("`")), name


def test_ladder_of_tricks() -> None:
    """The overrides of the page, one after the other, lead from the baseline to the whole bag; each changes something."""
    overrides: list[str] = []
    ladder = []
    for _, cell, _ in rows("The bag of tricks, one override each"):
        overrides += [word for word in shlex.split(cell.strip("`")) if word != "--set"]
        ladder.append(flatten(load_recipe("bag_of_tricks_baseline", overrides)))
    assert all(before != after for before, after in itertools.pairwise(ladder))
    complete = flatten(load_recipe("bag_of_tricks"))
    differ = {key for key, value in complete.items() if ladder[-2][key] != value}
    assert differ == {"name", "description"}
    distilled = flatten(load_recipe("bag_of_tricks", overrides[-1:]))
    assert {key for key, value in distilled.items() if ladder[-1][key] != value} == {"name", "description"}


def keys(section: Any = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of recipes and its default; `dataclasses.MISSING` for a key that must be given."""
    hints = typing.get_type_hints(section, include_extras=True)
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            made = field.default_factory
            yield prefix + field.name, field.default if made is dataclasses.MISSING else made()


def test_page_lists_every_key_and_default() -> None:
    expected = dict(keys())
    listed = {key.strip("`"): default.strip("`") for key, default, _ in rows("All keys")}
    assert sorted(listed) == sorted(expected)
    for key, default in expected.items():
        if default is dataclasses.MISSING:
            assert listed[key] == "", key
            continue
        shown = ast.literal_eval(re.sub(r"\bfalse\b", "False", re.sub(r"\btrue\b", "True", listed[key])))
        assert shown == pytest.approx(list(default), rel=1e-3) if isinstance(default, tuple) else shown == default, key
