"""How fast training images are augmented, and what of it costs how much: 224x224 pixels, two images at a time.

python -m benchmarks.run augmentation
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.harness import Plan, Summary, describe, environment
from benchmarks.options import add_options, chosen_plan, measured_lately
from benchmarks.plot import ranges
from benchmarks.table import Target, number, spread, write_page
from training.augment import augment_image, erase
from training.recipe import AugmentRecipe

JITTER = AugmentRecipe(brightness=0.4, contrast=0.4, saturation=0.4)
CASES = {
    "flip": AugmentRecipe(flip=True),
    "affine map": AugmentRecipe(shift=10, rotation=10),
    "brightness, contrast, saturation": JITTER,
    "hue": AugmentRecipe(hue=0.1),
    "lighting": AugmentRecipe(lighting=0.1),
    "RandAugment, 2 operations": AugmentRecipe(policy="randaugment", policy_noise=0.5),
    "AutoAugment": AugmentRecipe(policy="autoaugment"),
    "random erasing, every image": AugmentRecipe(erasing=1.0),
    "flip, jitter, lighting (bag_of_tricks)": dataclasses.replace(JITTER, flip=True, lighting=0.1),
    "RandAugment, flip (rsb)": AugmentRecipe(policy="randaugment", policy_noise=0.5, flip=True),
    "AutoAugment, flip, jitter, lighting (resnest)": dataclasses.replace(
        JITTER, policy="autoaugment", flip=True, lighting=0.1
    ),
}
WANTED = ("RandAugment, 2 operations", 1000)
CORES = 2


def photograph() -> tf.Tensor:
    """224x224 pixels of scikit-learn's temple."""
    from sklearn.datasets import load_sample_images

    return tf.constant(load_sample_images().images[0][100:324, 100:324])


def pipeline(recipe: AugmentRecipe, images: int) -> tf.data.Dataset:
    """So many augmented images, each with a seed of its own."""
    photo = photograph()

    def example(number: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([0, tf.cast(number, tf.int32)])
        return erase(augment_image(photo, recipe, seed), recipe, seed)

    options = tf.data.Options()
    options.threading.private_threadpool_size = CORES
    options.threading.max_intra_op_parallelism = 1
    return tf.data.Dataset.range(images).map(example, num_parallel_calls=CORES).with_options(options)


def measure(dataset: tf.data.Dataset, images: int) -> tuple[float, float]:
    """Images per second, and milliseconds of processor time per image, after the first image."""
    iterator = iter(dataset)
    next(iterator)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in iterator:
        pass
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return (images - 1) / wall, 1000 * processor / (images - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run augmentation", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="images per round (default %(default)s)")
    add_options(parser, Plan(rounds=5))
    options = parser.parse_args(arguments)
    plan = chosen_plan(options)
    if options.images < 2:
        parser.error(f"--images must be at least 2, not {options.images}")
    if measured_lately("augmentation", options):
        return
    from rich.progress import track

    datasets = {name: pipeline(recipe, options.images) for name, recipe in CASES.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in track(range(plan.rounds), "measuring"):
        for name, dataset in datasets.items():
            found[name].append(measure(dataset, options.images))
    table = [["", "images per second", "processor time per image, ms", "that is on two free cores"]]
    costs: dict[str, Summary] = {}
    for name, rounds in found.items():
        rates, costs[name] = (Summary.of(values) for values in zip(*rounds, strict=True))
        table.append([name, spread(rates), spread(costs[name]), number(1000 * CORES / costs[name].low)])
    name, rate = WANTED
    target = Target(f"{name}: images per second of two free cores", 1000 * CORES / costs[name].low, at_least=rate)
    here = environment(dataclasses.replace(plan, threads=CORES))
    how = (
        f"{options.images} images of 224x224 pixels, float32 at the end, {CORES} at a time; median (smallest–largest) of "
        f"{plan.rounds} rounds. Other programs on the machine slow the second column, and the third much less: the last "
        f"is its smallest number turned into a rate. {describe(here)}; tensorflow {tf.__version__}."
    )
    record = {"environment": here, "rounds": found}
    draw = ranges(costs, "processor time per image of 224x224 pixels, ms", "Augmentation")
    write_page("augmentation", "Augmentation", table, how, record, [target], draw=draw)
