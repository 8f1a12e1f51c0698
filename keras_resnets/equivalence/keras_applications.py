"""Networks of `keras.applications` as networks of this package."""

import re

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.equivalence.variables import require_equal, signatures, stateful


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
    takers = {variable.path: [variable] for variable in stateful(target)}
    carried = {}
    for path in list(state):
        layer, _, variable = path.rpartition("/")
        if variable == "bias" and layer.endswith("_conv") and not (pre_activated and layer == "conv1_conv"):
            norm = layer.removesuffix("_conv") + "_bn/moving_mean"
            if norm in state:
                state[norm] = state[norm] - state[path]
            continue
        ours = _our_path(layer, variable, pre_activated)
        # A pre-activation that is a feature level stands before its block.
        carried[ours if ours in takers else ours.replace("/preact/", "_preact/")] = path
    require_equal(carried, takers, source, target)
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
    takers = {variable.path: variable for variable in stateful(target)}
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
    described = [f"{path} {tuple(value.shape)}" for path, value in state.items()]
    require_equal(described, signatures(target), source, target)
    for path, value in state.items():
        takers[path].assign(value)


def _numbered(model: keras.Model, kind: str) -> list[str]:
    """The names `kind`, `kind`_1, `kind`_2 … that Keras gave to layers as they were made."""
    matches = [re.fullmatch(rf"{kind}(?:_(\d+))?", layer.name) for layer in model.layers]
    return [match[0] for match in sorted(filter(None, matches), key=lambda match: int(match[1] or 0))]
