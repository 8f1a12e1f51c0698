"""Teachers: what they say does not depend on the student's preprocessing, and nothing of them moves."""

import pathlib

import keras
import numpy as np
import pytest

import keras_resnets as kr
from keras_resnets.preprocessing import Preprocess
from training.distillation import load_teacher
from training.publish import write_safetensors
from training.recipe import Recipe, load_recipe

SHAPE = (32, 32, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype("float32")


def recipe(weights: str, *overrides: str, teacher: str = "resnet20_cifar") -> Recipe:
    return load_recipe("digits_distilled", [f"distillation={{teacher: {teacher}, weights: {weights}}}", *overrides])


def expected() -> np.ndarray:
    """Logits of the shipped network for its own preprocessing."""
    network = kr.create_model("resnet20_cifar", weights="digits", classifier_activation=None)
    return keras.ops.convert_to_numpy(network(kr.preprocess_input(PIXELS, network)))


def test_no_teacher() -> None:
    assert load_teacher(load_recipe("digits_resnet20"), 10, SHAPE) is None


@pytest.mark.parametrize(
    ("kind", "student"),
    [
        ("tag", "plain20_cifar"),
        ("keras", "plain20_cifar"),
        ("tag", "resnet20_cifar"),
        ("safetensors", "resnet20_cifar"),
    ],
)
def test_logits_of_the_teacher(kind: str, student: str, tmp_path: pathlib.Path) -> None:
    """The first student's images have ImageNet's mean and deviations, the second's those of the teacher."""
    weights = "digits"
    if kind == "keras":
        weights = str(tmp_path / "teacher.keras")
        kr.create_model("resnet20_cifar", weights="digits").save(weights)
    if kind == "safetensors":
        weights = str(tmp_path / "teacher.safetensors")
        write_safetensors(kr.create_model("resnet20_cifar", weights="digits"), pathlib.Path(weights), "")
    given = recipe(weights, f"model.name={student}")
    teacher = load_teacher(given, 10, SHAPE)
    assert teacher is not None
    images = Preprocess.of(given.model.name, given.model.preprocessing or None)(PIXELS)
    np.testing.assert_allclose(teacher(images, training=True), expected(), rtol=1e-4, atol=1e-4)


def test_mixtures_of_images() -> None:
    """The mixture of two images reaches the teacher as the mixture of what it would see of each."""
    teacher = load_teacher(recipe("digits"), 10, SHAPE)
    assert teacher is not None
    preprocess = Preprocess.of("plain20_cifar")
    mixed = 0.3 * preprocess(PIXELS[:1]) + 0.7 * preprocess(PIXELS[1:2])
    alone = kr.create_model("resnet20_cifar", weights="digits", classifier_activation=None)
    logits = alone(kr.preprocess_input(0.3 * PIXELS[:1] + 0.7 * PIXELS[1:2], alone))
    np.testing.assert_allclose(teacher(mixed), logits, rtol=1e-4, atol=1e-4)


def test_nothing_moves(tmp_path: pathlib.Path) -> None:
    """In training mode statistics stay and paths do not drop, half of which would."""
    path = tmp_path / "teacher.keras"
    kr.create_model("resnet20_cifar", weights="digits", drop_path_rate=0.5).save(path)
    teacher = load_teacher(recipe(str(path), "model.name=resnet20_cifar"), 10, SHAPE)
    assert teacher is not None and not teacher.trainable_variables
    before = [variable.numpy() for variable in teacher.variables]
    images = Preprocess.of("resnet20_cifar")(PIXELS)
    for _ in range(2):
        np.testing.assert_allclose(teacher(images, training=True), expected(), rtol=1e-4, atol=1e-4)
    for old, variable in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_other_size_of_images() -> None:
    """Published weights are for any size."""
    teacher = load_teacher(recipe("digits", "data.image_size=48"), 10, (48, 48, 3))
    assert teacher is not None and teacher(np.zeros((1, 48, 48, 3), "float32")).shape == (1, 10)


def test_wrong_teachers(tmp_path: pathlib.Path) -> None:
    saved = tmp_path / "three.keras"
    kr.create_model("resnet20_cifar", classes=3).save(saved)
    checkpoint = tmp_path / "three.safetensors"
    write_safetensors(kr.create_model("resnet20_cifar", classes=3), checkpoint, "")
    ten = tmp_path / "ten.keras"
    kr.create_model("resnet20_cifar").save(ten)
    for weights, message in [
        ("digits", "knows 10 classes, the images are of 5: a teacher must have been trained for the same ones"),
        (str(saved), "three.keras' knows 3 classes, the images are of 5"),
        (str(checkpoint), "three.safetensors' knows 3 classes, the images are of 5"),
        ("digit", "did you mean 'digits'"),
        (str(tmp_path / "none.keras"), "is not a file"),
        (str(tmp_path / "none.weights.h5"), "is not a file"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_teacher(recipe(weights), 5, SHAPE)
    with pytest.raises(
        ValueError, match=r"was saved for images of shape \(32, 32, 3\), the training images are \(48, 48, 3\)"
    ):
        load_teacher(recipe(str(ten)), 10, (48, 48, 3))
    with pytest.raises(ValueError, match="is of 'resnet20_cifar', not of 'resnet56_cifar'"):
        load_teacher(recipe(str(ten), teacher="resnet56_cifar"), 10, SHAPE)
    with pytest.raises(ValueError, match="unknown network 'resnet21_cifar'"):
        load_teacher(recipe("digits", teacher="resnet21_cifar"), 10, SHAPE)
