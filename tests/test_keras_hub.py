"""Backbones for KerasHub: a segmenter and a detector predict, train and are saved with them."""

import importlib
import importlib.util
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnets as kr

needs_keras_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="KerasHub is not installed: pip install keras-hub"
)
SIDE = 128
IMAGES = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype("float32")
BOXES = {
    "boxes": np.array([[[8, 8, 60, 70]], [[20, 30, 100, 90]]], "float32"),  # top, left, bottom, right
    "labels": np.array([[1], [2]]),
}


def backbone(levels: tuple[str, ...] = ("C2", "C3", "C4", "C5"), **options: Any) -> keras.Model:
    from keras_resnets.keras_hub import PyramidBackbone

    options = {"input_shape": (SIDE, SIDE, 3), "depths": (1, 1, 1, 1), **options}
    return PyramidBackbone(kr.create_model("resnet18", **options), levels)


def test_missing_keras_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    monkeypatch.setitem(sys.modules, "keras_hub.models", None)
    monkeypatch.delitem(sys.modules, "keras_resnets.keras_hub", raising=False)
    with pytest.raises(ImportError, match=r"needs KerasHub: pip install 'keras-resnets\[keras-hub\]'"):
        importlib.import_module("keras_resnets.keras_hub")


@needs_keras_hub
def test_pyramid_outputs_are_the_levels() -> None:
    import keras_hub

    network = kr.create_model("resnet18", input_shape=(64, 96, 3), classes=3)
    model = backbone_of(network)
    assert isinstance(model, keras_hub.models.FeaturePyramidBackbone)
    maps = keras.Model(model.inputs, model.pyramid_outputs)(IMAGES[:, :64, :96], training=False)
    features = kr.feature_extractor(network)(IMAGES[:, :64, :96], training=False)
    assert list(maps) == ["P2", "P3", "P4", "P5"]
    for ours, theirs in zip(features.values(), maps.values(), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(theirs), keras.ops.convert_to_numpy(ours))
    classifier = {variable.path for variable in network.get_layer("predictions").variables}
    assert {v.path for v in model.variables} == {v.path for v in network.variables} - classifier


def backbone_of(network: keras.Model) -> keras.Model:
    from keras_resnets.keras_hub import PyramidBackbone

    return PyramidBackbone(network)


@needs_keras_hub
@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        ("resnet18", {"output_stride": 16}, {"P2": 64, "P3": 128, "P4": 512}),
        ("resnet18", {"output_stride": 8, "input_shape": (None, None, 3)}, {"P2": 64, "P3": 512}),
        ("inception_v3", {}, {"P2": 192, "P3": 288, "P4": 768, "P5": 2048}),
    ],
)
def test_keys_tell_the_size(name: str, options: dict[str, Any], channels: dict[str, int]) -> None:
    network = kr.create_model(name, weights=None, include_top=False, **{"input_shape": (160, 128, 3), **options})
    maps = backbone_of(network).pyramid_outputs
    assert {key: map_.shape[-1] for key, map_ in maps.items()} == channels


def segmenter() -> keras.Model:
    import keras_hub

    encoder = keras_hub.models.DeepLabV3Backbone(
        image_encoder=backbone(),
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=8,
        dilation_rates=[1, 2, 3],
        image_shape=(SIDE, SIDE, 3),
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone=encoder, num_classes=2)


def detector() -> keras.Model:
    import keras_hub

    encoder = keras_hub.models.RetinaNetBackbone(
        image_encoder=backbone(), min_level=3, max_level=7, use_p5=False, image_shape=(SIDE, SIDE, 3)
    )
    return keras_hub.models.RetinaNetObjectDetector(backbone=encoder, num_classes=3, bounding_box_format="yxyx")


@needs_keras_hub
def test_segmenter_trains_and_predicts() -> None:
    model = segmenter()
    masks = (IMAGES[..., 0] > 0).astype("int32")
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[])
    stem = model.backbone.image_encoder.get_layer("stem").conv.kernel
    before = stem.numpy().copy()
    losses = model.fit(IMAGES, masks, epochs=6, verbose=0).history["loss"]
    assert min(losses[1:]) < losses[0]
    assert (stem.numpy() != before).any()
    assert model.predict(IMAGES, verbose=0).shape == (2, SIDE, SIDE, 2)


@needs_keras_hub
def test_detector_trains_and_predicts() -> None:
    model = detector()
    model.compile(keras.optimizers.Adam(1e-4))
    losses = model.fit(IMAGES, BOXES, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    predictions = model.predict(IMAGES, verbose=0)
    assert predictions["boxes"].shape[::2] == (2, 4)
    assert predictions["labels"].shape == predictions["confidence"].shape == predictions["boxes"].shape[:2]


@needs_keras_hub
@pytest.mark.parametrize("make", [segmenter, pytest.param(detector, marks=pytest.mark.slow)])
def test_task_from_a_file(make: Any, tmp_path: pathlib.Path) -> None:
    model = make()
    model.save(tmp_path / "task.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, keras, numpy as np, keras_resnets.keras_hub; m = keras.saving.load_model(sys.argv[1] + '/task.keras'); "
        "y = m(np.load(sys.argv[1] + '/images.npy'), training=False); y = y if isinstance(y, dict) else {'masks': y}; "
        "np.savez(sys.argv[1] + '/y.npz', **y)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=300)
    expected = model(IMAGES, training=False)
    with np.load(tmp_path / "y.npz") as outputs:
        for name, value in (expected if isinstance(expected, dict) else {"masks": expected}).items():
            np.testing.assert_allclose(outputs[name], keras.ops.convert_to_numpy(value), rtol=1e-4, atol=1e-4)


@needs_keras_hub
def test_preset_folder(tmp_path: pathlib.Path) -> None:
    import keras_hub

    model = backbone(("C3", "C4", "C5"))
    model.save_to_preset(str(tmp_path / "preset"))
    restored = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    assert list(restored.pyramid_outputs) == ["P3", "P4", "P5"]
    assert restored.network.variant == "resnet18"
    np.testing.assert_array_equal(restored.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


@needs_keras_hub
def test_absent_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="no level 'C6'"):
        backbone(("C5", "C6"))
