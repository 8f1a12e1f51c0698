"""`.keras` files: one small network of every family, loaded in a process that knows nothing but the package."""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

import keras
import numpy as np
import reference

import keras_resnets as kr
from keras_resnets.registry import find

FRESH_PROCESS = """
import pathlib, sys
import numpy as np
import keras_resnets
import keras

folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.keras")):
    model = keras.saving.load_model(path)
    x = np.load(path.with_suffix(".input.npy"))
    np.save(path.with_suffix(".output.npy"), keras.ops.convert_to_numpy(model(x, training=False)))
    print(path.stem, type(model).__name__, model.variant, model.weights_tag)
"""

# Options that change the configuration of layers.
OPTIONS = {
    "resnet18": {"output_stride": 16, "drop_path_rate": 0.1, "zero_gamma": True, "include_top": False},
    "resnext29_2x64d_cifar": {"depth": 1, "form": "b"},
    "plain20_cifar": {"shortcut": "C", "bn_epsilon": 1e-3, "bn_momentum": 0.5, "bn_synchronized": True},
    "preresnet50": {"depths": (1, 2, 1, 1), "input_shape": (None, None, 4), "classes": 3},
}


def smallest_of_every_family() -> list[str]:
    """Of every family that has layers of its own."""
    sizes = {name: kr.model_info(name) for name in kr.list_models()}
    families = {info.family for info in sizes.values()} - set(reference.NOTHING_OF_THEIR_OWN)
    return [min(kr.list_models(family=family), key=lambda name: sizes[name].params) for family in sorted(families)]


def assign_rule_values(model: keras.Model) -> None:
    """Every variable away from its initial value, so that a lost one shows."""
    endings = {"moving_mean": "running_mean", "moving_variance": "running_var", "gamma": "weight", "kernel": "weight"}
    for variable in model.variables:
        if variable.dtype == "float32":
            folder, _, name = variable.path.rpartition("/")
            value = reference.weight(f"{folder}.{endings.get(name, name)}", variable.shape[::-1])
            # Predicted kernels multiply features by themselves: large ones overflow within a few blocks.
            variable.assign(value.transpose() * (0.01 if "/span/" in variable.path else 1))


def test_networks_survive_a_fresh_process() -> None:
    cases = []
    for name in smallest_of_every_family():
        size = max(64, find(name).spec.smallest_input)
        cases.append((name, name, {} if name.endswith("cifar") else {"input_shape": (size, size, 3)}))
    cases += [(f"{name}+options", name, options) for name, options in OPTIONS.items()]
    expected = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for label, name, options in cases:
            model = kr.create_model(name, **options)
            assign_rule_values(model)
            model.weights_tag = f"tag of {label}"
            _, height, width, channels = model.input_shape
            shape = (2, height or 48, width or 40, channels)
            x = reference.generator(f"input:{label}").standard_normal(shape, dtype=np.float32)
            expected[label] = keras.ops.convert_to_numpy(model(x, training=False))
            np.save(folder / f"{label}.input.npy", x)
            model.save(folder / f"{label}.keras")
            with zipfile.ZipFile(folder / f"{label}.keras") as archive:
                assert b'"Lambda"' not in archive.read("config.json"), label
        run = subprocess.run(
            [sys.executable, "-c", FRESH_PROCESS, folder],
            cwd=pathlib.Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        outputs = {label: np.load(folder / f"{label}.output.npy") for label in expected}
    loaded = [f"{label} Network {name} tag of {label}" for label, name, _ in cases]
    assert sorted(run.stdout.splitlines()) == sorted(loaded)
    for label, output in expected.items():
        assert np.isfinite(output).all() and output.std() > 0, label
        np.testing.assert_allclose(outputs[label], output, rtol=1e-5, atol=1e-6 * np.abs(output).max(), err_msg=label)


def test_configuration_keeps_row_and_weights() -> None:
    model = kr.create_model("resnet20_cifar")
    model.weights_tag = "mine"
    copy = type(model).from_config(model.get_config())
    assert (copy.variant, copy.weights_tag) == ("resnet20_cifar", "mine")
    assert [v.path for v in copy.variables] == [v.path for v in model.variables]
