"""A training run of seconds."""

import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

from rich.console import Console

from training.data import LabelledImages, Split, load_data
from training.recipe import AugmentRecipe, DataRecipe, ModelRecipe, OptimizerRecipe, Recipe, ScheduleRecipe
from training.run_folder import RunFolder
from training.train import train

RECIPE = Recipe(
    name="tiny",
    model=ModelRecipe(name="resnet20_cifar", preprocessing="digits"),
    data=DataRecipe(source="digits", image_size=16),
    augment=AugmentRecipe(shift=2, rotation=10),
    optimizer=OptimizerRecipe(lr=0.05, l2=1e-4),
    schedule=ScheduleRecipe(warmup_epochs=1),
    epochs=3,
    batch_size=16,
    label_smoothing=0.1,
)


def data() -> LabelledImages:
    """52 digits to train on, which is three batches and a remainder, and 20 to test on, at half size."""
    whole = load_data(RECIPE.data)
    train, test = (
        Split(part.images[:count], part.labels[:count]) for part, count in ((whole.train, 52), (whole.test, 20))
    )
    return LabelledImages(train, test, whole.class_names)


def run(folder: pathlib.Path, recipe: Recipe = RECIPE, after_step: Callable[[int], Any] = lambda step: None,
        minutes: float = 10.0) -> RunFolder:  # fmt: skip
    train(recipe, RunFolder(folder), data(), Console(quiet=True), minutes=minutes, after_step=after_step)
    return RunFolder(folder)


def kill_after(step: int) -> Callable[[int], None]:
    """The process ends at once after `step` steps."""
    return lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == step else None
