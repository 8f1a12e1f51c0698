"""The whole evaluation transform against Pillow's, on photos: every size, crop and interpolation of published weights."""

import dataclasses
import fractions
import importlib.util
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import test_backends
from PIL import Image
from sklearn.datasets import load_sample_images

import keras_resnets as kr
from keras_resnets.preprocessing import Preprocess, at_test_size, expected_input, load_image, preprocess_input
from keras_resnets.registry import WeightsEntry
from keras_resnets.resize import centre_offset, resized_side, short_side

CHINA, FLOWER = load_sample_images().images
PHOTOS = {
    "landscape": CHINA,
    "portrait": np.ascontiguousarray(FLOWER.transpose(1, 0, 2)),
    "odd sides": CHINA[:301, :427],
    "smaller than the crop": FLOWER[100:151, 200:277],
    "tiny": FLOWER[100:110, 200:207],
}


def settings() -> list[tuple[int, float, str]]:
    """Every size, crop and interpolation with which published weights are evaluated."""
    found = set()
    for name in kr.list_models(pretrained=True):
        for entry in kr.model_info(name).weights.values():
            found.add((entry.input_size, entry.crop, entry.interpolation))
            if entry.test_input_size is not None:
                found.add((entry.test_input_size, entry.test_crop, entry.interpolation))
    return sorted(found)


def entry_of(size: int, crop: float, interpolation: str) -> WeightsEntry:
    return dataclasses.replace(
        expected_input("resnet50"), input_size=size, crop=crop, interpolation=interpolation, mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
    )  # fmt: skip


def pillow(pixels: np.ndarray, size: int, crop: float, interpolation: str) -> np.ndarray:
    """torchvision's Resize and CenterCrop, as their formulas are written there; the crop is exact in decimals."""
    shortest = math.floor(size / fractions.Fraction(str(crop)))
    height, width = pixels.shape[:2]
    short = min(width, height)
    new = tuple(shortest if side == short else int(shortest * side / short) for side in (width, height))
    image = Image.fromarray(pixels).resize(new, getattr(Image.Resampling, interpolation.upper()))
    left, top = (round((side - size) / 2.0) for side in new)
    return np.asarray(image.crop((left, top, left + size, top + size))).astype("float32")


@pytest.mark.parametrize("size, crop, interpolation", settings())
def test_photos_as_pillow_shows_them(size: int, crop: float, interpolation: str) -> None:
    """In steps of 1/255: nearly all pixels are the same, the others differ by rounding."""
    layer = Preprocess((0.0,) * 3, (1 / 255,) * 3, size, crop, interpolation)
    for name, photo in PHOTOS.items():
        result = keras.ops.convert_to_numpy(layer(photo))
        difference = np.abs(result - pillow(photo, size, crop, interpolation))
        assert difference.mean() < 0.05 and difference.max() < 2.01, name


@pytest.mark.slow
@test_backends.other_backends
def test_photos_on_other_backends(backend: str) -> None:
    """Inside `tf.data`, too, where the layer computes with TensorFlow whatever the backend."""
    chosen = "as_pillow_shows_them or function_resizes or inside_tf_data or in_front_of_a_network"
    output = test_backends.run_tests(backend, "tests/test_resize.py", "-k", chosen)
    assert f"{len(settings()) + 3} passed" in output


@pytest.mark.parametrize("setting", [(224, 0.875, "bilinear"), (288, 1.0, "bicubic"), (176, 0.9, "bicubic")])
@pytest.mark.parametrize("name", PHOTOS)
def test_image_files_are_pillow_s(tmp_path: Path, name: str, setting: tuple[int, float, str]) -> None:
    Image.fromarray(PHOTOS[name]).save(tmp_path / "photo.png")
    loaded = load_image(tmp_path / "photo.png", entry_of(*setting))
    np.testing.assert_array_equal(loaded, pillow(PHOTOS[name], *setting))


@pytest.mark.parametrize(
    "size, crop, expected",  # as papers and releases print them
    [(224, 0.875, 256), (299, 0.875, 341), (224, 0.95, 235), (288, 0.95, 303), (320, 0.875, 365), (384, 0.875, 438),
     (224, 0.965, 232), (416, 0.928, 448), (320, 0.909, 352), (32, 1.0, 32)],
)  # fmt: skip
def test_short_side(size: int, crop: float, expected: int) -> None:
    """torchvision's 256 and, for its newer weights, 232; FixRes' int(256 / 224 * size) for 320 and 384."""
    assert short_side(size, crop) == expected


def test_sides_and_offsets_of_all_sizes() -> None:
    for short in (1, 7, 100, 333):
        for long in range(short, 700, 13):
            assert resized_side(long, short, 256) == int(256 * long / short)
    assert [centre_offset(side, 10) for side in range(10, 20)] == [round((side - 10) / 2) for side in range(10, 20)]


@pytest.mark.parametrize("height, width, top, left", [(256, 256, 16, 16), (256, 257, 16, 16), (259, 256, 18, 16)])
def test_without_resizing_the_crop_is_a_slice(height: int, width: int, top: int, left: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), "uint8")
    layer = Preprocess((0.0,) * 3, (1 / 255,) * 3, 224, 0.875, "bicubic")
    result = keras.ops.convert_to_numpy(layer(pixels))
    np.testing.assert_allclose(result, pixels[top : top + 224, left : left + 224], atol=1e-4)


def test_function_resizes_and_normalises() -> None:
    """Arrays of integers and floats, batches and tensors give the same, in steps of 1/255 as Pillow's path does."""
    entry = expected_input("resnet50", "tv_in1k")
    whole = pillow(CHINA, entry.input_size, entry.crop, entry.interpolation)
    expected = (whole / 255 - np.array((0.485, 0.456, 0.406))) / np.array((0.229, 0.224, 0.225))
    result = preprocess_input(CHINA, "resnet50", "tv_in1k", resize=True)
    assert isinstance(result, np.ndarray) and result.dtype == np.float32 and result.shape == (224, 224, 3)
    assert np.abs(result - expected).mean() * 0.225 * 255 < 0.01
    np.testing.assert_array_equal(preprocess_input(CHINA.astype("float64"), "resnet50", "tv_in1k", resize=True), result)
    batch = keras.ops.convert_to_tensor(np.stack([CHINA, CHINA[:, ::-1]]))
    tensors = preprocess_input(batch, "resnet50", "tv_in1k", resize=True)
    assert keras.ops.is_tensor(tensors) and tensors.shape == (2, 224, 224, 3)
    assert np.abs(keras.ops.convert_to_numpy(tensors)[0] - result).max() * 0.225 * 255 < 1.01
    assert preprocess_input(CHINA, "resnet50", "tv_in1k").shape == CHINA.shape


def test_half_precision_resizes_in_single() -> None:
    single, half = (
        keras.ops.convert_to_numpy(Preprocess.of("resnet50", resize=True, dtype=dtype)(FLOWER))
        for dtype in ("float32", "float16")
    )
    assert half.dtype == np.float16
    assert np.abs(half - single).max() < 0.01  # a few of half precision's steps; a step of 1/255 is 0.017


def test_layer_of_unknown_sizes_inside_tf_data() -> None:
    tf = pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    layer, photos = Preprocess.of("resnet50", "tv_in1k", resize=True), (CHINA, PHOTOS["portrait"])
    shapes = tf.TensorSpec((None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: iter(photos), output_signature=shapes).map(layer)
    assert dataset.element_spec.shape == (224, 224, 3)
    for shown, photo in zip(dataset.as_numpy_iterator(), photos, strict=True):
        expected = preprocess_input(photo, "resnet50", "tv_in1k", resize=True)
        difference = np.abs(shown - expected) * 0.225 * 255
        assert difference.mean() < 0.01 and difference.max() < 1.01
    unknown = tf.data.Dataset.from_generator(lambda: iter(photos), output_signature=tf.TensorSpec(None, tf.uint8))
    with pytest.raises(ValueError, match="expand_animations=False"):
        unknown.map(layer)


def in_front_of_a_network() -> keras.Model:
    network = kr.create_model("resnet20_cifar", weights="digits")
    inputs = keras.Input((None, None, 3), dtype="uint8")
    return keras.Model(inputs, network(Preprocess.of(network, resize=True)(inputs)))


def test_layer_in_front_of_a_network(tmp_path: Path) -> None:
    model = in_front_of_a_network()
    expected = model.predict(CHINA[None], verbose=0)
    network = kr.create_model("resnet20_cifar", weights="digits")
    apart = network.predict(preprocess_input(CHINA[None], network, resize=True), verbose=0)
    np.testing.assert_allclose(expected, apart, atol=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(CHINA[None], verbose=0), expected, atol=1e-6)
    layer = Preprocess.from_config(Preprocess.of("resnet50", resize=True, test_size=False).get_config())
    assert (layer.input_size, layer.crop, layer.interpolation) == (224, 0.95, "bicubic")


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow exports SavedModels")
def test_saved_model_takes_images_of_any_size(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    model = in_front_of_a_network()
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    for photo in (CHINA, PHOTOS["portrait"], PHOTOS["tiny"]):
        np.testing.assert_allclose(served.serve(photo[None]), model.predict(photo[None], verbose=0), atol=1e-5)


def test_test_setting() -> None:
    entry = expected_input("resnet50", "tv2_in1k", test_size=True)
    assert (entry.input_size, entry.crop) == (224, 0.965)
    assert (entry.top1, entry.top5) == (entry.test_top1, entry.test_top5)
    assert preprocess_input(CHINA, "resnet50", "tv2_in1k", resize=True).shape == (176, 176, 3)
    assert preprocess_input(CHINA, "resnet50", "tv2_in1k", resize=True, test_size=True).shape == (224, 224, 3)
    assert Preprocess.of("resnet50", "tv2_in1k", resize=True, test_size=True).crop == 0.965
    assert at_test_size(entry) == entry
    with pytest.raises(ValueError, match=r"'tv_in1k' have no second setting"):
        expected_input("resnet50", "tv_in1k", test_size=True)
    with pytest.raises(ValueError, match="pass resize=True"):
        preprocess_input(CHINA, "resnet50", "tv2_in1k", test_size=True)


def test_network_built_for_another_size() -> None:
    """Its own size counts: at the test setting's size its crop, too, else the entry's."""
    network = kr.create_model("resnet18d", input_shape=(288, 288, 3))
    network.weights_tag = "ra2_in1k"
    entry = kr.model_info("resnet18d").weights["ra2_in1k"]
    assert entry.test_input_size == 288 and entry.test_crop != entry.crop
    assert expected_input(network) == at_test_size(entry) == expected_input(network, test_size=True)
    small = kr.create_model("resnet18d", input_shape=(64, 64, 3))
    small.weights_tag = "ra2_in1k"
    assert expected_input(small) == dataclasses.replace(entry, input_size=64, top1=None, top5=None)
    assert preprocess_input(FLOWER, small, resize=True).shape == (64, 64, 3)
    with pytest.raises(ValueError, match=r"64 x 64 pixels.*input_shape=\(288, 288, 3\)"):
        preprocess_input(FLOWER, small, resize=True, test_size=True)


def test_network_for_images_that_are_not_square() -> None:
    network = kr.create_model("resnet18d", input_shape=(64, 96, 3))
    assert preprocess_input(np.zeros((64, 96, 3)), network).shape == (64, 96, 3)
    with pytest.raises(ValueError, match="64 x 96"):
        preprocess_input(FLOWER, network, resize=True)
    any_size = kr.create_model("resnet18d", input_shape=(None, None, 3))
    assert preprocess_input(FLOWER, any_size, resize=True).shape == (224, 224, 3)


@pytest.mark.parametrize(
    "images, message",
    [
        (CHINA[..., 0], r"\(batch, height, width, 3\)"),
        (CHINA[..., :1], "3 channels"),
        (CHINA[:0], "one pixel at least"),
        (CHINA[None, None], r"\(batch, height, width, 3\)"),
    ],
)
def test_bad_images(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess_input(images, "resnet50", resize=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": 0}, "crop must be above 0 and at most 1, not 0"),
        ({"crop": 1.1}, "at most 1, not 1.1"),
        ({"input_size": 0}, "input_size must be at least 1"),
        ({"interpolation": "lanczos"}, "'bilinear' or 'bicubic', not 'lanczos'"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess((0.0,) * 3, (1.0,) * 3, **{"input_size": 224, **options})
