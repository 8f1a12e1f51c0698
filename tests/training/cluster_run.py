"""A run of 20 steps somewhere in a cluster: `cluster_run.py FOLDER STRATEGY DEVICES [WORKERS WORKER [KILL_AFTER_STEP]]`.

Prints the loss of every step as JSON. Exits as `training.train` does: with 75 if another worker is gone.
"""

import dataclasses
import json
import pathlib
import sys

import keras
import tensorflow as tf
import tiny_run
from rich.console import Console

from training.data import LabelledImages, Split, load_data
from training.loop import Run
from training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, Recipe, ScheduleRecipe
from training.run_folder import RunFolder
from training.strategy import Place, WorkerLost, open_strategy, together
from training.train import AGAIN

RECIPE: Recipe = dataclasses.replace(
    tiny_run.RECIPE,
    # In double precision: in single precision rounding, which differs between any two ways to add up, grows over 20 steps.
    precision="float64",
    model=ModelRecipe(name="resnet20_cifar", options={"depth": 1, "bn_synchronized": True, "drop_path_rate": 0.1}),
    data=DataRecipe(source="digits", image_size=16),
    optimizer=OptimizerRecipe(lr=0.005, l2=1e-4, clip_norm=1.0),
    schedule=ScheduleRecipe(),
    epochs=2,
    batch_size=16,
    ema=0.9,
)


def data() -> LabelledImages:
    """160 digits to train on, ten batches, and 20 to test on."""
    whole = load_data(RECIPE.data)
    train, test = (
        Split(part.images[:count], part.labels[:count]) for part, count in ((whole.train, 160), (whole.test, 20))
    )
    return LabelledImages(train, test, whole.class_names)


def train(place: Place, folder: pathlib.Path, kill_after: int, losses: list[float]) -> None:
    """Runs, and notes the loss of every step."""
    keras.config.set_floatx("float64")
    end, sums = tiny_run.kill_after(kill_after), [0.0, 0.0]
    run = Run(RECIPE, RunFolder(folder), data(), Console(quiet=True), place)
    total, count = run.trainer.train_metrics[0].variables

    def after_step(done: int) -> None:
        now = [float(tf.identity(variable.value)) for variable in (total, count)]
        before = sums if now[1] > sums[1] else [0.0, 0.0]  # an epoch begins with new sums
        losses.append((now[0] - before[0]) / (now[1] - before[1]))
        sums[:] = now
        end(done)

    run.after_step = after_step
    run.train()


def main(folder: str, kind: str, devices: str, workers: str = "", worker: str = "", kill_after: str = "-1") -> int:
    """Runs, and prints what the losses were."""
    place = open_strategy(kind, workers, int(worker) if worker else None, int(devices))
    losses: list[float] = []
    try:
        with together(place):
            train(place, pathlib.Path(folder), int(kill_after), losses)
    except WorkerLost as error:
        print(error, file=sys.stderr)
        return AGAIN
    print(json.dumps({"losses": losses, "replicas": place.strategy.num_replicas_in_sync, "chief": place.chief}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
