"""Shows what a recipe does to training images: `python -m training.augment_sheet resnest --out sheet.png`.

A row per image: the image itself, then a column per training step. A recipe that mixes, mixes the first row with the second, the
third with the fourth, and says how much of each is in a picture.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_resnets.preprocessing import Preprocess
from training.augment import erase
from training.data import Data, LabelledImages, open_data
from training.images import decode
from training.mixing import mix
from training.parts import Split
from training.recipe import DataRecipe, Recipe, load_recipe
from training.run_folder import replacing
from training.transforms import training_image

PHOTOGRAPHS = "photographs"


def photographs() -> Data:
    """The two that come with scikit-learn: a temple and a flower."""
    from sklearn.datasets import load_sample_images

    part = Split(np.stack(load_sample_images().images), np.arange(2))
    return LabelledImages(part, part, ("temple", "flower"), PHOTOGRAPHS)


def opened(source: str, recipe: DataRecipe) -> Data:
    """The photographs, or what `source` names; in the form that `recipe` wants.

    Raises:
        ValueError: it cannot be read.
    """
    return photographs() if source == PHOTOGRAPHS else open_data(dataclasses.replace(recipe, source=source))


def contents(data: Data, count: int) -> list[tf.Tensor]:
    """Of `count` training images, from all over the source: files or pixels.

    Raises:
        ValueError: there are fewer.
    """
    if not 0 < count <= data.train_count:
        raise ValueError(f"--rows must be from 1 to the number of images, {data.train_count}, not {count}")
    chosen = [number * data.train_count // count for number in range(count)]
    return [data.train.load(next(iter(data.train.in_order(number, number + 1))))[0] for number in chosen]


def shown_images(images: Sequence[tf.Tensor], recipe: Recipe, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What the network is shown in each of some steps, as pixels 0..255 again, and the share of each image's own class.

    Returns:
        uint8 `(steps, images, size, size, 3)`, and `(steps,)`.

    Raises:
        ValueError: `steps` is less than 1; or the recipe mixes, and the number of images is odd.
    """
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, not {steps}")
    preprocess = Preprocess.of(recipe.model.name, recipe.model.preprocessing or None)
    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    pixels, shares = [], []
    for step in range(steps):
        batch = []
        for number, content in enumerate(images):
            seed = tf.constant([recipe.seed, step * len(images) + number])
            image = training_image(content, recipe.data, recipe.augment, tf.constant(255 * mean), seed)
            batch.append(erase(preprocess(image), recipe.augment, seed))
        mixed, labels = mix(
            tf.stack(batch), tf.eye(len(images)), recipe.augment, tf.constant([recipe.seed, step]), tf.constant(0)
        )
        pixels.append(np.clip(255 * (mixed.numpy() * std + mean), 0, 255).astype(np.uint8))
        shares.append(labels.numpy()[0, 0])
    return np.stack(pixels), np.array(shares)


def sheet(images: Sequence[np.ndarray], shown: np.ndarray, shares: np.ndarray, title: str) -> Figure:
    """Images, and beside each what is shown of it in every step."""
    columns = 1 + len(shown)
    figure = Figure(figsize=(1.25 * columns, 1.35 * len(images) + 0.5), layout="constrained")
    for row, cells in enumerate(figure.subplots(len(images), columns, squeeze=False)):
        for axes, picture in zip(cells, [images[row], *shown[:, row]], strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
        for axes, share in zip(cells[1:], shares, strict=True):
            if share < 1:
                axes.set_title(f"{share:.0%} + {1 - share:.0%}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.augment_sheet",
                                     description="Show what a recipe does to training images.")  # fmt: skip
    parser.add_argument("recipe", help="a YAML file, or the name of one in training/recipes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="change a value of the recipe, such as augment.mixup=0 (may be repeated)")  # fmt: skip
    parser.add_argument("--data", default=PHOTOGRAPHS, metavar="SOURCE",
                        help="where images come from, as data.source (default: two photographs)")  # fmt: skip
    parser.add_argument("--rows", type=int, default=2, help="images; an even number if they are mixed (default: 2)")
    parser.add_argument("--steps", type=int, default=6, help="training steps to show (default: 6)")
    parser.add_argument("--out", type=Path, default=Path("augmentation.png"), help="PNG or JPEG file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, or 1 for wrong input."""
    options = parse_arguments(arguments)
    try:
        recipe = load_recipe(options.recipe, options.overrides)
        images = contents(opened(options.data, recipe.data), options.rows)
        shown, shares = shown_images(images, recipe, options.steps)
        wholes = [decode(content).numpy() if content.dtype == tf.string else content.numpy() for content in images]
        figure = sheet(
            wholes, shown, shares, f"{recipe.name}: an image, and what the network is shown of it in training"
        )
        with replacing(options.out) as temporary:
            figure.savefig(temporary, dpi=100)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Wrote {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
