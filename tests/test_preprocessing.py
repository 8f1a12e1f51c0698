"""Pixels to network input and probabilities to names, against values worked out by hand."""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnets.preprocessing import Preprocess, decode_predictions, expected_input, load_image, preprocess_input
from keras_resnets.registry import create_model, model_info

# A black and a white pixel after (x / 255 - mean) / std with ImageNet's mean (0.485, 0.456, 0.406) and standard deviation
# (0.229, 0.224, 0.225), on paper.
IMAGENET_BLACK = (-2.117904, -2.035714, -1.804444)
IMAGENET_WHITE = (2.248908, 2.428571, 2.64)
BLACK_AND_WHITE = np.array([[[[0, 0, 0], [255, 255, 255]]]], "uint8")


def test_imagenet_normalisation() -> None:
    result = preprocess_input(BLACK_AND_WHITE, "resnet50", "tv_in1k")
    assert result.dtype == np.float32 and result.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(result[0, 0], [IMAGENET_BLACK, IMAGENET_WHITE], atol=1e-5)


def test_half_normalisation() -> None:
    result = preprocess_input(np.full((4, 4, 3), 127.5), "resnet20_cifar", "digits")
    np.testing.assert_allclose(result, np.zeros((4, 4, 3)), atol=1e-6)
    np.testing.assert_allclose(
        preprocess_input(BLACK_AND_WHITE, "resnet20_cifar")[0, 0], [[-1] * 3, [1] * 3], atol=1e-6
    )


def test_network_without_published_weights_gets_imagenet_values() -> None:
    assert not model_info("plain18").weights
    np.testing.assert_allclose(preprocess_input(BLACK_AND_WHITE, "plain18")[0, 0, 1], IMAGENET_WHITE, atol=1e-5)


def test_entry_of_network_follows_its_weights_then_the_argument() -> None:
    network = create_model("resnet18d", input_shape=(32, 32, 3))
    network.weights_tag = "ra2_in1k"
    assert expected_input(network).mean == (0.485, 0.456, 0.406)
    assert expected_input(network, "ra4_e3600_r224_in1k").mean == (0.5, 0.5, 0.5)


def test_tensor_in_tensor_out() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), "uint8")
    result = preprocess_input(keras.ops.convert_to_tensor(images), "resnet50", "tv_in1k")
    assert keras.ops.is_tensor(result)
    expected = (images / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result), expected, atol=2e-6)
    assert np.abs(preprocess_input(images, "resnet50", "tv_in1k") - expected).max() < 2e-6


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((4, 4)), r"\(batch, height, width, 3\)"),
        (np.zeros((1, 4, 4, 1)), "3 channels"),
        (np.zeros((1, 3, 4, 4)), "3 channels"),
        (np.zeros((1, 4, 4, 3), bool), "integers or floats, not bool"),
        (np.full((1, 1, 1, 3), "x"), "integers or floats"),
    ],
)
def test_bad_images(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess_input(images, "resnet50")


def test_bad_names() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        preprocess_input(BLACK_AND_WHITE, "resnet_50")
    with pytest.raises(ValueError, match=r"unknown weights 'tv_in2k' of 'resnet50'.*'tv_in1k'"):
        preprocess_input(BLACK_AND_WHITE, "resnet50", "tv_in2k")
    with pytest.raises(ValueError, match="made by keras_resnets"):
        preprocess_input(BLACK_AND_WHITE, keras.Sequential())


def test_layer_survives_saving_and_keeps_float32_under_mixed_precision(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    inputs = keras.Input((None, None, 3), dtype="uint8")
    keras.Model(inputs, Preprocess.of("resnet50", "tv_in1k")(inputs)).save(tmp_path / "pre.keras")
    outputs = keras.saving.load_model(tmp_path / "pre.keras")(BLACK_AND_WHITE)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(outputs)[0, 0], [IMAGENET_BLACK, IMAGENET_WHITE], atol=1e-5)


def test_layer_runs_inside_tf_data() -> None:
    tf = pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    dataset = tf.data.Dataset.from_tensor_slices(BLACK_AND_WHITE).map(Preprocess.of("resnet50", "tv_in1k"))
    np.testing.assert_allclose(next(dataset.as_numpy_iterator())[0], [IMAGENET_BLACK, IMAGENET_WHITE], atol=1e-5)
    signature = tf.TensorSpec((None, None, None), tf.uint8)
    undeclared = dataset.from_generator(lambda: iter(BLACK_AND_WHITE), output_signature=signature)
    undeclared = undeclared.map(Preprocess.of("resnet50", "tv_in1k"))
    np.testing.assert_allclose(next(undeclared.as_numpy_iterator())[0], [IMAGENET_BLACK, IMAGENET_WHITE], atol=1e-5)


def test_layer_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        Preprocess.of("resnet50")(np.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize("width, height, left, top", [(512, 256, 144, 16), (256, 300, 16, 38), (256, 256, 16, 16)])
def test_load_image_cuts_the_centre(tmp_path: Path, width: int, height: int, left: int, top: int) -> None:
    """With 256 = 224 / 0.875 as the short side nothing is resized, and the crop is a slice."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), "uint8")
    Image.fromarray(pixels).save(tmp_path / "image.png")
    loaded = load_image(tmp_path / "image.png", expected_input("resnet50", "tv_in1k"))
    np.testing.assert_array_equal(loaded, pixels[top : top + 224, left : left + 224])


def test_load_image_resizes_the_short_side(tmp_path: Path) -> None:
    """A ramp along the width keeps its slope in proportion: 128 pixels shown as 256, of which 16 to 239 are kept."""
    ramp = np.broadcast_to(np.arange(128, dtype="uint8")[None, :, None], (128, 128, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    loaded = load_image(tmp_path / "ramp.png", expected_input("resnet50", "tv_in1k"))
    expected = (np.arange(16, 240) + 0.5) / 2 - 0.5
    assert np.abs(loaded[112, :, 0] - expected).max() <= 0.75  # rounding to 8 bits, twice


@pytest.mark.parametrize("size", [(3, 500), (500, 3), (1, 1), (37, 100)])
@pytest.mark.parametrize("name", ["resnet50", "resnet20_cifar"])
def test_load_image_any_size(tmp_path: Path, size: tuple[int, int], name: str) -> None:
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "image.png")
    entry = expected_input(name)
    loaded = load_image(tmp_path / "image.png", entry)
    assert loaded.shape == (entry.input_size, entry.input_size, 3)
    assert (loaded == (10, 20, 30)).all()


@pytest.mark.parametrize(
    "mode, colour, rgb",
    [("L", 77, (77,) * 3), ("1", 1, (255,) * 3), ("RGBA", (1, 2, 3, 0), (1, 2, 3)), ("CMYK", (0,) * 4, (255,) * 3)],
)
def test_load_image_modes(tmp_path: Path, mode: str, colour: object, rgb: tuple[int, ...]) -> None:
    Image.new(mode, (40, 40), colour).save(tmp_path / "image.tiff")
    assert (load_image(tmp_path / "image.tiff", expected_input("resnet20_cifar")) == rgb).all()


def test_load_image_heeds_rotation(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    loaded = load_image(tmp_path / "turned.png", expected_input("resnet20_cifar", "digits"))
    assert loaded[:16].max() == 0 and loaded[16:].min() == 255


def test_load_image_refuses_what_is_no_image(tmp_path: Path) -> None:
    entry = expected_input("resnet50")
    (tmp_path / "text.png").write_text("not an image")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    (tmp_path / "empty.jpg").touch()
    for name in ("text.png", "cut.png", "empty.jpg"):
        with pytest.raises(ValueError, match=f"{name}' cannot be decoded"):
            load_image(tmp_path / name, entry)
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ValueError, match="is not a file"):
            load_image(path, entry)


def test_decode_imagenet() -> None:
    probabilities = np.zeros((2, 1000), "float32")
    probabilities[0, [0, 207, 999]] = 0.2, 0.5, 0.3
    probabilities[1, 281] = 1
    first, second = decode_predictions(probabilities, top=3)
    assert [(synset, label) for synset, label, _ in first] == [
        ("n02099601", "golden retriever"),
        ("n15075141", "toilet tissue"),
        ("n01440764", "tench"),
    ]
    assert [score for *_, score in first] == pytest.approx([0.5, 0.3, 0.2])
    assert second[0] == ("n02123045", "tabby", 1.0)


def test_decode_other_classes() -> None:
    probabilities = keras.ops.convert_to_tensor([[0.1, 0.7, 0.2]])
    assert [label for _, label, _ in decode_predictions(probabilities, 2, ["ant", "bee", "cat"])[0]] == ["bee", "cat"]
    assert decode_predictions(np.eye(10)[7:8], 1, "digits") == [[("", "7", 1.0)]]


@pytest.mark.parametrize(
    "shape, top, labels, message",
    [
        ((1000,), 5, None, r"\(batch, classes\)"),
        ((1, 7, 7, 1000), 5, None, r"\(batch, classes\)"),
        ((1, 1000), 0, None, "top must be from 1 to the 1000"),
        ((1, 1000), 1001, None, "top must be from 1 to the 1000"),
        ((1, 1000), 2.5, None, "top must be"),
        ((1, 10), 5, None, "each of the 10 classes, no labels"),
        ((1, 10), 5, ["a", "b"], "each of the 10 classes, 2 labels"),
        ((1, 10), 5, "imagenet", "each of the 10 classes, 1000 labels"),
        ((1, 10), 5, "letters", "'imagenet', 'digits' or a sequence"),
    ],
)
def test_bad_decoding(shape: tuple[int, ...], top: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_predictions(np.zeros(shape), top, labels)


def test_decoding_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        decode_predictions(np.full((1, 1000), np.nan))
