"""The recorded study: what 8-bit integers cost in every family."""

import json
from pathlib import Path

import pytest

import keras_resnets as kr

pytest.importorskip("tensorflow", reason="the programs in tflite/ need TensorFlow")

from tflite import families
from tflite.families import Outcome
from tflite.family_networks import NETWORKS, folder_name

ROOT = Path(__file__).parents[2]
# Files that are larger than aimed at: of normalisations that cannot be folded, and of thousands of operators.
LARGER = {"DenseNet": 0.31, "DenseNet-CIFAR": 0.31, "DCDC": 0.32}


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Of the run that the page shows."""
    return [Outcome.of(row) for row in json.loads((ROOT / "tflite" / "families.json").read_text("utf-8"))]


def test_every_family_is_there(outcomes: list[Outcome]) -> None:
    known = {kr.model_info(name).family for name in kr.list_models()}
    assert {row.family for row in outcomes} == set(NETWORKS) == known
    for family, small in NETWORKS.items():
        assert kr.model_info(small.network).family == family


def test_recorded_figures(outcomes: list[Outcome]) -> None:
    for row in outcomes:
        assert row.images == 899  # half of 1,797
        assert row.float32 >= 0.965, row.family
        assert row.drop <= 0.5, row.family
        assert row.ratio <= LARGER.get(row.family, 0.27), row.family


def test_page_is_that_of_the_recorded_figures(outcomes: list[Outcome]) -> None:
    assert (ROOT / "docs" / "int8.md").read_text("utf-8") == families.page(outcomes)


def test_what_misses_the_aim_is_said() -> None:
    row = Outcome("ResNet", "resnet18", 32, 10, 200, 1.0, 0.99, 0.99, 1000, 250, "converter", (("stem", 0.5),))
    assert not row.reached
    assert "Not reached: ResNet (drop 1.00, ratio 0.250; most is lost in stem)" in families.page([row])


def test_recipes_are_whole() -> None:
    for family, small in NETWORKS.items():
        recipe = small.recipe(family)
        assert (recipe.name, recipe.model.name, recipe.data.image_size) == (
            folder_name(family),
            small.network,
            small.size,
        )
