"""Rewrites of an ONNX graph that leave fewer operators to compute the same: what is known is computed once, here."""

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from keras_resnets.export.onnx_graph import Graph, attributes, make_node

_WINDOWS = ("Conv", "MaxPool", "AveragePool")


def remove_identities(graph: Graph) -> None:
    """Takes out nodes that hand their input on, except where an output of the graph would lose its name."""
    outputs = {output.name for output in graph.outputs}
    idle = [node for node in graph.nodes if node.op_type == "Identity" and node.output[0] not in outputs]
    graph.remove(idle)
    graph.replace({node.output[0]: node.input[0] for node in idle})
    _drop_last_identities(graph)


def _drop_last_identities(graph: Graph) -> None:
    """An Identity before an output: what computes its input gets the output's name, if nothing else does."""
    producers, inputs = graph.producers(), {value.name for value in graph.inputs}
    for output in graph.outputs:
        node = producers.get(output.name)
        if node is None or node.op_type != "Identity" or node.input[0] in inputs or node.input[0] not in producers:
            continue
        source = producers[node.input[0]]
        old = node.input[0]
        source.output[list(source.output).index(old)] = output.name
        graph.remove([node])
        graph.replace({old: output.name})


def fold_constants(graph: Graph) -> None:
    """Computes whatever depends on constants only."""
    constant, folded = set(graph.constants), []
    for node in graph.nodes:
        if all(name in constant for name in node.input if name) and node.input:
            folded.append(node)
            constant.update(node.output)
    graph.remove(folded)
    names = [name for name in graph.consumers() if name in constant and name not in graph.constants]
    if not names:
        return
    feeds = {name: graph.constants[name] for node in folded for name in node.input if name in graph.constants}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in side]
        for side in (feeds, names)
    )
    part = helper.make_graph(folded, "constants", inputs, outputs)
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", graph.opset)])
    graph.constants.update(zip(names, map(np.asarray, ReferenceEvaluator(model).run(names, feeds)), strict=True))
    origins = dict(graph.origins)
    for node in folded:
        found = {origins[name] for name in node.input if name in origins}
        if len(found) == 1:
            origins.update(dict.fromkeys(node.output, *found))
    graph.origins.update((name, origins[name]) for name in names if name in origins)


def pads_into_windows(graph: Graph) -> None:
    """Convolutions and pools that pad by themselves, instead of a padded copy of the image before them."""
    producers, users = graph.producers(), graph.consumers()
    for node in graph.nodes:
        pad = producers.get(node.input[0]) if node.op_type in _WINDOWS else None
        if pad is None or pad.op_type != "Pad" or len(users[pad.output[0]]) > 1:
            continue
        values = attributes(node)
        pads = _spatial_pads(graph, pad)
        if pads is None or values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            continue
        own = list(values.get("pads", [0, 0, 0, 0]))
        if _same_as_own_padding(node, pad, pads, own, graph, producers):
            kept = {name: value for name, value in values.items() if name not in ("pads", "auto_pad")}
            if node.op_type == "AveragePool":
                kept["count_include_pad"] = 1
            kept["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            node.CopyFrom(make_node(node.op_type, [pad.input[0], *node.input[1:]], node.output, **kept))
    graph.remove_unused()


def _spatial_pads(graph: Graph, pad: onnx.NodeProto) -> list[int] | None:
    """What a Pad adds to height and width; None if it is unknown, negative, or adds elsewhere too."""
    pads = graph.value(pad.input[1])
    if pads is None or len(pads) != 8 or len(pad.input) > 3 or pads.min() < 0 or pads[[0, 1, 4, 5]].any():
        return None
    return [int(pads[i]) for i in (2, 3, 6, 7)]


def _same_as_own_padding(node: onnx.NodeProto, pad: onnx.NodeProto, pads: list[int], own: list[int], graph: Graph,
                         producers: dict[str, onnx.NodeProto]) -> bool:  # fmt: skip
    """Whether `node` padding by itself computes what it computes behind `pad`."""
    mode = attributes(pad).get("mode", b"constant")
    filling = graph.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
    zeros = mode == b"constant" and filling is not None and not filling.any()
    lowest = mode == b"constant" and filling is not None and filling == -np.inf
    if node.op_type == "Conv":
        return zeros
    window = attributes(node)["kernel_shape"]
    inside = all(p < size for p, size in zip(pads, [*window, *window], strict=True)) and not any(own)
    if node.op_type == "AveragePool":
        return zeros and inside
    # ONNX pads with minus infinity, which never wins: every window holds a pixel of the image.
    source = producers.get(pad.input[0])
    never_negative = source is not None and source.op_type in ("Relu", "Sigmoid")
    return inside and (lowest or (zeros and never_negative))


def sums_into_biases(graph: Graph) -> None:
    """A constant added behind a convolution becomes its bias."""
    producers, users = graph.producers(), graph.consumers()
    renamed, gone = {}, []
    for node in graph.nodes:
        if node.op_type != "Add":
            continue
        for source, other in (node.input, node.input[::-1]):
            conv, bias = producers.get(source), graph.value(other)
            if conv is None or conv.op_type != "Conv" or bias is None or len(users[source]) > 1:
                continue
            kernel = graph.value(conv.input[1])
            if kernel is None or bias.shape != (kernel.shape[0], 1, 1):
                continue
            own = graph.value(conv.input[2]) if len(conv.input) > 2 else np.zeros(())
            if own is None:
                continue
            total = graph.constant((bias.reshape(-1) + own).astype(bias.dtype))
            if other in graph.origins:
                graph.origins[total] = graph.origins[other]
            del conv.input[2:]
            conv.input.append(total)
            gone.append(node)
            renamed[source] = node.output[0]
            break
    for old, new in renamed.items():
        producers[old].output[0] = new
    graph.remove(gone)
    graph.remove_unused()


def products_into_gemm(graph: Graph) -> None:
    """MatMul of two dimensions and the Add of a bias behind it become one Gemm."""
    users = graph.consumers()
    gone = []
    for node in graph.nodes:
        if node.op_type != "MatMul" or (kernel := graph.value(node.input[1])) is None or kernel.ndim != 2:
            continue
        followers = users[node.output[0]]
        if len(followers) != 1 or followers[0].op_type != "Add":
            continue
        (add,) = followers
        other = next((name for name in add.input if name != node.output[0]), "")
        bias = graph.value(other)
        if bias is not None and bias.shape in (kernel.shape[1:], (1, *kernel.shape[1:])):
            add.CopyFrom(make_node("Gemm", [*node.input, other], add.output))
            gone.append(node)
    graph.remove(gone)


def merge_equal_nodes(graph: Graph) -> None:
    """Two nodes that do the same to the same values are one."""
    outputs = {output.name for output in graph.outputs}
    seen: dict[bytes, onnx.NodeProto] = {}
    renamed: dict[str, str] = {}
    gone = []
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        key = make_node(node.op_type, node.input, [""] * len(node.output), **attributes(node)).SerializeToString()
        first = seen.setdefault(key, node)
        if first is not node and not outputs.intersection(node.output):
            renamed.update(zip(node.output, first.output, strict=True))
            gone.append(node)
    graph.remove(gone)


def softmax_without_transposes(graph: Graph) -> None:
    """A softmax along the last axis between two Transposes that cancel becomes one along the axis that is meant."""
    producers, users = graph.producers(), graph.consumers()
    for node in graph.nodes:
        before = producers.get(node.input[0]) if node.op_type == "Softmax" else None
        after = users[node.output[0]][0] if len(users[node.output[0]]) == 1 else None
        if before is None or after is None or {before.op_type, after.op_type} != {"Transpose"}:
            continue
        perm, back = (np.array(attributes(transpose)["perm"]) for transpose in (before, after))
        if (perm[back] == np.arange(len(perm))).all():
            axis = int(perm[attributes(node).get("axis", -1)])
            after.CopyFrom(make_node("Softmax", before.input, after.output, axis=axis))
    graph.remove_unused()


def spell_for_opset(graph: Graph, opset: int) -> None:
    """Declares another version of the operators; of those used here 18 changed reductions and equal splits."""
    for node in graph.nodes:
        values = attributes(node)
        if opset < 18:
            continue
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and "axes" in values:
            axes = graph.constant(values.pop("axes"), "int64")
            node.CopyFrom(make_node(node.op_type, [node.input[0], axes], node.output, **values))
        elif node.op_type == "Split" and len(node.input) == 1:
            node.CopyFrom(make_node("Split", node.input, node.output, num_outputs=len(node.output), **values))
    graph.opset = opset


def name_values(graph: Graph) -> None:
    """Names that say what is what and do not depend on chance: variables' for weights, layers' for what they compute."""
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    taken = set(kept)
    names: dict[str, str] = {name: name for name in kept}

    def give(old: str, name: str) -> None:
        if old and old not in names:
            unique, number = name, 1
            while unique in taken:
                unique, number = f"{name}_{number}", number + 1
            names[old] = unique
            taken.add(unique)

    graph.sort()
    counts: dict[str, int] = {}
    for node in graph.nodes:
        layers = [graph.origins[name].rpartition("/")[0] for name in node.input if name in graph.origins]
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        for name in node.input:
            give(name, graph.origins.get(name, f"{node.op_type}_{counts[node.op_type]}/constant"))
        for i, name in enumerate(node.output):
            base = layers[0] if layers and layers[0] else f"{node.op_type}_{counts[node.op_type]}"
            give(name, f"{base}:{i}" if len(node.output) > 1 else base)
    for node in graph.nodes:
        values = attributes(node)
        ends = [[names.get(name, "") for name in side] for side in (node.input, node.output)]
        node.CopyFrom(make_node(node.op_type, *ends, **values))
    graph.constants = {new: graph.constants[old] for old, new in names.items() if old in graph.constants}
    graph.origins = {names[name]: origin for name, origin in graph.origins.items() if name in names}
