"""Studies that train variants of a network, each with several seeds, and say what came out. `training.studies.*` use it.

Every run is a run folder of its own; those that are finished are kept when a study is started again, an interrupted one continues.
"""

import argparse
import dataclasses
import gc
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from keras_resnets.costs import Sizes, measured
from training import plots
from training.data import Data, open_data
from training.interruption import Interrupted
from training.networks import build_network
from training.recipe import Recipe, load_recipe
from training.run_folder import RunFolder, read_log
from training.studies import outcomes
from training.studies.outcomes import Outcome
from training.train import INTERRUPTED, train

BASE = Path(__file__).parent / "few_digits.yaml"


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        label: for tables and pictures; words and figures.
        overrides: of the recipe; "{runs}" in them is the study's folder, "{seed}" the seed.
    """

    label: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its name without anything that a file system may not like."""
        return re.sub(r"[^a-z0-9]+", "_", self.label.lower()).strip("_")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is asked, of which variants, and how the answer is read off the figures.

    Attributes:
        name: of the module and of the default folder.
        title: one line.
        question: a few lines, with what published work found; for people.
        variants: in the order of the table.
        overrides: of the recipe `few_digits` for all variants.
        seeds: runs of each variant; the seed draws the images as well, so that variants are compared pairwise.
        figure: the picture.
        findings: sentences, made of the figures alone.
        helpers: how many of the first variants are only there to be used by others, and are in no table.
    """

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...]
    overrides: tuple[str, ...]
    seeds: int
    figure: Callable[[Sequence[Outcome]], Figure]
    findings: Callable[[Sequence[Outcome]], list[str]]
    helpers: int = 0

    def recipe(self, variant: Variant, seed: int, folder: Path, overrides: Sequence[str] = ()) -> Recipe:
        """Of one run; the user's overrides come last."""
        own = [override.replace("{runs}", str(folder)).replace("{seed}", str(seed)) for override in variant.overrides]
        names = [f"name={self.name}", f"description='{self.title}: {variant.label}'"]
        seeds = [f"seed={seed}", f"data.split_seed={seed}"]
        return load_recipe(BASE, [*names, *self.overrides, *own, *overrides, *seeds])


def run(study: Study, folder: Path, overrides: Sequence[str], seeds: int, console: Console) -> list[Outcome]:
    """Trains what is not trained yet; returns the table.

    Raises:
        ValueError: an override is wrong, or does not fit what is in `folder`.
        FloatingPointError: a loss is no longer a number.
        Interrupted: by a signal.
    """
    recipes = {(variant, seed): study.recipe(variant, seed, folder, overrides)
               for seed in range(seeds) for variant in study.variants}  # fmt: skip
    logs = {}
    for number, ((variant, seed), recipe) in enumerate(recipes.items(), start=1):
        start, place = time.perf_counter(), RunFolder(folder / f"{variant.folder}_seed{seed}")
        kept = place.final.exists()
        log = logs[variant, seed] = _log(recipe, place, console)
        told = "kept from before" if kept else f"{time.perf_counter() - start:.0f} s"
        console.print(f"run {number} of {len(recipes)}  {variant.label}, seed {seed}: test error "
                      f"{1 - log[-1]['test_accuracy']:.1%} ({told})", highlight=False, soft_wrap=True)  # fmt: skip
    table = []
    for variant in study.variants[study.helpers :]:
        size = sizes(recipes[variant, 0], open_data(recipes[variant, 0].data))
        own = tuple(tuple(logs[variant, seed]) for seed in range(seeds))
        table.append(Outcome(variant.label, size.params, size.gmacs * 1000, own))
    return table


def _log(recipe: Recipe, place: RunFolder, console: Console) -> list[dict[str, float]]:
    """The log of a run: the one in `place`, if it is finished, or trained now."""
    if place.final.exists():
        place.open(recipe)
    else:
        with console.status(f"{recipe.description}, seed {recipe.seed}"):
            train(recipe, place, open_data(recipe.data), Console(quiet=True))
        keras.backend.clear_session()  # networks are not needed any more, and there will be many
        gc.collect()
    return read_log(place.log)


def sizes(recipe: Recipe, data: Data) -> Sizes:
    """Parameters and multiply-accumulates of a recipe's network."""
    return measured(lambda: build_network(recipe, data))


def screen_table(study: Study, table: Sequence[Outcome]) -> Table:
    """The table for people."""
    header, *rows = outcomes.cells(table)
    screen = Table(title=study.title, caption=outcomes.small_scale(table))
    for place, column in enumerate(header):
        screen.add_column(column, justify="right" if place else "left")
    for row in rows:
        screen.add_row(*row)
    return screen


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """The program of a study; returns its exit code: 0, 1 for wrong input, 128 plus the number of a signal that ended it."""
    parser = argparse.ArgumentParser(
        prog=f"python -m training.studies.{study.name}", description=f"{study.title}. {study.question}"
    )
    folder = Path("runs") / f"study_{study.name}"
    parser.add_argument("--run-dir", type=Path, default=folder, help=f"folder for the results (default: {folder})")
    parser.add_argument("--seeds", type=int, default=study.seeds, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="change a value of every recipe")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {options.seeds}")
    console, start = Console(), time.perf_counter()
    console.print(f"{study.title}. {study.question}", highlight=False)
    try:
        table = run(study, options.run_dir, options.overrides, options.seeds, console)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt) as error:
        console.print("\nInterrupted. The same command continues where it was.")
        return 128 + error.number if isinstance(error, Interrupted) else INTERRUPTED
    said = study.findings(table)
    outcomes.write(options.run_dir, study.title, study.question, table, said)
    plots.save(study.figure(table), options.run_dir / f"{study.name}.png")
    console.print(screen_table(study, table))
    for sentence in said:
        console.print(f"• {sentence}", highlight=False)
    seconds = time.perf_counter() - start
    console.print(f"Done in {seconds:.0f} s. Picture and tables are in {options.run_dir}.", highlight=False)
    return 0
