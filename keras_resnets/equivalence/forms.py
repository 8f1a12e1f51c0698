"""Networks of this package that are one function: the forms of ResNeXt, the layouts of ResNeSt."""

import re

import keras
import numpy as np

from keras_resnets.assembly import Network
from keras_resnets.equivalence.variables import require_equal, signatures, stateful
from keras_resnets.layers import SplitAttention

_BRANCH = re.compile(r"(?P<block>.+)/transforms/path\d+_(?P<layer>conv\d)/(?P<rest>.+)")


def carry_form(source: Network, target: Network) -> None:
    """Carries weights between ResNeXts that differ in `form` only (arXiv 1611.05431, figure 3).

    The branches of forms "a" and "b" are slices of form "c": of the output channels in the first 1x1 and the 3x3, of the
    input channels in the last 1x1 of form "a".

    Raises:
        ValueError: the networks differ in more than the form.
    """
    merged: dict[str, list[np.ndarray]] = {}
    for variable in stateful(source):
        merged.setdefault(_form_c_path(variable.path), []).append(keras.ops.convert_to_numpy(variable))
    state = {path: np.concatenate(parts, _branch_axis(path)) for path, parts in merged.items()}

    takers: dict[str, list[keras.Variable]] = {}
    for variable in stateful(target):
        takers.setdefault(_form_c_path(variable.path), []).append(variable)
    require_equal(state, takers, source, target)
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
    state = {variable.path: keras.ops.convert_to_numpy(variable) for variable in stateful(source)}
    takers = {variable.path: variable for variable in stateful(target)}
    require_equal(signatures(source), signatures(target), source, target)
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


def _split_attentions(model: keras.Model) -> list[SplitAttention]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, SplitAttention)]
