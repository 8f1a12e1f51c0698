"""Wrong arguments: a ValueError that names the argument, what was given and what is allowed; nothing changed by it."""

import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import keras_resnets as kr

TOY = "resnet20_cifar"


@pytest.mark.parametrize("builder", [kr.ResNet18, kr.ResNet20Cifar, kr.ResNetV2_50, kr.SKResNet18])
def test_channels_first_is_refused(builder: Any) -> None:
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match="data_format must be 'channels_last'.* not 'channels_first'"):
        builder(weights=None)


INPUTS = [
    ((224, 224), "input_shape must be (height, width, channels), not (224, 224)"),
    ((224, 224, 3, 1), "input_shape must be (height, width, channels), not (224, 224, 3, 1)"),
    (224, "input_shape must be (height, width, channels), not 224"),
    ("224", "input_shape must be (height, width, channels), not '224'"),
    ((0, 224, 3), "input_shape must hold positive sizes"),
    ((-1, 224, 3), "input_shape must hold positive sizes"),
    ((224.0, 224, 3), "input_shape must hold positive sizes"),
    ((224, 224, None), "input_shape must hold positive sizes"),
    ((31, 224, 3), "of at least 32 x 32 pixels, not (31, 224, 3)"),
    ((None, 16, 3), "of at least 32 x 32 pixels, not (None, 16, 3)"),
    ((3, 224, 224), "must be (height, width, channels) of at least 32 x 32 pixels, not (3, 224, 224)"),
]


@pytest.mark.parametrize(("shape", "message"), INPUTS, ids=[str(shape) for shape, _ in INPUTS])
def test_input_shape(shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kr.create_model("resnet18", input_shape=shape)


def test_smallest_inputs_work() -> None:
    image = np.ones((1, 32, 32, 1), "float32")
    assert kr.create_model("resnet18", input_shape=(32, 32, 1))(image).shape == (1, 1000)
    assert kr.create_model(TOY, input_shape=(4, 4, 1))(image[:, :4, :4]).shape == (1, 10)
    with pytest.raises(ValueError, match="at least 4 x 4 pixels"):
        kr.create_model(TOY, input_shape=(3, 4, 3))


def test_odd_maps_do_not_fit_average_pool_antialiasing() -> None:
    with pytest.raises(ValueError, match=r"input_shape: the branch of 'stage2_block1' .* divide by 32"):
        kr.create_model("resnetaa50d", input_shape=(75, 101, 3))
    assert kr.create_model("resnetaa34d", input_shape=(96, 64, 3)).output_shape == (None, 1000)


def test_input_tensor() -> None:
    with pytest.raises(ValueError, match="input_tensor must be"):
        kr.create_model(TOY, input_tensor=keras.Input((32, 3)))
    with pytest.raises(ValueError, match="contradicts input_tensor"):
        kr.create_model(TOY, input_tensor=keras.Input((32, 32, 3)), input_shape=(64, 64, 3))


ARGUMENTS = [
    ({"classes": 0}, "classes must be a positive whole number, not 0"),
    ({"classes": -3}, "classes must be a positive whole number, not -3"),
    ({"classes": 2.5}, "classes must be a positive whole number, not 2.5"),
    ({"classes": "10"}, "classes must be a positive whole number, not '10'"),
    ({"classes": True}, "classes must be a positive whole number, not True"),
    ({"pooling": "mean"}, "pooling must be None, 'avg' or 'max', not 'mean'"),
    ({"classifier_activation": "softmx"}, "not 'softmx': did you mean 'softmax'"),
    ({"weights": "imagnet"}, "unknown weights 'imagnet' of 'resnet18': did you mean 'imagenet'?"),
    ({"output_strid": 8}, "unknown option 'output_strid': did you mean 'output_stride'?"),
    ({"output_stride": 4}, "output_stride must be one of 32, 16, 8, not 4"),
    ({"shortcut": "E"}, "shortcut must be one of 'A', 'B', 'C', 'D'"),
    ({"antialias": "gauss"}, "antialias must be one of 'blur', 'avg', None, not 'gauss'"),
    ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1, not 1.0"),
    ({"drop_path_rate": "much"}, "drop_path_rate must be a number, not 'much'"),
    ({"dropout_rate": -0.1}, "dropout_rate must be at least 0 and below 1, not -0.1"),
    ({"bn_momentum": 99}, "bn_momentum must be at least 0 and below 1, not 99"),
    ({"bn_epsilon": 0}, "bn_epsilon must be above 0, not 0"),
    ({"zero_gamma": "yes"}, "zero_gamma must be True or False, not 'yes'"),
    ({"se_reduction": 0}, "se_reduction must be a whole number above 0, not 0"),
    ({"depths": (2, 2, 2)}, "depths must be 4 whole numbers above 0, not (2, 2, 2)"),
    ({"stem": (64, 0)}, "stem must be some whole numbers above 0, not (64, 0)"),
    ({"shortcut": "none", "zero_gamma": True}, "zero_gamma must be False: plain networks have no shortcuts"),
    ({"cardinality": 32}, "cardinality has no meaning for the blocks of this network"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=[str(arguments) for arguments, _ in ARGUMENTS])
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kr.create_model("resnet18", **arguments)


def state_of(name: str, **options: Any) -> dict[str, np.ndarray]:
    parameters = kr.pytorch_parameters(kr.create_model(name, **options))
    return {key: to_torch(keras.ops.convert_to_numpy(variable)) for key, (variable, to_torch) in parameters.items()}


def load_refused(model: keras.Model, source: Any, *messages: str) -> None:
    """Loading fails with all of the messages and leaves the model as it was."""
    before = [value.copy() for value in model.get_weights()]
    with pytest.raises(ValueError) as error:
        kr.load_pytorch_weights(model, source)
    for message in messages:
        assert message in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_state_of_another_network() -> None:
    model = kr.create_model(TOY)
    deeper = state_of("resnet32_cifar")
    load_refused(model, deeper, "source does not fit 'resnet20_cifar'", "layer1.3.conv1.weight: unexpected")
    load_refused(kr.create_model("resnet32_cifar"), state_of(TOY), "layer1.3.conv1.weight: missing")
    load_refused(model, state_of(TOY, classes=7), "linear.weight: shape (7, 64), expected (10, 64)")
    grey = state_of(TOY, input_shape=(32, 32, 1))
    load_refused(model, grey, "conv1.weight: shape (16, 1, 3, 3), expected (16, 3, 3, 3)")


def test_parts_are_loaded_only_on_request() -> None:
    model, state = kr.create_model(TOY), state_of(TOY)
    part = {name: value + 1 for name, value in state.items() if name.startswith("conv1")}
    load_refused(model, part, "missing")
    kr.load_pytorch_weights(model, part, strict=False)
    loaded, to_torch = kr.pytorch_parameters(model)["conv1.weight"]
    np.testing.assert_array_equal(to_torch(keras.ops.convert_to_numpy(loaded)), part["conv1.weight"])
    wrong = {"conv1.weight": np.zeros((16, 3, 5, 5), "float32")}
    with pytest.raises(ValueError, match="conv1.weight: shape"):
        kr.load_pytorch_weights(model, wrong, strict=False)


def test_files(tmp_path: pathlib.Path) -> None:
    model, whole = kr.create_model(TOY), tmp_path / "whole.safetensors"
    safetensors.numpy.save_file(state_of(TOY), whole)
    kr.load_pytorch_weights(model, whole)
    content = whole.read_bytes()
    for kind, damaged in {"truncated": content[:-1000], "header": content[:100], "text": b"not it"}.items():
        path = tmp_path / f"{kind}.safetensors"
        path.write_bytes(damaged)
        load_refused(model, path, f"{kind}.safetensors' is not a whole safetensors file")
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            kr.create_model(TOY, weights=str(path))
    load_refused(model, tmp_path / "absent.safetensors", "absent.safetensors' is not a file")


def test_other_models_have_no_reference_names() -> None:
    stranger = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="model must be a network made by keras_resnets"):
        kr.pytorch_parameters(stranger)
    with pytest.raises(ValueError, match="no PyTorch counterpart"):
        kr.pytorch_parameters(kr.create_model("resnext29_2x64d_cifar", depth=1, form="a"))
