"""Recipes: what is accepted, and what the messages about the rest say."""

import pathlib

import pytest

from training.recipe import load_recipe

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


@pytest.mark.parametrize("content", ["", "[1, 2]", "text"])
def test_not_a_mapping(recipe_file: pathlib.Path, content: str) -> None:
    recipe_file.write_text(content)
    with pytest.raises(ValueError, match="the recipe must be a mapping of keys to values"):
        load_recipe(recipe_file, ["epochs=3"])


def test_not_yaml(recipe_file: pathlib.Path) -> None:
    recipe_file.write_text("name: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(recipe_file)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'digits_resnet20'"):
        load_recipe("digits_resnet2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["accumulate=3"], "batch_size 8 must be a multiple of accumulate 3"),
        (["batch_size=7", "augment.mixup=0.2"], "batch_size 7 must be even: mixup and cutmix take images in pairs"),
        (["test_every=4"], "test_every 4 is more than the 3 epochs"),
        (["augment.mixup_off_epoch=4"], "augment.mixup_off_epoch 4 is more than the 3 epochs"),
        (["schedule.warmup_epochs=3"], "schedule.warmup_epochs 3 must be less than the 3 epochs"),
        (["target_threshold=0.2"], "target_threshold is for the loss 'sigmoid', the loss is 'softmax'"),
        (["schedule.name=step"], "schedule.drop_epochs must be given for 'step'"),
        (["schedule.drop_epochs=[1]"], "schedule.drop_epochs must be given for 'step', and for no other"),
        (
            ["schedule={name: step, drop_epochs: [2, 1]}"],
            r"drop_epochs must ascend and come after the .* not \[2.0, 1.0\]",
        ),
        (["schedule={name: step, drop_epochs: [1], warmup_epochs: 2}"], "after the warm-up of 2 epochs"),
        (["schedule={name: constant, final: 0.1}"], "schedule.final is for 'cosine', the schedule is 'constant'"),
        (["schedule={name: exponential, factor: 0}"], "schedule.factor must be above 0"),
        (["schedule={warmup_epochs: 1, warmup: constant}"], "schedule.warmup_from must be above 0"),
        (["optimizer={name: lamb, lr: 0.1, l2: 0.1}"], "optimizer.l2 is for sgd and rmsprop, the optimizer is 'lamb'"),
        (["optimizer.weight_decay=0.1"], "optimizer.weight_decay is for lamb, the optimizer is 'sgd'"),
        (["optimizer.momentum=1"], "optimizer.momentum must be below 1"),
        (["optimizer={name: rmsprop, lr: 0.1, epsilon: 0}"], "optimizer.epsilon must be above 0"),
        (["distillation.teacher=resnet20_cifar"], "distillation.teacher and distillation.weights must both be given"),
        (["augment.area=[0.5]"], r"augment.area must be \[smallest, largest\]"),
        (["augment.short_side=[300, 200]"], r"augment.short_side must be .* not \[300, 200\]"),
        (["data.source='folder:'"], "unknown source 'folder:'"),
        (["data.source=digits:5"], "unknown source 'digits:5'"),
        (["data.source=tdfs:mnist"], "unknown source 'tdfs:mnist': did you mean 'tfds'"),
    ],
)
def test_values_that_do_not_go_together(recipe_file: pathlib.Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, overrides)


def test_preprocessing_follows_the_weights(recipe_file: pathlib.Path) -> None:
    """A tag says what images it expects, a file does not; what is given stays."""
    changed = {
        "model={name: resnet50, weights: tv_in1k}": "tv_in1k",
        "model={name: resnet50, weights: tv_in1k, preprocessing: a1_in1k}": "a1_in1k",
        "model={name: resnet50, weights: saved.keras}": "",
        "model={name: resnet50, weights: folder/saved.pth}": "",
    }
    for override, tag in changed.items():
        assert load_recipe(recipe_file, [override]).model.preprocessing == tag


BY_MODEL = """
by_model:
  resnet56_cifar:
    optimizer: {lr: 0.5}
    model: {options: {zero_gamma: true}}
    batch_size: 16
  resnet20_cifar:
    epochs: 5
"""


def test_keys_by_network(recipe_file: pathlib.Path) -> None:
    """The file's own network, another by an override, one without keys of its own; other overrides come last."""
    recipe_file.write_text(MINIMAL + BY_MODEL)
    assert load_recipe(recipe_file).epochs == 5
    other = load_recipe(recipe_file, ["batch_size=32", "model.name=resnet56_cifar", "model.preprocessing="])
    assert (other.model.name, other.epochs, other.optimizer.lr, other.batch_size) == ("resnet56_cifar", 3, 0.5, 32)
    assert other.model.options == {"zero_gamma": True} and other.optimizer.momentum == 0.9
    third = load_recipe(recipe_file, ["model.name=resnet32_cifar"])
    assert (third.model.name, third.epochs, third.optimizer.lr, third.batch_size) == ("resnet32_cifar", 3, 0.01, 8)
    assert "by_model" not in other.to_yaml()
    section = load_recipe(recipe_file, ["model={name: resnet56_cifar, options: {bn_momentum: 0.8}}"])
    assert (section.batch_size, section.model.options) == (16, {"bn_momentum": 0.8})
    with pytest.raises(ValueError, match=r"model.name must be text, not \['resnet56_cifar'\]"):
        load_recipe(recipe_file, ["model.name=[resnet56_cifar]"])


@pytest.mark.parametrize(
    ("by_model", "message"),
    [
        ("{resnet57_cifar: {epochs: 2}}", "by_model: unknown network 'resnet57_cifar': did you mean"),
        ("{resnet56_cifar: {epoch: 2}}", "by_model.resnet56_cifar: unknown key 'epoch': did you mean 'epochs'"),
        ("{resnet56_cifar: {optimizer: {lr: fast}}}", "by_model.resnet56_cifar: optimizer.lr must be a number"),
        ("{resnet56_cifar: {accumulate: 3}}", "by_model.resnet56_cifar: batch_size 8 must be a multiple"),
        ("{resnet56_cifar: 5}", "by_model.resnet56_cifar: the recipe must be a mapping of keys to values, not 5"),
        ("[resnet56_cifar]", r"by_model must be a mapping of networks to keys and values, not \['resnet56_cifar'\]"),
    ],
)
def test_wrong_keys_by_network(recipe_file: pathlib.Path, by_model: str, message: str) -> None:
    """They are found whichever network is trained."""
    recipe_file.write_text(f"{MINIMAL}by_model: {by_model}\n")
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file)


def test_by_model_is_for_files_alone(recipe_file: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="unknown key 'by_model'"):
        load_recipe(recipe_file, ["by_model={}"])
