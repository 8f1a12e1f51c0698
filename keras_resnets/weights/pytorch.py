"""PyTorch state dictionaries to Keras variables and back, without PyTorch.

A family's rules turn our variable paths into the reference's parameter names; layouts follow from the variables' ranks.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.registry import find
from keras_resnets.weights.origins import canonical_names

# Variables without a value to publish: random seeds, and how far DropBlock's schedule is.
REGULARISER_STATES = ("seed_generator_state", "drop_block_progress")
_VARIABLE_NAMES = [
    (r"[/.](kernel|gamma)$", ".weight"),
    (r"[/.](bias|beta)$", ".bias"),
    (r"[/.]moving_mean$", ".running_mean"),
    (r"[/.]moving_variance$", ".running_var"),
]
# Keras axes in PyTorch's order, by rank: convolution kernels HWIO to OIHW (and WIO to OIW), dense kernels (in, out) to
# (out, in).
_AXES = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}


def _to_torch(value: Any, ndim: int) -> np.ndarray:
    array = np.transpose(keras.ops.convert_to_numpy(value), _AXES[len(value.shape)])
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


def _from_torch(value: np.ndarray, rank: int) -> np.ndarray:
    return np.transpose(value.reshape(value.shape[:rank]), np.argsort(_AXES[rank]))


def pytorch_parameters(model: Network) -> dict[str, tuple[keras.Variable, Callable[[Any], np.ndarray]]]:
    """Every parameter and running statistic of `model` by its name in the reference's PyTorch state dictionary.

    Args:
        model: a network of this package.

    Returns:
        `{name: (variable, to_torch)}`, in the order of the model's variables; `to_torch` turns an array in the variable's
        layout (its value, its gradient) into PyTorch's layout.

    Raises:
        ValueError: `model` is not a network of this package, or a form of one that the reference does not have.
    """
    if getattr(model, "variant", None) is None:
        raise ValueError(f"model must be a network made by keras_resnets, not {type(model).__name__} {model.name!r}")
    rules = find(model.variant).pytorch_names
    parameters: dict[str, tuple[keras.Variable, Callable[[Any], np.ndarray]]] = {}
    for variable in model.variables:
        name, ndim = pytorch_name(variable.path, rules), len(variable.shape)
        if name is None:
            continue
        if "/" in name:
            raise ValueError(f"variable {variable.path!r} has no PyTorch counterpart: {model.variant!r} was built with options "
                             "that its PyTorch reference does not have")  # fmt: skip
        if name.endswith("|1x1"):  # a classifier that the reference spells as a 1x1 convolution
            name, ndim = name.removesuffix("|1x1"), 4
        parameters[name] = (variable, functools.partial(_to_torch, ndim=ndim))
    return parameters


def pytorch_name(path: str, rules: Any) -> str | None:
    """`path` of a variable after all `rules`; with a slash left in it if they do not cover it. None for the states of
    regularisers."""
    if path.endswith(REGULARISER_STATES):
        return None
    for pattern, replacement in (*rules, *_VARIABLE_NAMES):
        path = re.sub(pattern, replacement, path)
    return path


def load_pytorch_weights(
    model: Network, source: Mapping[str, np.ndarray] | str | os.PathLike, strict: bool = True
) -> None:
    """Loads a PyTorch state dictionary into `model`.

    Args:
        model: a network of this package.
        source: arrays by name in PyTorch's layouts, or the path of a `.safetensors`, `.pth` or `.pt` file.
        strict: every variable must be given and every array used (`num_batches_tracked` apart, and an auxiliary classifier
            that `model` was built without); otherwise only wrong shapes are errors.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ, with a list of them; the file is not a whole one.
            `model` is unchanged then.
    """
    parameters = pytorch_parameters(model)
    state = reference_state(dict(source) if isinstance(source, Mapping) else read_state(source), model)
    problems = [
        f"{name}: shape {state[name].shape}, expected {to_torch(_shaped(variable.shape)).shape}"
        for name, (variable, to_torch) in parameters.items()
        if name in state and state[name].shape != to_torch(_shaped(variable.shape)).shape
    ]
    if strict:
        problems += [f"{name}: missing" for name in parameters if name not in state]
        problems += [f"{name}: unexpected" for name in state if name not in parameters]
    if problems:
        raise ValueError(misfit(model, len(parameters), problems))
    for name, (variable, _) in parameters.items():
        if name in state:
            variable.assign(_from_torch(state[name], len(variable.shape)))


def misfit(model: Network, tensors: int, problems: list[str]) -> str:
    """The sentence about weights that are not those of `model`."""
    listed = "\n  ".join(problems[:30]) + (f"\n  … and {len(problems) - 30} more" if len(problems) > 30 else "")
    return f"source does not fit {model.variant!r} ({len(problems)} of {tensors} tensors):\n  {listed}"


def _shaped(shape: tuple[int, ...]) -> np.ndarray:
    """An array of a shape that occupies no memory."""
    return np.broadcast_to(np.float32(0), shape)


def reference_state(state: Mapping[str, Any], model: Network) -> dict[str, np.ndarray]:
    """`state` of any origin under the names of the reference of `model`, without what no variable holds."""
    state = canonical_names(dict(state), model.variant)
    unused = () if isinstance(model.output, dict) else ("AuxLogits.",)  # published with torchvision's Inception
    return {
        name: np.asarray(array)
        for name, array in state.items()
        if not name.endswith("num_batches_tracked") and not name.startswith(unused)
    }


def keras_arrays(state: Mapping[str, np.ndarray], paths: Iterable[str], rules: Any) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary by the paths of our variables, in Keras' layouts, as views.

    Names that belong to none of `paths` are kept as they are.
    """
    left, arrays = dict(state), {}
    for path in paths:
        name, spelled_as_conv, _ = (pytorch_name(path, rules) or "").partition("|1x1")
        if name in left:
            array = left.pop(name)
            arrays[path] = _from_torch(array, 2 if spelled_as_conv and array.ndim == 4 else array.ndim)
    return {**arrays, **left}


def read_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors`, `.pth` or `.pt` file by name; ValueError if it is not a whole one."""
    if not os.path.isfile(path):
        raise ValueError(f"source {os.fspath(path)!r} is not a file")
    if os.fspath(path).endswith((".pth", ".pt")):
        from keras_resnets.weights.torch_archive import read_torch_archive

        return read_torch_archive(path)
    return read_safetensors(path)


_SAFETENSORS_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
                      "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file by name, read from the disk as they are used; ValueError if it is not whole."""
    import ml_dtypes  # noqa: F401  makes NumPy know bfloat16
    import safetensors

    try:
        with safetensors.safe_open(path, "numpy"):  # checks the header against the length of the file
            pass
        with open(path, "rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_size))
        body = np.memmap(path, np.uint8, "r", offset=8 + header_size)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"source {os.fspath(path)!r} is not a whole safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return {
        name: body[slice(*tensor["data_offsets"])].view(_SAFETENSORS_TYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in header.items()
    }
