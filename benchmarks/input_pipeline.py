"""The input pipeline of `training`, decoding alone, and a PyTorch DataLoader, on the same JPEG files.

python -m benchmarks.run input_pipeline

A call takes the next images, as many for every contender, out of a pipeline that goes on and on, as in training; on two cores, and
PyTorch with two workers.
"""

import argparse
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.harness import Comparison, Contender, Plan, can_import, compare
from benchmarks.options import add_options, chosen_plan, measured_lately, peers_missing
from benchmarks.table import Target, write

HERE = "benchmarks.input_pipeline"
FILES, IMAGES, BATCH, SIZE = 128, 2048, 32, 224
READY = 4  # batches made ahead, at most, while others have their turn; so many PyTorch's loader with two workers makes
WIDTH, HEIGHT, QUALITY = 500, 375, 95  # the usual size of ImageNet's photos, in pixels and about so in bytes
TORCHVISION = "benchmarks.torchvision_cpu"  # the module that imports it
CALL = f"{IMAGES} images"
RAW = "decoding the crop alone"
CROPPED = "crop, flip, normalise"
COLOURED = "the same with colour jitter and lighting"
POLICY = "the same with RandAugment, erasing, mixup"
PYTORCH, PYTORCH_COLOURED = "PyTorch: crop, flip, normalise", "PyTorch: the same with colour jitter"
TITLE = f"Input pipeline: {WIDTH}x{HEIGHT} JPEG files to {SIZE}x{SIZE}, batch {BATCH}, CPU"


def make_files(folder: pathlib.Path) -> None:
    """Photos of scikit-learn, each file another part of one, turned."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    (folder / "photos").mkdir()
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(FILES):
        photo = photos[number % 2].rotate(number, Image.Resampling.BICUBIC)
        box = (number % 64, number % 32, number % 64 + WIDTH, number % 32 + HEIGHT)
        photo.crop(box).save(folder / "photos" / f"{number:03}.jpg", quality=QUALITY)


def raw_measures(folder: str) -> dict[str, Callable[[], Any]]:
    """Files read, and windows that were drawn beforehand decoded."""
    import tensorflow as tf

    from training.crop_windows import random_area
    from training.pipeline import threads

    paths = tf.constant(sorted(map(str, pathlib.Path(folder).rglob("*.jpg"))))
    draw = tf.function(lambda number: random_area(HEIGHT, WIDTH, (0.08, 1.0), (3 / 4, 4 / 3), tf.stack([0, number])))
    windows = tf.stack([draw(tf.constant(number)) for number in range(IMAGES)])

    def decoded(number: Any) -> Any:
        content = tf.io.read_file(paths[number % FILES])
        return tf.shape(tf.image.decode_and_crop_jpeg(content, windows[number], channels=3))

    dataset = tf.data.Dataset.range(IMAGES, output_type=tf.int32)
    dataset = dataset.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(BATCH)
    return {CALL: next_images(dataset.repeat().prefetch(READY).with_options(threads()))}


def our_measures(folder: str, augment: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """`training.pipeline` with a recipe; the numbers are those of one training process with one replica."""
    import tensorflow as tf

    from keras_resnets.preprocessing import Preprocess
    from training.data import Data
    from training.folders import scan
    from training.parts import Files
    from training.pipeline import training_batches
    from training.recipe import AugmentRecipe, DataRecipe, ModelRecipe, OptimizerRecipe, Recipe

    names, files, labels = scan(pathlib.Path(folder))
    part = Files(files, labels)
    recipe = Recipe(
        name="benchmark",
        model=ModelRecipe(name="resnet50"),
        data=DataRecipe(source=f"folder:{folder}", image_size=SIZE),
        augment=AugmentRecipe(crop="random_area", flip=True, **augment),
        optimizer=OptimizerRecipe(lr=0.1),
        epochs=IMAGES // FILES,
        batch_size=BATCH,
    )
    dataset = training_batches(Data(part, part, names, "benchmark"), recipe, Preprocess.of("resnet50"))
    options = tf.data.Options()
    options.autotune.ram_budget = READY * BATCH * SIZE * SIZE * 3 * 4  # bytes
    return {CALL: next_images(dataset.repeat().with_options(options))}


def next_images(batches: Iterable[Any]) -> Callable[[], Any]:
    """Takes the next `IMAGES` out of endless batches, the first of which are made now."""
    iterator = iter(batches)
    next(iterator)
    return lambda: sum(1 for _ in itertools.islice(iterator, IMAGES // BATCH))


def torch_measures(folder: str, coloured: bool, workers: int) -> dict[str, Callable[[], Any]]:
    """torchvision's transforms on Pillow's images, in a DataLoader whose workers stay between calls."""
    import torch

    import benchmarks.torchvision_cpu  # noqa: F401  before torchvision, see there

    # isort: split
    from torchvision import datasets, transforms

    torch.set_num_threads(1)  # images are made in the workers; this process collects them
    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    steps += [transforms.ColorJitter(0.4, 0.4, 0.4)] if coloured else []
    steps += [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    source = datasets.ImageFolder(folder, transforms.Compose(steps))
    source = torch.utils.data.ConcatDataset([source] * (IMAGES // FILES))
    loader = torch.utils.data.DataLoader(source, BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
    return {CALL: next_images(itertools.chain.from_iterable(itertools.repeat(loader)))}


def contenders(folder: str, peers_python: str, workers: int) -> list[Contender]:
    """The rows of the table; those of PyTorch only where it is."""
    colour = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "lighting": 0.1}
    policy = {"policy": "randaugment", "erasing": 0.25, "mixup": 0.2}
    rows = [Contender(RAW, f"{HERE}:raw_measures", {"folder": folder})]
    for name, augment in ((CROPPED, {}), (COLOURED, colour), (POLICY, policy)):
        rows.append(Contender(name, f"{HERE}:our_measures", {"folder": folder, "augment": augment}))
    if not can_import(peers_python, TORCHVISION):
        return rows
    for name, coloured in ((PYTORCH, False), (PYTORCH_COLOURED, True)):
        arguments = {"folder": folder, "coloured": coloured, "workers": workers}
        rows.append(Contender(name, f"{HERE}:torch_measures", arguments, peers_python))
    return rows


def rates(comparison: Comparison) -> list[str]:
    """Images per second."""
    medians = {name: comparison.time(name, CALL).median for name in comparison.times}
    return [f"{name}: {IMAGES / ms * 1000:,.0f} images/s by the median call" for name, ms in medians.items()]


def targets(comparison: Comparison) -> list[Target]:
    """What was aimed at."""
    share = 1 / comparison.ratio(CROPPED, RAW, CALL).median
    found = [Target(f"rate of “{CROPPED}” ÷ {RAW}", share, at_least=0.8)]
    for ours, theirs in ((CROPPED, PYTORCH), (COLOURED, PYTORCH_COLOURED)):
        if theirs in comparison.times:
            faster = comparison.ratio(theirs, ours, CALL).median
            found.append(Target(f"rate of “{ours}” ÷ {theirs}", faster, at_least=1))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run input_pipeline", description=__doc__.splitlines()[0]
    )
    add_options(parser, Plan(rounds=7, seconds=0.0, warm_up_seconds=0.0))
    options = parser.parse_args(arguments)
    if measured_lately("input_pipeline", options):
        return
    plan = chosen_plan(options)
    with tempfile.TemporaryDirectory() as folder:
        make_files(pathlib.Path(folder))
        comparison = compare(contenders(folder, options.peers_python, plan.threads), plan)
    remarks = [*rates(comparison), *peers_missing(options.peers_python, TORCHVISION)]
    write("input_pipeline", TITLE, comparison, RAW, targets(comparison), remarks)
