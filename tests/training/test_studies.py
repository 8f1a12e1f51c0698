"""Studies: every variant can be trained, runs are kept, and sentences say what the figures say and no more."""

import csv
import importlib
import itertools
import json
import pathlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from matplotlib import image
from rich.console import Console

from training.data import Data, open_data
from training.recipe import Recipe, load_recipe
from training.run_folder import RunFolder, read_log, write_log
from training.studies import figures, outcomes, variants
from training.studies.outcomes import Outcome
from training.studies.variants import Study, Variant

NAMES = ("degradation", "shortcuts", "preactivation", "cardinality_vs_width", "radix_vs_cardinality", "tricks")


def module(name: str) -> ModuleType:
    return importlib.import_module(f"training.studies.{name}")


def outcome(
    label: str, test: Sequence[float], train: Sequence[float] = (), mmacs: float = 1.0, parameters: int = 1000
) -> Outcome:
    """A variant whose runs of two epochs ended with these errors in percent."""
    first = {"epoch": 1.0, "train_accuracy": 0.1, "test_accuracy": float("nan"), "seconds": 1.5}
    logs = tuple((first, {**first, "epoch": 2.0, "train_accuracy": 1 - learned / 100, "test_accuracy": 1 - error / 100})
                 for error, learned in zip(test, train or test, strict=True))  # fmt: skip
    return Outcome(label, parameters, mmacs, logs)


def made_up(study: Study, seeds: int = 3) -> list[Outcome]:
    rng = np.random.default_rng(1)
    return [outcome(variant.label, tuple(rng.uniform(2, 9, seeds)), tuple(rng.uniform(2, 9, seeds)))
            for variant in study.variants[study.helpers :]]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_has_a_recipe_of_its_own(name: str) -> None:
    study = module(name).STUDY
    assert study.name == name
    recipes = [study.recipe(variant, 3, pathlib.Path("here")) for variant in study.variants]
    assert all((recipe.seed, recipe.data.split_seed, recipe.name) == (3, 3, name) for recipe in recipes)
    assert len({repr((recipe.model, recipe.optimizer, recipe.schedule, recipe.augment, recipe.distillation, recipe.batch_size,
                      recipe.label_smoothing)) for recipe in recipes}) == len(recipes)  # fmt: skip
    assert len({variant.folder for variant in study.variants}) == len(recipes)
    assert all(recipe.test_every == recipe.epochs for recipe in recipes)


@pytest.mark.parametrize(
    ("name", "apart"), [("shortcuts", 1.08), ("preactivation", 1.01), ("cardinality_vs_width", 1.06)]
)
def test_compared_networks_cost_the_same(name: str, apart: float) -> None:
    study = module(name).STUDY
    costs: dict[str, list[float]] = {}
    for variant in study.variants:
        recipe = study.recipe(variant, 0, pathlib.Path())
        size = variants.sizes(recipe, open_data(recipe.data))
        costs.setdefault(variant.label.split(", ")[1] if name == "preactivation" else "", []).append(size.gmacs)
    assert all(max(group) <= apart * min(group) for group in costs.values())


@pytest.mark.parametrize("name", NAMES)
def test_findings_and_picture(name: str, tmp_path: pathlib.Path) -> None:
    study = module(name).STUDY
    table = made_up(study)
    assert all(sentence.endswith(".") for sentence in study.findings(table))
    study.figure(table).savefig(tmp_path / "picture.png", dpi=50)
    assert image.imread(tmp_path / "picture.png").std() > 0.05


def test_degradation_is_said_only_where_it_is() -> None:
    findings = module("degradation").findings
    shallow = [outcome(f"{kind}, 20 layers", (5.0, 6.0, 4.0), (3.0, 4.0, 5.0)) for kind in ("plain", "residual")]
    worse = [
        *shallow,
        outcome("plain, 56 layers", (50, 60, 70), (53, 64, 75)),
        outcome("residual, 56 layers", (4, 6, 5), (2, 4, 6)),
    ]
    plain, residual = findings(worse)
    assert plain == (
        "plain: training error 4.0 ± 1.0 % with 20 layers, 64.0 ± 11.0 % with 56, 60.0 points more (95 % interval +35.2 to "
        "+84.8, 3 pairs of runs): the deeper network is worse. Test error 5.0 ± 1.0 % and 60.0 ± 10.0 %."
    )
    assert "0.0 points" in residual and "within the noise" in residual and residual.count("no clear difference") == 1
    better = [
        *shallow,
        outcome("plain, 56 layers", (1, 1, 1), (1, 2, 3)),
        outcome("residual, 56 layers", (4, 6, 5), (2, 4, 6)),
    ]
    assert "2.0 points less" in findings(better)[0] and "the deeper network is better" in findings(better)[0]


def test_difference() -> None:
    """Pairs differ by 1, 2 and 3: mean 2, standard error 1/√3, and 4.303 is the 97.5 % quantile of t with two degrees."""
    found = outcomes.difference(np.array([5.0, 7.0, 9.0]), np.array([4.0, 5.0, 6.0]))
    assert found.mean == 2 and found.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert not found.clear and "2.0 points more, which is within the noise" in str(found)
    assert outcomes.difference(np.array([1.0, 1.1, 0.9]), np.array([4.0, 4.1, 4.0])).clear
    single = outcomes.difference(np.array([5.0]), np.array([4.0]))
    assert not single.clear and str(single) == "1.0 points more (one run each: no measure of chance)"


def test_comparison() -> None:
    """Two variants, the first one worse by 1.0 and 1.2: 12.7 is the 97.5 % quantile of t with one degree of freedom."""
    said = outcomes.compared(outcome("wide", (4.0, 5.2)), outcome("narrow", (3.0, 4.0)))
    assert said == ("wide: test error 4.6 ± 0.8 %, 1.1 points more than narrow with 3.5 ± 0.7 %, which is within the noise (95 % "
                    "interval -0.2 to +2.4, 2 pairs of runs).")  # fmt: skip
    assert outcomes.compared(outcome("b", (1.0,)), outcome("a", (3.0,))) == (
        "b: test error 1.0 %, 2.0 points less than a with 3.0 % (one run each: no measure of chance)."
    )


def test_ranking() -> None:
    said = outcomes.ranking([outcome("a", (3, 3.4)), outcome("b", (1, 1.4)), outcome("c", (9, 9.4))])
    assert said.startswith("Lowest test error: b, 1.2 ± 0.3 %; highest: c, 9.2 ± 0.3 %, 8.0 points more")


TINY = Study(
    name="tiny",
    title="A tiny study",
    question="Does it run?",
    variants=(Variant("teacher"), Variant("plain one", ("model.name=plain20_cifar",)), Variant("taught", (
        "distillation={teacher: resnet20_cifar, weights: '{runs}/teacher_seed{seed}/final.keras'}",))),
    overrides=("model.options={depth: 1, widths: [4, 4, 8]}", "data.test_fraction=0.9", "epochs=2", "test_every=2",
               "schedule.warmup_epochs=0"),
    seeds=1,
    figure=lambda table: figures.bars(table, "Tiny"),
    findings=lambda table: [outcomes.compared(table[1], table[0])],
    helpers=1,
)  # fmt: skip


def quick_train(recipe: Recipe, folder: RunFolder, data: Data, console: Console) -> None:
    """Leaves what training leaves, in no time."""
    folder.open(recipe)
    row = {"epoch": 1.0, "train_accuracy": 0.5, "test_accuracy": float("nan"), "seconds": 1.0}
    write_log(folder.log, [row, {**row, "epoch": 2.0, "test_accuracy": 0.9 - 0.01 * recipe.seed}])
    folder.final.write_text("trained once")


def test_program(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Trains, writes everything; a second start trains nothing again, and only the second seed when two are asked for."""
    monkeypatch.setattr(variants, "train", quick_train)
    assert variants.main(TINY, ["--run-dir", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "run 3 of 3" in said and "kept from before" not in said and "Small scale" in said
    assert {path.name for path in tmp_path.iterdir()} == {"teacher_seed0", "plain_one_seed0", "taught_seed0", "table.csv",
                                                          "results.json", "study.md", "tiny.png"}  # fmt: skip
    RunFolder(tmp_path / "taught_seed0").final.write_text("not to be trained again")
    assert variants.main(TINY, ["--run-dir", str(tmp_path), "--seeds", "2"]) == 0
    again = " ".join(capsys.readouterr().out.split())
    assert again.count("kept from before") == 3 and "run 6 of 6" in again
    assert RunFolder(tmp_path / "taught_seed0").final.read_text() == "not to be trained again"

    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    runs = [(row["variant"], row["seed"]) for row in table]
    assert runs == list(itertools.product(("plain one", "taught"), "01"))
    results = json.loads((tmp_path / "results.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert [run["test_error"] for run in results["runs"]] == [float(row["test_error"]) for row in table]
    assert all(len(run["log"]) == 2 for run in results["runs"])
    page = (tmp_path / "study.md").read_text("utf-8")
    assert results["findings"][0] in page and "| plain one |" in page and "Small scale" in page
    assert results["findings"][0] in again

    assert variants.main(TINY, ["--run-dir", str(tmp_path), "--set", "epochs=1", "--set", "test_every=1"]) == 1
    assert "holds a run of another recipe: epochs (2 there, 1 now)" in capsys.readouterr().err


@pytest.mark.slow
def test_real_training(tmp_path: pathlib.Path) -> None:
    """The pupil finds its teacher, and every run leaves its network and its figures."""
    assert variants.main(TINY, ["--run-dir", str(tmp_path)]) == 0
    for name in ("teacher", "plain_one", "taught"):
        folder = RunFolder(tmp_path / f"{name}_seed0")
        assert folder.final.exists()
        assert [row["epoch"] for row in read_log(folder.log)] == [1, 2]
    weights = load_recipe(RunFolder(tmp_path / "taught_seed0").recipe).distillation.weights
    assert weights == str(tmp_path / "teacher_seed0" / "final.keras")


def test_wrong_input(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert variants.main(TINY, ["--run-dir", str(tmp_path / "new"), "--set", "epoch=3"]) == 1
    assert "did you mean 'epochs'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        variants.main(TINY, ["--seeds", "0"])
    assert not (tmp_path / "new").exists()


def test_interrupted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(variants, "train", interrupt)
    assert variants.main(TINY, ["--run-dir", str(tmp_path)]) == 130
    assert "The same command continues" in capsys.readouterr().out


def test_console_without_terminal(tmp_path: pathlib.Path) -> None:
    """The table for the screen has what the file has."""
    console = Console(width=200, record=True)
    console.print(variants.screen_table(TINY, [outcome("a", (3, 4)), outcome("b", (1, 2))]))
    text = console.export_text()
    assert "3.5 ± 0.7" in text and "1,000" in text
