"""Dilated networks: the same weights, and the function of the strided network on its grid or that of timm's dilated one.

Where a stage strides by convolutions alone, dilating it instead changes nothing on the grid of the strided network: every
`k`-th pixel of the dilated map *is* the strided map. Average pools before projections (which dilated stages go without) and
attention, which sees the mean of more pixels, break this identity. Those networks are compared with timm 1.0.31 (torch 2.13.0 on
a CPU), double precision, weights and input by the rule of `reference.py`; timm's 2x2 pools of stride 1 before projections
were taken out, as in the authors' code of ResNeSt and in Gluon. data/output_stride.json holds the mean, the deviation and every
`size // 11`-th value of the maps `(1, height, width, channels)` in that order.
"""

import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.costs import without_values

ROWS = json.loads((pathlib.Path(__file__).parent / "data" / "output_stride.json").read_text("utf-8"))["rows"]
SHALLOW = {"depths": (1, 2, 2, 2)}
STRIDED_BY_CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain18": SHALLOW,
    "resnet18": SHALLOW,
    "resnet50": SHALLOW,
    "resnet50_v1": SHALLOW,
    "resnext50_32x4d": SHALLOW,
    "resnetv2_18": SHALLOW,
    "resnetv2_50": SHALLOW,
    "preresnet50": SHALLOW,
    "resnet50_v2": {"depths": (2, 2, 2, 2)},
    "dfn_mr26": {"depths": (1, 1, 2, 2)},
    "fusenet_resnet98": SHALLOW,
    "dpn68": SHALLOW,
}
IN_SHORT_RUN = ("resnet18", "resnet50_v2")
REDUCTION = {"C2": 4, "C3": 8, "C4": 16, "C5": 32}


def _randomise(model: keras.Model) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        if variable.path.endswith(("gamma", "variance")):
            variable.assign(1 + 0.1 * np.abs(value))
        elif len(variable.shape) < 3:
            variable.assign(0.1 * value)
    return model.get_weights()


def _maps(name: str, weights: list[np.ndarray] | None, x: np.ndarray, **options: Any) -> tuple[dict, list]:
    shape = x.shape[1:]
    model = kr.create_model(name, weights=None, include_top=False, input_shape=shape, **options)
    weights = _randomise(model) if weights is None else weights
    model.set_weights(weights)
    maps = kr.feature_extractor(model)(x, training=False)
    return {level: keras.ops.convert_to_numpy(map_) for level, map_ in maps.items()}, weights


@pytest.mark.parametrize(
    "name", [n if n in IN_SHORT_RUN else pytest.param(n, marks=pytest.mark.slow) for n in STRIDED_BY_CONVOLUTIONS]
)
@pytest.mark.usefixtures("float64")
def test_dilated_network_is_the_strided_one_on_its_grid(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(1, 67, 98, 3))
    options = STRIDED_BY_CONVOLUTIONS[name]
    strided, weights = _maps(name, None, x, **options)
    for output_stride in (16, 8):
        dilated, _ = _maps(name, weights, x, output_stride=output_stride, **options)
        for level, map_ in dilated.items():
            step = max(1, REDUCTION[level] // output_stride)
            assert map_.shape[1] == -(-x.shape[1] // min(output_stride, REDUCTION[level]))
            np.testing.assert_allclose(map_[:, ::step, ::step], strided[level], rtol=1e-9, atol=1e-9)


def _marked(row: dict[str, Any]) -> Any:
    name = f"{row['network']}-{row['output_stride']}"
    long = row["network"] not in ("resnet50d", "resnetblur18", "skresnet50", "resnetv2_50d")
    return pytest.param(row, id=name, marks=[pytest.mark.slow] * long)


@pytest.mark.parametrize("row", [_marked(row) for row in ROWS])
@pytest.mark.usefixtures("float64")
def test_dilated_networks_of_timm(row: dict[str, Any]) -> None:
    shape = (row["height"], row["width"], 3)
    model = reference.with_rule_weights(
        row["network"], input_shape=shape, depths=tuple(row["depths"]), output_stride=row["output_stride"]
    )
    key = f"input:{row['network']}@{row['output_stride']}"
    x = reference.generator(key).standard_normal((1, *shape), dtype=np.float32).astype("float64")
    maps = kr.feature_extractor(model, tuple(row["levels"]))(x, training=False)
    for level, expected in row["levels"].items():
        values = keras.ops.convert_to_numpy(maps[level])
        assert list(values.shape) == expected["shape"]
        flat = values.ravel()
        sampled = np.r_[flat.mean(), flat.std(), flat[:: flat.size // 11][:12]]
        stored = np.r_[expected["mean"], expected["std"], expected["values"]]
        np.testing.assert_allclose(sampled, stored, rtol=1e-7, atol=1e-7 * expected["std"])


def _with_output_stride() -> list[str]:
    """Of every family that has the option, the smallest network."""
    firsts: dict[str, str] = {}
    for name in sorted(kr.list_models(), key=lambda name: kr.model_info(name).params):
        variant = kr.registry.find(name)
        if hasattr(variant.spec, "output_stride"):
            firsts.setdefault(variant.family, name)
    return list(firsts.values())


def test_families_that_dilate() -> None:
    families = {kr.model_info(name).family for name in _with_output_stride()}
    others = {kr.model_info(name).family for name in kr.list_models() if not name.endswith("_cifar")} - families
    assert others == {"DenseNet", "HarDNet", "Inception"}


@pytest.mark.parametrize("name", [*_with_output_stride(), "legacy_senet154", "resnet50_v2"])
def test_every_output_stride_has_the_same_weights(name: str) -> None:
    with without_values():
        models = {
            stride: kr.create_model(name, weights=None, include_top=False, input_shape=(96, 64, 3), output_stride=stride)
            for stride in (32, 8)
        }  # fmt: skip
        kr.feature_extractor(models[8])
    described = [[(v.path, v.shape) for v in model.weights] for model in models.values()]
    assert described[0] == described[1]
    for stride, model in models.items():
        sizes = {level: model.get_layer(level).output.shape[1:3] for level in REDUCTION}
        assert sizes == {level: (96 // min(stride, r), 64 // min(stride, r)) for level, r in REDUCTION.items()}


@pytest.mark.parametrize("name", ["densenet121", "hardnet68", "inception_v3", "inception_v4", "inception_resnet_v2",
                                  "resnet20_cifar", "densenet40_k12_cifar", "dmrn56_cifar"])  # fmt: skip
def test_networks_that_pool_between_stages_have_no_output_stride(name: str) -> None:
    with pytest.raises(ValueError, match="output_stride"):
        kr.create_model(name, weights=None, output_stride=8)
