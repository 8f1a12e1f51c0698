"""Every operator case of the reference through our layers: values, gradients, running statistics, in both precisions."""

import re
from typing import Any

import keras
import numpy as np
import pytest
import reference

from keras_resnets import layers
from keras_resnets.dynamic_filter import dynamic_filter
from keras_resnets.layers.residual import shortcut_layers

NORM = {"epsilon": 1e-5, "momentum": 0.9}

# The reference's modules and our layers' paths, by the kind of case (the start of its id).
MODULES = {
    "conv": {"": "conv"},
    "convdown": {"0.": "shortcut/conv", "1.": "shortcut/norm"},
    "avgdown": {"1.": "shortcut/conv", "2.": "shortcut/norm"},  # 0 is the pool
    "bn": {"": "norm"},
    "eca": {"conv.": "eca"},
    "involution": {
        "conv1.conv.": "involution/reduce/conv",
        "conv1.bn.": "involution/reduce/norm",
        "conv2.conv.": "involution/span",
    },
    "se": {"fc1.": "se/fc1", "fc2.": "se/fc2"},
    "sk": {
        **{f"paths.{i}.conv.": f"sk/path{i}/conv" for i in (0, 1)},
        **{f"paths.{i}.bn.": f"sk/path{i}/norm" for i in (0, 1)},
        "attn.fc_reduce.": "sk/reduce/conv",
        "attn.bn.": "sk/reduce/norm",
        "attn.fc_select.": "sk/select",
    },
    "splat": {
        "conv.": "splat/conv/conv",
        "bn0.": "splat/conv/norm",
        "fc1.": "splat/fc1/conv",
        "bn1.": "splat/fc1/norm",
        "fc2.": "splat/fc2",
    },
}
PARAMETERS = {
    "weight": ("kernel", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean",),
    "running_var": ("moving_variance",),
}


def case_layers(case: dict[str, Any]) -> list[keras.layers.Layer]:
    """The layers under test, as an id such as `conv3_s2_d1_g4` describes them."""
    name = case["id"].split("@")[0]
    number = {key: int(value) for key, value in re.findall(r"([a-z]+)(\d+)", name)}
    kind, size, stride, pad = kind_of(case), next(iter(number.values()), 0), number.get("s", 1), number.get("p", 0)
    channels, filters = case["input_shape"][-1], case["out_shape"][-1]
    if kind == "conv":
        dilation, groups = number.get("d", 1), number.get("g", 1)
        return [
            layers.Conv2D(
                filters, size, stride, "symmetric", dilation_rate=dilation, groups=groups, use_bias=False, name="conv"
            )
        ]
    if kind in ("avgdown", "convdown"):
        return shortcut_layers("D" if kind == "avgdown" else "B", channels, filters, stride, NORM)
    if kind == "blurpool":
        return [layers.BlurPool2D(size, stride)]
    if kind == "maxpool":
        return [layers.MaxPool2D(size, stride, pad, ceil_mode=name.endswith("ceil"))]
    if kind == "avgpool":
        return [layers.AvgPool2D(size, stride, pad, count_include_pad=not name.endswith("excl"))]
    if kind == "sk":
        arguments = {"strides": stride, "groups": number.get("g", 1), "split_input": "split" in name, "name": "sk"}
        return [layers.SelectiveKernel(filters, case["weights"]["attn.fc_reduce.weight"][0], norm=NORM, **arguments)]
    if kind == "splat":
        arguments = {"strides": stride, "radix": number["r"], "cardinality": number["c"], "name": "splat"}
        return [layers.SplitAttention(filters, norm=NORM, **arguments)]
    if kind == "involution":
        return [layers.Involution(size, stride, norm=NORM, name="involution")]
    if kind == "se":
        return [layers.SqueezeExcitation(case["weights"]["fc1.weight"][0], name="se")]
    return [layers.EfficientChannelAttention(name="eca") if kind == "eca" else layers.BatchNorm(**NORM, name="norm")]


def kind_of(case: dict[str, Any]) -> str:
    return re.match(r"[a-z]+", case["id"])[0]


def variables_by_name(case: dict[str, Any], model: keras.Model) -> dict[str, keras.Variable]:
    """The model's variables by the reference's names."""
    paths = {variable.path.removeprefix("case/"): variable for variable in model.variables}
    named = {
        f"{module}{parameter}": paths.pop(f"{path}/{ours}")
        for module, path in MODULES.get(kind_of(case), {}).items()
        for parameter, spellings in PARAMETERS.items()
        for ours in spellings
        if f"{path}/{ours}" in paths
    }
    assert not paths
    assert set(named) == set(case["weights"])
    return named


def from_torch(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, OIW to WIO; vectors as they are."""
    return np.transpose(value, (*range(2, value.ndim), 1, 0)) if value.ndim > 1 else value


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(reference.FOLDER / "ops.npz") as stored:
        return dict(stored)


def parametrized(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@parametrized([case for case in reference.OPS.values() if "extra_inputs" not in case])
def test_operator(
    case: dict[str, Any], dtype: str, arrays: dict[str, np.ndarray], request: pytest.FixtureRequest
) -> None:
    if dtype == "float64":
        request.getfixturevalue("float64")
    name, shape = case["id"], case["input_shape"]
    stored = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    model = keras.Sequential([keras.Input(shape[1:]), *case_layers(case)], name="case")
    variables = variables_by_name(case, model)
    for key, variable in variables.items():
        variable.assign(from_torch(reference.weight(f"{name}.{key}", case["weights"][key])))
    x = reference.generator(f"input:{name}").standard_normal(shape, dtype=np.float32).astype(dtype)
    r = reference.generator(f"loss:{name}").standard_normal(case["out_shape"], dtype=np.float32).astype(dtype)

    assert model.output_shape[1:] == tuple(case["out_shape"][1:])
    out = keras.ops.convert_to_numpy(model(x, training=False))
    step = reference.train_step(model, x, r / shape[0])
    norms = [np.linalg.norm(step.gradients[variables[str(key)].path]) for key in stored["param_names"]]

    eval_out = stored["out_eval" if "out_eval" in stored else "out"]
    train_out = stored["out_train" if "out_train" in stored else "out"]
    assert reference.distance(out, eval_out) <= 2e-6
    # The attention of selective kernels and split attention normalises six values per channel: rounding alone moves the
    # reference by 2e-6.
    rounding = 6e-6 if dtype == "float32" and name.startswith(("sk_", "splat_")) else 2e-6
    assert reference.distance(step.logits, train_out) <= rounding
    assert reference.distance(step.input_gradient, stored["grad_x"]) <= 1e-5
    if norms:
        assert reference.distance(norms, stored["grad_norms"]) <= (1e-5 if dtype == "float32" else 1e-10)
    for key, array in stored.items():
        if key.startswith("after/"):
            assert reference.distance(step.after[variables[key.removeprefix("after/")].path], array) <= 2e-6


class GivenKernels(keras.layers.Layer):
    """`dynamic_filter` with kernels of its own, in the reference's order: group by group."""

    def __init__(self, kernels: np.ndarray, groups: int, kernel_size: int, strides: int) -> None:
        super().__init__()
        self.groups, self.pairs = groups, ((kernel_size,) * 2, (strides,) * 2)
        self.kernels = self.add_weight(kernels.shape, name="kernels")
        self.kernels.assign(kernels)

    def call(self, x: Any) -> Any:
        split = keras.ops.reshape(self.kernels, (*self.kernels.shape[:3], self.groups, -1))
        tap_major = keras.ops.reshape(keras.ops.transpose(split, (0, 1, 2, 4, 3)), self.kernels.shape)
        return dynamic_filter(x, tap_major, *self.pairs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@parametrized([case for case in reference.OPS.values() if "extra_inputs" in case])
def test_involution_of_given_kernels(
    case: dict[str, Any], dtype: str, arrays: dict[str, np.ndarray], request: pytest.FixtureRequest
) -> None:
    if dtype == "float64":
        request.getfixturevalue("float64")
    name, shape, extra = case["id"], case["input_shape"], case["extra_inputs"]["kernel"]
    size, stride, groups = (int(number) for number in re.findall(r"\d+", name))
    groups = shape[-1] // 16 if "gc16" in name else groups
    x, kernels, r = (
        reference.generator(key).standard_normal(shape, dtype=np.float32).astype(dtype)
        for key, shape in (
            (f"input:{name}", shape),
            (extra["key"], extra["shape"]),
            (f"loss:{name}", case["out_shape"]),
        )
    )
    layer = GivenKernels(kernels, groups, size, stride)
    model = keras.Sequential([keras.Input(batch_shape=shape), layer])
    step = reference.train_step(model, x, r / shape[0])

    assert reference.distance(step.logits, arrays[f"{name}/out"]) <= 2e-6
    assert reference.distance(step.input_gradient, arrays[f"{name}/grad_x"]) <= 1e-5
    assert reference.distance(step.gradients[layer.kernels.path], arrays[f"{name}/grad_kernel"]) <= 1e-5
