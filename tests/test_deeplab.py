"""DeepLabV3: torchvision's logits with the corners aligned, training, precision, files, export.

The figures in data/necks.json are described in test_feature_pyramid.py.
"""

import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.deeplab import AlignedUpsampling, AtrousPyramid, deeplab_v3
from tests.test_feature_pyramid import GOLDEN, NORM, assert_described, fill_by_rule

SMALL: dict[str, Any] = {"include_top": False, "output_stride": 8, "depths": (1, 1, 1, 1)}
HEADS = [
    (r"^pyramid/conv(\d)/conv$", r"classifier.0.convs.\1.0"),
    (r"^pyramid/conv(\d)/norm$", r"classifier.0.convs.\1.1"),
    (r"^pyramid/image_conv/conv$", "classifier.0.convs.4.1"),
    (r"^pyramid/image_conv/norm$", "classifier.0.convs.4.2"),
    (r"^pyramid/project/conv$", "classifier.0.project.0"),
    (r"^pyramid/project/norm$", "classifier.0.project.1"),
    (r"^head/conv$", "classifier.1"),
    (r"^head/norm$", "classifier.2"),
    (r"^classifier$", "classifier.4"),
    (r"^aux_head/conv$", "aux_classifier.0"),
    (r"^aux_head/norm$", "aux_classifier.1"),
    (r"^aux_classifier$", "aux_classifier.4"),
]


@pytest.mark.usefixtures("float64")
def test_logits_are_torchvisions() -> None:
    row = GOLDEN["deeplab"]
    shape = (row["height"], row["width"], 3)
    network = reference.with_rule_weights(
        "resnet50", input_shape=shape, depths=tuple(row["depths"]), include_top=False, output_stride=8
    )
    model = deeplab_v3(network, row["classes"], auxiliary=True)
    fill_by_rule(model, HEADS)
    x = reference.generator("input:deeplab").standard_normal((1, *shape), dtype=np.float32).astype("float64")
    output = model(x, training=False)
    for name in ("logits", "aux_logits"):
        assert_described(output[name], row[name])


@pytest.mark.parametrize("static", [True, False])
def test_upsampling_aligns_corners(static: bool) -> None:
    """2x3 to 3x7, as torch does with align_corners=True."""
    x = np.array([[0, 3, 1], [2, -1, 5]], "float32").reshape(1, 2, 3, 1)
    inputs = (
        [keras.Input((2, 3, 1)), keras.Input((3, 7, 2))] if static else [keras.Input((None, None, c)) for c in (1, 2)]
    )
    model = keras.Model(inputs, AlignedUpsampling()(inputs))
    enlarged = model.predict([x, np.zeros((1, 3, 7, 2), "float32")], verbose=0)
    np.testing.assert_allclose(enlarged[0, :, :, 0], GOLDEN["aligned"], atol=1e-6)


def test_pyramid_sees_as_far_as_its_rates() -> None:
    """One pixel's effect: on itself through the 1x1, at the rates' distance through the 3x3, everywhere through the mean."""
    layer = AtrousPyramid(4, (2, 5), norm=NORM)
    image = np.random.default_rng(0).normal(size=(1, 13, 13, 3)).astype("float32")
    changed = image.copy()
    changed[0, 6, 6] += 1
    plain, moved = (keras.ops.convert_to_numpy(conv(y) - conv(x)) for conv, x, y in (
        (layer, image, image), (layer, image, changed)))  # fmt: skip
    assert not plain.any()
    for conv, rate in zip(layer.convs[1:], (2, 5), strict=True):
        difference = np.abs(keras.ops.convert_to_numpy(conv.conv(changed) - conv.conv(image))).sum((0, 3)) > 1e-6
        expected = np.zeros((13, 13), bool)
        expected[np.ix_((6 - rate, 6, 6 + rate), (6 - rate, 6, 6 + rate))] = True
        assert (difference == expected).all()
    assert moved.any()
    assert layer.count_params() == 4 * (3 + 9 * 3 + 9 * 3 + 3 + 16) + 4 * 4 * 5


@pytest.mark.parametrize(("output_stride", "shape"), [(8, (65, 90, 3)), (16, (64, 96, 1)), (8, (None, None, 3))])
def test_output_has_the_size_of_the_image(output_stride: int, shape: tuple) -> None:
    network = kr.create_model("resnet18", input_shape=shape, **{**SMALL, "output_stride": output_stride})
    model = deeplab_v3(network, 4, (6, 12, 18), channels=8)
    assert model.output_shape == (None, *shape[:2], 4)
    image = np.random.default_rng(0).normal(size=(2, shape[0] or 50, shape[1] or 70, shape[2]))
    assert model.predict(image, verbose=0).shape == (2, *image.shape[1:3], 4)


@pytest.mark.parametrize("policy", [pytest.param("float32", marks=pytest.mark.slow), "mixed_bfloat16"])
def test_training_finds_the_bright_half(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    network = kr.create_model("resnet18", input_shape=(48, 48, 3), **SMALL)
    model = deeplab_v3(network, 2, (1, 2, 3), channels=16, auxiliary=True)
    assert all(tensor.dtype == "float32" for tensor in model.output.values())
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 48, 48), "int32")
    for mask, edge in zip(masks, rng.integers(12, 36, 8), strict=True):
        mask[:, edge:] = 1
    images = (masks[..., None] + 0.1 * rng.normal(size=(8, 48, 48, 3))).astype("float32")
    model.compile(
        keras.optimizers.Adam(3e-3),
        {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in model.output},
        loss_weights={"logits": 1.0, "aux_logits": 0.2},
    )
    losses = model.fit(images, {name: masks for name in model.output}, epochs=8, batch_size=8, verbose=0).history[
        "loss"
    ]
    assert losses[-1] < 0.6 * losses[0]


def test_file_is_read_by_a_fresh_process(tmp_path: pathlib.Path) -> None:
    model = deeplab_v3(kr.create_model("resnet18", input_shape=(40, 56, 3), **SMALL), 3, channels=8)
    image = np.random.default_rng(0).normal(size=(1, 40, 56, 3)).astype("float32")
    model.save(tmp_path / "net.keras")
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, keras, numpy as np, keras_resnets.deeplab; m = keras.saving.load_model(sys.argv[1] + '/net.keras'); "
        "np.save(sys.argv[1] + '/logits.npy', m.predict(np.load(sys.argv[1] + '/image.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model.predict(image, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("format", "ending"), [("tflite", ".tflite"), pytest.param("onnx", ".onnx", marks=pytest.mark.slow)]
)
def test_export(format: str, ending: str, tmp_path: pathlib.Path) -> None:
    """Folded, converted, run by its own runtime and compared there: `export` refuses what differs by more than 1e-4."""
    model = deeplab_v3(kr.create_model("resnet18", input_shape=(40, 56, 3), **SMALL), 3, channels=8)
    report = kr.export(model, tmp_path / f"net{ending}", format=format)
    assert pathlib.Path(report.path).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes must be whole numbers above 0, not [0]"),
        ({"rates": ()}, "rates must be whole numbers above 0, not ()"),
        ({"rates": (6, -1)}, "rates must be whole numbers above 0"),
        ({"channels": 2.5}, "channels must be whole numbers above 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    network = kr.create_model("resnet18", input_shape=(64, 64, 3), **SMALL)
    with pytest.raises(ValueError) as error:
        deeplab_v3(network, **{"classes": 3, **arguments})
    assert message in str(error.value)


def test_other_models_are_refused() -> None:
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()], name="other")
    with pytest.raises(ValueError, match="network 'other' must have two levels at least"):
        deeplab_v3(other, 3)
