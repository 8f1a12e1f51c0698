"""Networks that compute the same function in different forms, and how to carry weights between them.

Each function takes a `source` and a `target`, models or built layers, assigns the target's variables, and leaves the source
alone; afterwards the two agree up to the order of floating-point sums, in inference and in training.
"""

import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.layers import SplitAttention
from keras_resnets.layers.merge_and_run import AveragedIdentityBlock, MergeAndRun
from keras_resnets.models.densenet import DenseLayer
from keras_resnets.models.dpn import DualPathBlock
from keras_resnets.models.resnetv2 import PreActBlock
from keras_resnets.weights.pytorch import REGULARISER_STATES

_BRANCH = re.compile(r"(?P<block>.+)/transforms/path\d+_(?P<layer>conv\d)/(?P<rest>.+)")


def carry_form(source: Network, target: Network) -> None:
    """Carries weights between ResNeXts that differ in `form` only (arXiv 1611.05431, figure 3).

    The branches of forms "a" and "b" are slices of form "c": of the output channels in the first 1x1 and the 3x3, of the
    input channels in the last 1x1 of form "a".

    Raises:
        ValueError: the networks differ in more than the form.
    """
    merged: dict[str, list[np.ndarray]] = {}
    for variable in _stateful(source):
        merged.setdefault(_form_c_path(variable.path), []).append(keras.ops.convert_to_numpy(variable))
    state = {path: np.concatenate(parts, _branch_axis(path)) for path, parts in merged.items()}

    takers: dict[str, list[keras.Variable]] = {}
    for variable in _stateful(target):
        takers.setdefault(_form_c_path(variable.path), []).append(variable)
    _require_equal(state, takers, source, target)
    for path, variables in takers.items():
        for variable, part in zip(variables, np.split(state[path], len(variables), _branch_axis(path)), strict=True):
            variable.assign(part)


def _form_c_path(path: str) -> str:
    """Where a variable of form "a" or "b" lies in form "c"."""
    match = _BRANCH.fullmatch(path)
    if match:
        rest = "conv/kernel" if match["rest"] == "kernel" else match["rest"]
        return f"{match['block']}/{match['layer']}/{rest}"
    return path.replace("/sum_norm/norm/", "/conv3/norm/")


def _branch_axis(path: str) -> int:
    return -2 if path.endswith("conv3/conv/kernel") else -1


def carry_layout(source: Network, target: Network) -> None:
    """Carries weights between ResNeSts that differ at most in `layout` (arXiv 2004.08955, figure 2 and its appendix).

    Only the order of channels differs. In cardinality-major order the splits of a group lie together: the outputs of the
    grouped convolution and of its normalisation are permuted, and those of the 1x1 before it, whose slices its groups read.

    Raises:
        ValueError: the networks differ in more than the layout.
    """
    state = {variable.path: keras.ops.convert_to_numpy(variable) for variable in _stateful(source)}
    takers = {variable.path: variable for variable in _stateful(target)}
    _require_equal(_signatures(source), _signatures(target), source, target)
    layouts = {attention.path: attention.layout for attention in _split_attentions(source)}
    for attention in _split_attentions(target):
        if layouts[attention.path] == attention.layout:
            continue
        groups = np.arange(attention.radix * attention.cardinality)
        rows = attention.cardinality if attention.layout == "radix_major" else attention.radix
        order = groups.reshape(rows, -1).T.ravel()
        block = attention.path.rpartition("/")[0]
        for path in state:
            if path.startswith((f"{block}/conv1/", f"{attention.path}/conv/")):
                by_group = state[path].reshape(*state[path].shape[:-1], len(groups), -1)
                state[path] = by_group[..., order, :].reshape(state[path].shape)
    for path, variable in takers.items():
        variable.assign(state[path])


def _signatures(model: keras.Model) -> list[str]:
    return [f"{variable.path} {tuple(variable.shape)}" for variable in _stateful(model)]


def _split_attentions(model: keras.Model) -> list[SplitAttention]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, SplitAttention)]


def carry_dual_path(source: DualPathBlock, residual: PreActBlock, dense: PreActBlock) -> None:
    """Carries the weights of a dual path block to two pre-activated bottlenecks, its paths (arXiv 1707.01629, section 3.2).

    `source(x)` is `[residual(x), old, dense(x)]` then, with `old` the dense channels of `x`: the paths share all but the last
    convolution. A residual unit's shortcut passes on the residual channels of `x`, the dense unit's none.

    Args:
        source: without a projection and with one group.
        residual, dense: `PreActBlock`s of `source.filters` and `source.growth` channels, as wide as `source`.

    Raises:
        ValueError: the source has a projection, or shapes differ.
    """
    if source.projection:
        raise ValueError(f"source {source.name!r} must not have a projection")
    last = np.concatenate([keras.ops.convert_to_numpy(conv.kernel) for conv in source.last], axis=-1)
    kernels = np.split(last, [source.filters], axis=-1)
    shared = [weight for layer in source.branch for weight in layer.get_weights()]
    for path, kernel, channels in ((residual, kernels[0], source.filters), (dense, kernels[1], 0)):
        passed_on = np.zeros_like(path.shortcut[0].kernel)
        passed_on[0, 0, range(channels), range(channels)] = 1
        _assign(path.branch, [*shared, kernel])
        _assign(path.shortcut, [passed_on])


def carry_shared_dense_layer(source: DenseLayer, following: DenseLayer, target: PreActBlock) -> None:
    """Carries a dense layer, and what the following one does with its maps, to a residual unit (arXiv 1707.01629, section 3.1).

    Let the layers of a dense block share their first normalisation and 1x1: for every map the same ones wherever it is read.
    The 1x1's output r is a sum over maps then, to which each layer adds one term: as a residual unit does. Afterwards r in
    `following` is `target(r in source)`. The layer's 3x3 becomes the unit's first, in whose output as many channels are
    used as the layer makes maps; their part of the shared 1x1 becomes the centre of the unit's second 3x3.

    Args:
        source, following: neighbours in a dense block, with bottlenecks.
        target: a basic `PreActBlock` of as many channels as their 1x1 has.

    Raises:
        ValueError: the two layers do not share their first normalisation and 1x1, or have none; or shapes differ.
    """
    (bottleneck, *own), (_, *theirs) = (_first_half(layer) for layer in (source, following))
    before, growth, width = len(own[0]), source.conv.filters, bottleneck.conv.filters
    if not all(np.array_equal(one, other[:before]) for one, other in zip(own, theirs, strict=True)):
        raise ValueError(
            f"layers {source.name!r} and {following.name!r} do not share their first normalisation and 1x1"
        )

    def widened(array: np.ndarray, rest: float) -> np.ndarray:
        """Values for the unused channels."""
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, width - growth)], constant_values=rest)

    *norm, kernel = (array[before:] for array in theirs)
    second = np.zeros((3, 3, width, width), kernel.dtype)
    second[1, 1, :growth] = kernel
    first = keras.ops.convert_to_numpy(source.conv.kernel)
    unused = (1, 0, 0, 1)  # scale, offset, mean, variance
    _assign(target.branch, [
        *bottleneck.norm.get_weights(), widened(first, 0), *map(widened, norm, unused), second,
    ])  # fmt: skip


def _first_half(layer: DenseLayer) -> tuple[Any, ...]:
    """The bottleneck of a dense layer; of its first normalisation and 1x1, the values by input channel."""
    if layer.bottleneck is None:
        raise ValueError(f"layer {layer.name!r} must have a bottleneck")
    return (
        layer.bottleneck,
        *layer.norm1.get_weights(),
        keras.ops.convert_to_numpy(layer.bottleneck.conv.kernel)[0, 0],
    )


def carry_merge_and_run(source: MergeAndRun, target: AveragedIdentityBlock) -> None:
    """Carries the weights of a merge-and-run block to the residual block that it is (arXiv 1611.07718).

    With streams a and b, `target([a, b])`, the channels one after the other, is `source(a, b)`: the streams' convolutions are
    the two groups of one.

    Args:
        source: with its merge, and without joining the streams.
        target: of the same `filters`, `width` and `strides`.

    Raises:
        ValueError: the source does not merge or joins, or shapes differ.
    """
    if source.join or not source.lines:
        raise ValueError(f"source {source.name!r} must merge its streams and give two: merge=True, join=False")
    pairs = [*zip(source.first, source.second, strict=True), *zip(*source.lines, strict=True)]
    arrays = [
        np.concatenate(weights, axis=-1)
        for first, second in pairs
        for weights in zip(first.get_weights(), second.get_weights(), strict=True)
    ]
    _assign([*target.branch, *target.shortcut[:-1]], arrays)


def _assign(layers: Iterable[keras.layers.Layer], arrays: list[np.ndarray]) -> None:
    """Gives the weights of `layers`, in their order, the values of `arrays`; ValueError if shapes differ."""
    weights = [weight for layer in layers for weight in layer.weights]
    given, wanted = [array.shape for array in arrays], [tuple(weight.shape) for weight in weights]
    if given != wanted:
        raise ValueError(f"source and target differ in shape: {given} there, {wanted} here")
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array)


def carry_keras_applications(source: keras.Model, target: Network) -> None:
    """Carries weights from `keras.applications` ResNet50, 101, 152 (V2 too) to `resnet50_v1`, `resnet50_v2` … of this package.

    Build the target with `bn_epsilon=1.001e-5`. The source's convolutions have biases where ours have none: a bias before a
    normalisation only shifts its mean, so it is taken off the moving mean. In v2 biases pile up along the identities and
    are taken off every normalisation that reads them.

    Raises:
        ValueError: the networks differ.
    """
    state = {
        f"{layer.name}/{variable.name}": keras.ops.convert_to_numpy(variable)
        for layer in source.layers
        for variable in layer.variables
    }
    pre_activated = "post_bn/gamma" in state
    if pre_activated:
        _settle_identity_biases(state)
    carried = {}
    for path in list(state):
        layer, _, variable = path.rpartition("/")
        if variable == "bias" and layer.endswith("_conv") and not (pre_activated and layer == "conv1_conv"):
            norm = layer.removesuffix("_conv") + "_bn/moving_mean"
            if norm in state:
                state[norm] = state[norm] - state[path]
            continue
        carried[_our_path(layer, variable, pre_activated)] = path
    takers = {variable.path: [variable] for variable in _stateful(target)}
    _require_equal(carried, takers, source, target)
    for ours, theirs in carried.items():
        takers[ours][0].assign(state[theirs])


def _settle_identity_biases(state: dict[str, np.ndarray]) -> None:
    """Takes the biases of last convolutions and projections off the moving means of the normalisations downstream."""
    units = sorted(
        {(int(m[1]), int(m[2])) for m in (re.match(r"conv(\d)_block(\d+)_", path) for path in state) if m},
    )
    carried = np.float32(0)
    for stage, unit in units:
        prefix = f"conv{stage}_block{unit}"
        state[f"{prefix}_preact_bn/moving_mean"] = state[f"{prefix}_preact_bn/moving_mean"] - carried
        if f"{prefix}_0_conv/bias" in state:  # a projection reads the normalised input: earlier biases end here
            carried = state[f"{prefix}_0_conv/bias"]
        carried = carried + state[f"{prefix}_3_conv/bias"]
    state["post_bn/moving_mean"] = state["post_bn/moving_mean"] - carried


def _our_path(layer: str, variable: str, pre_activated: bool) -> str:
    """The path of our variable for one of `keras.applications`."""
    if layer in ("predictions", "probs"):
        return f"predictions/{variable}"
    if layer == "post_bn":
        return f"norm/norm/{variable}"
    if layer.startswith("conv1_"):
        part = "conv" if layer.endswith("conv") else "norm"
        return f"stem/{variable}" if pre_activated else f"stem/{part}/{variable}"
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\d|preact)_(conv|bn)", layer)
    if match is None:
        raise ValueError(f"source has a layer {layer!r} that keras.applications' ResNets do not have")
    stage, unit, place, kind = int(match[1]) - 1, match[2], match[3], match[4]
    if place == "preact":
        shared = f"stage{stage}_preact" if unit == "1" else f"stage{stage}_block{unit}/preact"
        return f"{shared}/norm/{variable}"
    name = "shortcut" if place == "0" else f"conv{place}"
    bare = pre_activated and place in "03"
    part = "" if bare else ("conv/" if kind == "conv" else "norm/")
    return f"stage{stage}_block{unit}/{name}/{part}{variable}"


def carry_keras_inception(source: keras.Model, target: Network) -> None:
    """Carries weights from `keras.applications` InceptionV3 or InceptionResNetV2 to the network of that name of this package.

    Build the target with `count_include_pad=False`. The source's normalisations have no scale: the target's become 1. Its
    convolutions carry numbers, in the order of the branches.

    Raises:
        ValueError: the networks differ.
    """
    takers = {variable.path: variable for variable in _stateful(target)}
    units = [
        path.removesuffix("/beta")
        for path in takers
        if path.endswith("/norm/beta") and not path.startswith("stage4_conv")
    ]
    layers = {"conv_7b": "stage4_conv/conv", "conv_7b_bn": "stage4_conv/norm", "predictions": "predictions"}
    for kind, ours in (("conv2d", "conv"), ("batch_normalization", "norm")):
        numbered = zip(_numbered(source, kind), units, strict=False)
        layers |= {layer: unit.removesuffix("norm") + ours for layer, unit in numbered}
    for layer in source.layers:
        if match := re.fullmatch(r"block(35|17|8)_(\d+)_conv", layer.name):
            stage = {"35": 2, "17": 3, "8": 4}[match[1]]
            layers[layer.name] = f"stage{stage}_block{int(match[2]) + 1}/conv"
    given = [(layer, variable) for layer in source.layers for variable in layer.variables]
    state = {f"{layers.get(layer.name, layer.name)}/{variable.name}": variable for layer, variable in given}
    state |= {path: np.ones(variable.shape) for path, variable in takers.items() if path.endswith("/gamma")}
    signatures = [f"{path} {tuple(value.shape)}" for path, value in state.items()]
    _require_equal(signatures, _signatures(target), source, target)
    for path, value in state.items():
        takers[path].assign(value)


def _numbered(model: keras.Model, kind: str) -> list[str]:
    """The names `kind`, `kind`_1, `kind`_2 … that Keras gave to layers as they were made."""
    matches = [re.fullmatch(rf"{kind}(?:_(\d+))?", layer.name) for layer in model.layers]
    return [match[0] for match in sorted(filter(None, matches), key=lambda match: int(match[1] or 0))]


def _stateful(model: keras.Model) -> list[keras.Variable]:
    """The model's variables but for the states of regularisers."""
    return [variable for variable in model.variables if not variable.path.endswith(REGULARISER_STATES)]


def _require_equal(given: Iterable[str], wanted: Iterable[str], source: keras.Model, target: keras.Model) -> None:
    difference = sorted(set(given) ^ set(wanted))
    if difference:
        raise ValueError(f"source {source.name!r} and target {target.name!r} are not forms of one network; they differ in "
                         f"{len(difference)} variables: {', '.join(difference[:5])} …")  # fmt: skip
