"""Recipes: what is accepted, and what the messages about the rest say."""

import pathlib

import pytest

from training.recipe import RECIPES, flatten, load_recipe

MINIMAL = """
name: tiny
model: {name: resnet20_cifar, preprocessing: digits}
data: {source: digits}
optimizer: {lr: 1e-2}
epochs: 3
batch_size: 8
"""


@pytest.fixture
def recipe_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL)
    return path


def test_values_and_defaults(recipe_file: pathlib.Path) -> None:
    recipe = load_recipe(recipe_file)
    assert (recipe.name, recipe.epochs, recipe.batch_size) == ("tiny", 3, 8)
    assert recipe.optimizer.lr == 0.01, "YAML 1.1 reads 1e-2 as text"
    assert (recipe.optimizer.momentum, recipe.optimizer.nesterov, recipe.augment.shift) == (0.9, True, 0.0)


def test_overrides(recipe_file: pathlib.Path) -> None:
    recipe = load_recipe(recipe_file, ["optimizer.lr=0.2", "epochs=7", "augment.shift=2", "optimizer.nesterov=false"])
    assert (recipe.optimizer.lr, recipe.epochs, recipe.augment.shift, recipe.optimizer.nesterov) == (0.2, 7, 2.0, False)
    assert isinstance(recipe.augment.shift, float)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optimizer.learning_rat=0.2", ["unknown key 'optimizer.learning_rat'"]),
        ("optimizer.momentun=0.8", ["unknown key 'optimizer.momentun'", "'momentum'"]),
        ("epoch=3", ["unknown key 'epoch'", "'epochs'"]),
        ("optimizer.lr=fast", ["optimizer.lr must be a number", "'fast'"]),
        ("optimizer.lr=true", ["optimizer.lr must be a number", "True"]),
        ("optimizer.lr=-1", ["optimizer.lr must be at least 0", "-1"]),
        ("optimizer.lr=.nan", ["optimizer.lr must be a finite number", "nan"]),
        ("optimizer.lr=.inf", ["optimizer.lr must be a finite number", "inf"]),
        ("epochs=2.5", ["epochs must be a whole number", "2.5"]),
        ("epochs=0", ["epochs must be at least 1", "0"]),
        ("optimizer.nesterov=1", ["optimizer.nesterov must be true or false", "1"]),
        ("optimizer.momentum=1.5", ["optimizer.momentum must be between 0 and 1", "1.5"]),
        ("data.source=digit", ["data.source", "'digit'", "'digits'"]),
        ("data=digits", ["data must be a mapping", "'digits'"]),
        ("name.first=x", ["'name' is not a section"]),
        ("epochs", ["'epochs' must be key=value"]),
        ("epochs=[1", ["'epochs=[1'", "not valid YAML"]),
    ],
)
def test_wrong_override(recipe_file: pathlib.Path, override: str, parts: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        load_recipe(recipe_file, [override])
    for part in parts:
        assert part in str(error.value)


def test_missing_key(recipe_file: pathlib.Path) -> None:
    recipe_file.write_text(MINIMAL.replace("{lr: 1e-2}", "{momentum: 0.8}"))
    with pytest.raises(ValueError, match=r"key 'optimizer\.lr' is missing"):
        load_recipe(recipe_file)


def test_key_given_twice(recipe_file: pathlib.Path) -> None:
    recipe_file.write_text(MINIMAL + "epochs: 4\n")
    with pytest.raises(ValueError, match="'epochs' is given twice"):
        load_recipe(recipe_file)


def test_not_yaml(recipe_file: pathlib.Path) -> None:
    recipe_file.write_text("name: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(recipe_file)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'digits_resnet20'"):
        load_recipe("digits_resnet2")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_bundled_recipes(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe.description
    copy = tmp_path / "resolved.yaml"
    copy.write_text(recipe.to_yaml(), "utf-8")
    assert flatten(load_recipe(copy)) == flatten(recipe)
