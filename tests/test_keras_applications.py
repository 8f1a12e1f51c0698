"""Files that keras.applications publishes: our network's logits are theirs, each on its own preprocessed images."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format  # writes what keras.applications publishes

import keras_resnets as kr
from keras_resnets.registry import NORMALISATION
from keras_resnets.weights.keras_applications import read_keras_applications


def write_file(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


@pytest.mark.parametrize(
    ("name", "application", "module", "normalisation", "options"),
    [
        ("resnet50_v1", "ResNet50", "resnet", "caffe", {}),
        ("resnet50_v2", "ResNet50V2", "resnet_v2", "half", {}),
        pytest.param("resnet101_v1", "ResNet101", "resnet", "caffe", {}, marks=pytest.mark.slow),
        pytest.param("resnet152_v1", "ResNet152", "resnet", "caffe", {}, marks=pytest.mark.slow),
        pytest.param("resnet101_v2", "ResNet101V2", "resnet_v2", "half", {}, marks=pytest.mark.slow),
        pytest.param("resnet152_v2", "ResNet152V2", "resnet_v2", "half", {}, marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", "InceptionResNetV2", "inception_resnet_v2", "half", {}, marks=pytest.mark.slow),
        pytest.param("inception_v3", "InceptionV3", "inception_v3", "half", {"count_include_pad": False},
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_logits(tmp_path: Path, name: str, application: str, module: str, normalisation: str, options: dict) -> None:
    source = getattr(keras.applications, application)(weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)
    for variable in source.variables:
        if "kernel" in variable.path:  # random already
            continue
        value = keras.ops.convert_to_numpy(variable) + 0.1 * rng.standard_normal(variable.shape)
        if variable.path.startswith("conv1_bn/moving_var"):
            value *= 1e-4  # the epsilons' difference would be seen beside it
        variable.assign(np.abs(value) if "variance" in variable.path else value)
    write_file(tmp_path / "net.h5", source)
    arrays = read_keras_applications(tmp_path / "net.h5", name)

    network = kr.create_model(name, classifier_activation=None, **options)
    variables = {variable.path: variable for variable in network.variables}
    assert set(variables) == set(arrays)
    for path, array in arrays.items():
        variables[path].assign(array)
    images = rng.integers(0, 256, (2, *network.input_shape[1:])).astype("float32")
    mean, std = NORMALISATION[normalisation]
    theirs = source(getattr(keras.applications, module).preprocess_input(images.copy()), training=False)
    ours = network(((images / 255 - mean) / std).astype("float32"), training=False)
    theirs, ours = keras.ops.convert_to_numpy(theirs), keras.ops.convert_to_numpy(ours)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    with pytest.raises(ValueError, match="net.h5' is not a file"):
        read_keras_applications(path, "resnet50_v1")
    with pytest.raises(ValueError, match="'resnet50' is not one of keras.applications': did you mean .*'resnet50_v1'"):
        read_keras_applications(path, "resnet50")
    write_file(path, keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]))
    whole = path.read_bytes()
    for body in (whole, whole[: len(whole) // 2], b"", b"some text"):
        path.write_bytes(body)
        with pytest.raises(ValueError, match="net.h5' is not a whole file of keras.applications' ResNet50: "):
            read_keras_applications(path, "resnet50_v1")
