"""Feature pyramids: the maps of torchvision's, odd sizes, training, precision, files.

data/necks.json holds torchvision 0.29.2's results (torch 2.13.0 on a CPU) in double precision, weights and inputs by the rule of
`reference.py`: the mean, the deviation and every `size // 11`-th value of the maps `(1, height, width, channels)`.
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr
from keras_resnets.feature_pyramid import NearestUpsampling, feature_pyramid

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data" / "necks.json").read_text("utf-8"))
NORM = {"epsilon": 1e-5, "momentum": 0.9}


def fill_by_rule(model: keras.Model, renames: Sequence[tuple[str, str]]) -> None:
    """Gives the variables whose renamed path differs from their path the rule's values for that PyTorch name."""
    leaves = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias", "moving_mean": "running_mean",
              "moving_variance": "running_var"}  # fmt: skip
    for variable in model.variables:
        layer, _, leaf = variable.path.rpartition("/")
        for pattern, replacement in renames:
            name, count = re.subn(pattern, replacement, layer)
            if count:
                *size, inputs, outputs = variable.shape if leaf == "kernel" else (*variable.shape, 0)
                shape = (outputs, inputs, *size) if leaf == "kernel" else tuple(variable.shape)
                value = reference.weight(f"{name}.{leaves[leaf]}", shape)
                variable.assign(value.transpose(2, 3, 1, 0) if leaf == "kernel" else value)
                break


def assert_described(map_: Any, expected: dict[str, Any]) -> None:
    values = keras.ops.convert_to_numpy(map_)
    assert list(values.shape) == expected["shape"]
    flat = values.ravel()
    sampled = np.r_[flat.mean(), flat.std(), flat[:: max(1, flat.size // 11)][:12]]
    stored = np.r_[expected["mean"], expected["std"], expected["values"]]
    np.testing.assert_allclose(sampled, stored, rtol=1e-8, atol=1e-8 * expected["std"])


@pytest.mark.parametrize("row", GOLDEN["pyramids"], ids=lambda row: row["id"])
@pytest.mark.usefixtures("float64")
def test_pyramid_is_torchvisions(row: dict[str, Any]) -> None:
    network = reference.with_rule_weights("resnet18", input_shape=(75, 101, 3), depths=(1, 1, 1, 1), include_top=False)
    model = feature_pyramid(network, 24, row["levels"], row["extra"], NORM if row["norm"] else None)
    first = int(row["levels"][0][1:])
    numbered = [(f"(lateral|P)({n})$", n - first) for n in range(first, 6)]
    kinds = {"lateral": "inner_blocks", "P": "layer_blocks"}
    renames = [(r"^P([67])$", r"fpn.extra_blocks.p\1")] if row["extra"] != "pool" else []
    for part, index in (("conv", 0), ("norm", 1)) if row["norm"] else (("", 0),):
        for pattern, place in numbered:
            for kind, torch_kind in kinds.items():
                own = pattern.replace("(lateral|P)", kind).replace("$", f"/{part}$" if part else "$")
                renames.append((f"^{own}", f"fpn.{torch_kind}.{place}.{index}"))
    fill_by_rule(model, renames)
    x = reference.generator(f"input:fpn_{row['id']}").standard_normal((1, 75, 101, 3), dtype=np.float32)
    maps = model(x.astype("float64"), training=False)
    assert list(maps) == list(row["maps"])
    for name, expected in row["maps"].items():
        assert_described(maps[name], expected)


@pytest.mark.parametrize("sizes", GOLDEN["nearest"])
@pytest.mark.parametrize("static", [True, False])
def test_nearest_is_torchs(sizes: str, static: bool) -> None:
    small, large = map(int, sizes.split())
    x, like = np.arange(small, dtype="float32").reshape(1, -1, 1, 1), np.zeros((1, large, 1, 3), "float32")
    shapes = [(small, 1, 1), (large, 1, 3)] if static else [(None, None, 1), (None, None, 3)]
    inputs = [keras.Input(shape) for shape in shapes]
    enlarged = keras.Model(inputs, NearestUpsampling()(inputs)).predict([x, like], verbose=0)
    assert enlarged.shape == (1, large, 1, 1)
    assert enlarged.ravel().tolist() == GOLDEN["nearest"][sizes]


@pytest.mark.parametrize(
    ("name", "options", "levels"),
    [
        ("densenet121", {"depths": (1, 1, 1, 1)}, ("C2", "C3", "C4", "C5")),
        pytest.param("inception_v3", {}, ("C2", "C3", "C4", "C5"), marks=pytest.mark.slow),
        ("resnet18", {"output_stride": 8, "depths": (1, 1, 1, 1)}, ("C3", "C4", "C5")),
        ("preresnet110_cifar", {"depth": 1}, ("C2", "C3", "C4")),
    ],
)
def test_maps_have_the_sizes_of_their_levels(name: str, options: dict[str, Any], levels: tuple[str, ...]) -> None:
    """Levels that are not each half of the one before: rounded down, unpadded, dilated."""
    network = kr.create_model(name, weights=None, include_top=False, input_shape=(97, 130, 3), **options)
    model = feature_pyramid(network, 8, levels)
    sizes = [tuple(network.get_layer(level).output.shape[1:3]) for level in levels]
    sizes.append(tuple(-(-size // 2) for size in sizes[-1]))
    assert [tuple(map_.shape) for map_ in model(np.zeros((1, 97, 130, 3))).values()] == [
        (1, *size, 8) for size in sizes
    ]


def test_weights_are_the_networks() -> None:
    network = kr.create_model("resnet18", input_shape=(64, 64, 3), include_top=False)
    model = feature_pyramid(network, 16)
    own = {id(variable) for variable in model.variables}
    assert all(id(variable) in own for variable in network.variables)
    laterals = (64 + 128 + 256 + 512 + 4) * 16
    assert model.count_params() == network.count_params() + laterals + 4 * (9 * 16 + 1) * 16


def test_unknown_size_gives_the_same_maps() -> None:
    image = np.random.default_rng(0).normal(size=(1, 75, 101, 3)).astype("float32")
    fixed, free = (
        feature_pyramid(kr.create_model("resnet18", input_shape=shape, include_top=False, depths=(1, 1, 1, 1)), 8)
        for shape in ((75, 101, 3), (None, None, 3))
    )
    free.set_weights(fixed.get_weights())
    for name, map_ in fixed.predict(image, verbose=0).items():
        np.testing.assert_allclose(free.predict(image, verbose=0)[name], map_, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_training_lowers_the_loss(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    network = kr.create_model("resnet18", input_shape=(64, 64, 3), include_top=False, depths=(1, 1, 1, 1))
    pyramid = feature_pyramid(network, 8, ("C3", "C4", "C5"), "conv_c5")
    # A mask of the image's bright half, predicted from the finest map.
    y = keras.layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(pyramid.output["P3"])
    outputs = [
        keras.layers.GlobalAveragePooling2D(dtype="float32")(pyramid.output[name]) for name in ("P4", "P5", "P6", "P7")
    ]
    y = keras.layers.Concatenate()([keras.layers.Flatten()(y), *outputs])
    model = keras.Model(pyramid.input, y)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 64, 64, 3)).astype("float32")
    target = np.concatenate([images[:, ::8, ::8, 0].reshape(8, -1) > 0, np.zeros((8, 32))], axis=1).astype("float32")
    before = [variable.numpy().copy() for variable in pyramid.trainable_variables]
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    losses = model.fit(images, target, epochs=8, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    pairs = zip(pyramid.trainable_variables, before, strict=True)
    assert [variable.path for variable, old in pairs if (variable.numpy() == old).all()] == []


@pytest.mark.slow
def test_file_is_read_by_a_fresh_process(tmp_path: pathlib.Path) -> None:
    network = kr.create_model("resnet18", input_shape=(50, 70, 3), include_top=False, depths=(1, 1, 1, 1))
    model = feature_pyramid(network, 8, extra="conv_p5")
    image = np.random.default_rng(0).normal(size=(1, 50, 70, 3)).astype("float32")
    model.save(tmp_path / "fpn.keras")
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, keras, numpy as np, keras_resnets.feature_pyramid; m = keras.saving.load_model(sys.argv[1] + '/fpn.keras'); "
        "np.savez(sys.argv[1] + '/maps.npz', **m.predict(np.load(sys.argv[1] + '/image.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=120)
    with np.load(tmp_path / "maps.npz") as maps:
        for name, map_ in model.predict(image, verbose=0).items():
            np.testing.assert_allclose(maps[name], map_, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": ("C5", "C4")}, "levels must be from fine to coarse"),
        ({"levels": ("C2", "C6")}, "no level 'C6'"),
        ({"levels": ()}, "levels must be different names"),
        ({"channels": 0}, "channels must be a whole number above 0, not 0"),
        ({"extra": "P6"}, "extra must be None, 'pool', 'conv_c5' or 'conv_p5', not 'P6'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    network = kr.create_model("resnet18", input_shape=(64, 64, 3), include_top=False, depths=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=message):
        feature_pyramid(network, **arguments)
