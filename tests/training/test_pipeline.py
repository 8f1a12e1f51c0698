"""Batches: what they hold, and that this follows from the seed and the step alone."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import tensorflow as tf

from keras_resnets.preprocessing import load_image
from keras_resnets.registry import find
from training.data import Data, LabelledImages, open_data
from training.parts import Split
from training.pipeline import Share, steps_per_epoch, test_batches, training_batches
from training.recipe import AugmentRecipe, DataRecipe, ModelRecipe, OptimizerRecipe, Recipe

test_batches.__test__ = False  # type: ignore[attr-defined]  # it is not one

STILL = Recipe(
    name="still",
    model=ModelRecipe(name="resnet20_cifar"),
    data=DataRecipe(source="digits", image_size=8),
    optimizer=OptimizerRecipe(lr=0.1),
    epochs=3,
    batch_size=12,
    seed=5,
)
EVERYTHING = AugmentRecipe(
    crop="pad", pad=2, flip=True, rotation=20, brightness=0.3, erasing=0.5, mixup=0.3, cutmix=1.0
)
ALONE = Share()
Batches = list[tuple[np.ndarray, ...]]


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """With other values; those of `data` by name."""
    data = {key: changes.pop(key) for key in ("repeats", "image_size", "test_size", "test_crop") if key in changes}
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data), **changes)


def numbered(count: int, held_out: int = 5) -> LabelledImages:
    """Images that show their own number, which says their class as well."""

    def part(count: int) -> Split:
        numbers = np.arange(count, dtype=np.uint8)
        return Split(np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)), numbers % 3)

    return LabelledImages(part(count), part(held_out), ("a", "b", "c"))


def halved(images: tf.Tensor) -> tf.Tensor:
    return images / 2


def batches(data: Data, recipe: Recipe, share: Share = ALONE, first_step: int = 0) -> Batches:
    dataset = training_batches(data, recipe, halved, share, first_step)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def shown(images: np.ndarray) -> np.ndarray:
    """The numbers of images whose pixels are halved."""
    return np.rint(2 * images[:, 0, 0, 0]).astype(int)


def check_equal(ours: Batches, theirs: Batches) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


def test_every_image_once_an_epoch_with_its_label() -> None:
    found = batches(numbered(29), STILL)
    assert len(found) == 3 * 2 and steps_per_epoch(numbered(29), STILL) == 2
    orders = []
    for epoch in range(3):
        images, labels = (np.concatenate(column) for column in zip(*found[2 * epoch : 2 * epoch + 2], strict=True))
        assert images.shape == (24, 8, 8, 3) and images.dtype == np.float32 and labels.shape == (24, 3)
        np.testing.assert_array_equal(labels, np.eye(3)[shown(images) % 3])
        orders.append(shown(images).tolist())
        assert len(set(orders[-1])) == 24
    assert orders[0] != orders[1] != orders[2] and set(orders[0]) != set(orders[1])
    assert shown(batches(numbered(29), changed(STILL, seed=6))[0][0]).tolist() != orders[0][:12]


def test_the_middle_of_a_run_is_that_of_the_whole() -> None:
    recipe = changed(STILL, augment=EVERYTHING, repeats=2)
    whole = batches(numbered(40), recipe)
    for first_step in (1, 6, 8):
        check_equal(whole[first_step:], batches(numbered(40), recipe, first_step=first_step))


@pytest.mark.parametrize("replicas, workers, repeats", [(2, 1, 1), (3, 3, 3), (6, 2, 5)])
def test_shares_make_the_same_batches(replicas: int, workers: int, repeats: int) -> None:
    augment = AugmentRecipe(crop="pad", pad=2, flip=True, shift=2, erasing=0.5, mixup=0.5)
    recipe = changed(STILL, augment=augment, repeats=repeats, epochs=2)
    alone = batches(numbered(40), recipe, first_step=2)
    local, size = replicas // workers, 12 // replicas
    parts = [batches(numbered(40), recipe, Share(replicas, worker, workers), first_step=2) for worker in range(workers)]
    assert {images.shape[0] for part in parts for images, _ in part} == {size}
    together = [
        tuple(np.concatenate([part[step * local + replica][column] for part in parts for replica in range(local)])
              for column in (0, 1))
        for step in range(len(alone))
    ]  # fmt: skip
    check_equal(together, alone)


def test_repeats() -> None:
    """Four images three times in a batch of twelve, never beside themselves, each time augmented differently."""
    found = batches(numbered(40), changed(STILL, repeats=3))
    assert len(found) == 9
    for images, _ in found:
        numbers = shown(images)
        assert len(set(numbers)) == 4 and numbers.tolist() == np.tile(numbers[:4], 3).tolist()
    assert len({number for images, _ in found[:3] for number in shown(images)}) == 12
    scans = open_data(STILL.data)
    (moved, _), *_ = batches(scans, changed(STILL, repeats=3, augment=AugmentRecipe(shift=2, rotation=30)))
    assert not np.allclose(moved[:4], moved[4:8]) and not np.allclose(moved[4:8], moved[8:])
    (images, _), *_ = batches(numbered(40), changed(STILL, repeats=5))  # 12 = 5 + 5 + 2
    assert np.bincount(np.unique(shown(images), return_counts=True)[1]).tolist() == [0, 0, 0, 0, 3]


def test_more_or_fewer_threads_change_nothing() -> None:
    recipe = changed(STILL, augment=EVERYTHING, epochs=1)
    dataset = training_batches(numbered(40), recipe, halved)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    check_equal([tuple(value.numpy() for value in batch) for batch in dataset.with_options(options)],
                batches(numbered(40), recipe))  # fmt: skip


def test_mixing_is_the_last() -> None:
    found = batches(numbered(40), changed(STILL, augment=AugmentRecipe(mixup=1.0)))
    images, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert ((labels > 0.01) & (labels < 0.99)).any()
    assert (2 * images[:, 0, 0, 0] % 1 > 0.01).any()  # no number of a single image


def test_margin_of_the_mean() -> None:
    """The mean of a preprocessing is what it takes to zero."""
    recipe = changed(STILL, augment=AugmentRecipe(crop="pad", pad=8, pad_value="mean"))
    dataset = training_batches(numbered(40), recipe, lambda images: (images - tf.constant([10.0, 90.0, 200.0])) / 64)
    values = {round(float(value), 3) for images, _ in dataset for value in images.numpy()[..., 1].ravel()}
    assert 0.0 in values and values <= {round((number - 90) / 64, 3) for number in [*range(40), 90]}


@pytest.mark.parametrize("replicas, workers", [(1, 1), (4, 2), (3, 3)])
def test_every_test_image_once(replicas: int, workers: int) -> None:
    data, numbers = numbered(12, held_out=29), []
    counts = set()
    for worker in range(workers):
        found = [tuple(value.numpy() for value in batch)
                 for batch in test_batches(data, STILL, halved, Share(replicas, worker, workers))]  # fmt: skip
        counts.add(len(found))
        for images, labels, weights in found:
            assert images.shape == (12 // replicas, 8, 8, 3) and set(weights) <= {0, 1}
            np.testing.assert_array_equal(labels, np.eye(3)[shown(images) % 3] * weights[:, None])
            numbers += shown(images)[weights == 1].tolist()
    assert sorted(numbers) == list(range(29)) and len(counts) == 1 and counts.pop() % (replicas // workers) == 0


def test_test_images_are_those_of_evaluation(tmp_path: Path) -> None:
    """Resized and cut as `load_image` does it for the weights' entry."""
    photos.make_folder(tmp_path, ["photo"], photos.DECODABLE)
    recipe = changed(STILL, image_size=16, test_size=24, test_crop=0.8)
    recipe = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, source=f"folder:{tmp_path}", interpolation="bicubic")
    )
    data = open_data(recipe.data)
    entry = dataclasses.replace(find("resnet50").weights["tv_in1k"], input_size=24, crop=0.8, interpolation="bicubic")
    found = [(image, weight) for images, _, weights in test_batches(data, recipe, halved)
             for image, weight in zip(images.numpy(), weights.numpy(), strict=True)]  # fmt: skip
    assert len(found) == 12 and sum(weight for _, weight in found) == data.test_count
    for (image, _), path in zip(found, data.test.paths, strict=False):  # type: ignore[attr-defined]
        assert np.abs(2 * image - load_image(path, entry)).max() <= 1


def folder_data(path: Path, damaged: tuple[int, ...]) -> Data:
    """Thirty numbered images, of which some cannot be decoded; and two to test on."""
    files = photos.numbered_photos(30)
    for number in damaged:
        files[f"{number}.png"] = b""
    photos.make_folder(path / "train", ["a"], files)
    photos.make_folder(path / "val", ["a"], photos.numbered_photos(1) | {"bad.png": b""})
    return open_data(DataRecipe(source=f"folder:{path}"))


def test_unreadable_images_are_replaced_by_the_next(tmp_path: Path) -> None:
    recipe = changed(STILL, batch_size=10, epochs=2)
    whole = folder_data(tmp_path / "whole", ())
    data = folder_data(tmp_path / "damaged", (3, 4, 17))
    before = np.concatenate([shown(images) for images, _ in batches(whole, recipe)]).tolist()
    after = np.concatenate([shown(images) for images, _ in batches(data, recipe)]).tolist()
    for epoch in (slice(0, 30), slice(30, 60)):
        order, expected = before[epoch], []
        for place in range(30):
            expected.append(next(number for number in [*order[place:], *order[:place]] if number not in (3, 4, 17)))
        assert after[epoch] == expected and sorted(order) == list(range(30))
    names = [str(tmp_path / "damaged" / "train" / "a" / f"{number}.png") for number in (17, 3, 4)]
    assert data.problems() == [(name, "the file is empty") for name in names] and whole.problems() == []
    (_, labels, weights), *_ = test_batches(data, recipe, halved)
    assert weights.numpy().tolist() == [1.0] + [0.0] * 9 and labels.numpy()[:, 0].tolist() == weights.numpy().tolist()
    assert data.problems()[-1][0].endswith("val/a/bad.png")
    alone = batches(data, recipe, Share(2, 1, 2), first_step=1)
    check_equal(alone, [(images[5:], labels[5:]) for images, labels in batches(data, recipe)[1:]])


def test_nothing_readable_is_black_and_no_class(tmp_path: Path) -> None:
    data = folder_data(tmp_path, tuple(range(30)))
    for images, labels in batches(data, changed(STILL, epochs=1)):
        assert not images.any() and not labels.any()
    assert len(data.problems()) == 30


def check_every_kind(path: Path, augment: AugmentRecipe) -> None:
    """Files of every kind become images that are not black; what is damaged is noted, and nothing else."""
    files = photos.DECODABLE | {name: content for name, (content, _) in photos.DAMAGED.items()}
    photos.make_folder(path / "train", ["a"], files)
    photos.make_folder(path / "val", ["a"], photos.numbered_photos(1))
    recipe = changed(STILL, augment=augment, image_size=16, test_crop=0.8, batch_size=len(files), epochs=1)
    data = open_data(dataclasses.replace(recipe.data, source=f"folder:{path}"))
    ((images, labels),) = batches(data, recipe)
    assert images.shape == (len(files), 16, 16, 3) and (labels == 1).all() and images.any(axis=(1, 2, 3)).all()
    assert images.min() >= 0 and images.max() <= 127.5
    assert {Path(name).name for name, _ in data.problems()} == set(photos.DAMAGED)


@pytest.mark.parametrize("crop", ["random_area", "shifted_centre", "centre"])
def test_crops_of_files_of_every_kind(tmp_path: Path, crop: Any) -> None:
    check_every_kind(tmp_path, AugmentRecipe(crop=crop))


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["resize", "random_area", "random_scale", "pad", "centre", "shifted_centre"])
def test_policy_before_crops_of_files_of_every_kind(tmp_path: Path, crop: Any) -> None:
    check_every_kind(
        tmp_path, AugmentRecipe(crop=crop, short_side=(20, 40), policy="randaugment", policy_first=True, flip=True)
    )


def test_impossible_batches() -> None:
    data = numbered(11)
    for share, message in [
        (Share(), "batch_size 12 is more than the 11 training images"),
        (Share(5), "batch_size 12 must be a multiple of the number of replicas, 5"),
        (Share(4, 0, 3), "3 processes cannot have equal shares of 4 replicas"),
        (Share(4, 2, 2), "2 processes cannot"),
    ]:
        with pytest.raises(ValueError, match=message):
            training_batches(data, STILL, halved, share)
