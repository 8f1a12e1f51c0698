"""An ONNX graph taken apart for rewriting, and what the rewriting passes have in common."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int | None, ...]
DOMAIN = ""


@dataclasses.dataclass
class Graph:
    """A graph with nodes in an order in which they can be computed.

    Attributes:
        nodes: of the operators; constants are not among them.
        constants: values by name: weights, and what the operators take as shapes, axes and pads.
        inputs, outputs: with their types.
        opset: version of ONNX's operators.
        origins: the model's variable that a constant was computed from, where it was one.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    opset: int
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    _names: int = 0

    @classmethod
    def of(cls, model: onnx.ModelProto, weights: Mapping[str, np.ndarray], origins: Mapping[str, str]) -> "Graph":
        """The graph of `model`, in which the inputs named in `weights` have these values, from the variables `origins`."""
        graph = model.graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            if node.op_type == "Constant":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            else:
                nodes.append(node)
        inputs = [value for value in graph.input if value.name not in weights and value.name not in constants]
        (opset,) = [entry.version for entry in model.opset_import if entry.domain == DOMAIN]
        made = cls(nodes, {**constants, **weights}, inputs, list(graph.output), opset, dict(origins))
        made.sort()
        return made

    def new_name(self, base: str) -> str:
        """A name that no value has."""
        self._names += 1
        return f"{base}__{self._names}"

    def constant(self, values: Any, dtype: Any = None) -> str:
        """The name of a new constant."""
        name = self.new_name("constant")
        self.constants[name] = np.asarray(values, dtype)
        return name

    def value(self, name: str) -> np.ndarray | None:
        """The constant `name`; None if it is computed, or absent (an optional input is "")."""
        return self.constants.get(name)

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that take each value; an output of the graph has a consumer that is no node of it."""
        users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in set(node.input):
                users[name].append(node)
        for output in self.outputs:
            users[output.name].append(onnx.NodeProto())
        return users

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that computes each value."""
        return {name: node for node in self.nodes for name in node.output}

    def replace(self, names: Mapping[str, str]) -> None:
        """Makes the nodes take other values: `{old name: new name}`, which may be chained."""
        for node in self.nodes:
            for i, name in enumerate(node.input):
                while name in names:
                    name = names[name]
                node.input[i] = name

    def remove(self, nodes: Iterable[onnx.NodeProto]) -> None:
        removed = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in removed]

    def sort(self) -> None:
        """Orders the nodes as the outputs need them, whatever their order was before; drops those that nothing needs."""
        producers, done, ordered = self.producers(), set(), []
        pending = [producers[output.name] for output in reversed(self.outputs) if output.name in producers]
        while pending:
            node = pending[-1]
            needed = [producers[name] for name in node.input if name in producers and id(producers[name]) not in done]
            if id(node) not in done and not needed:
                done.add(id(node))
                ordered.append(node)
            pending = [*pending, *reversed(needed)] if needed and id(node) not in done else pending[:-1]
        self.nodes = ordered

    def remove_unused(self) -> None:
        """Drops nodes and constants that no output needs."""
        needed = {output.name for output in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}

    def shapes(self) -> dict[str, Shape]:
        """Shapes of all values as far as ONNX can infer them; unknown sizes are None."""
        large = {name for name, value in self.constants.items() if value.size > 64}
        inferred = onnx.shape_inference.infer_shapes(self.model(as_inputs=large), data_prop=True).graph
        shapes: dict[str, Shape] = {name: value.shape for name, value in self.constants.items()}
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            if value.type.tensor_type.HasField("shape"):
                sizes = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)
        return shapes

    def model(self, as_inputs: Iterable[str] = ()) -> onnx.ModelProto:
        """The graph as a model; constants named in `as_inputs` become inputs of their type."""
        held_out = set(as_inputs)
        inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(self.constants[name].dtype),
                                                self.constants[name].shape) for name in sorted(held_out)]  # fmt: skip
        tensors = [
            numpy_helper.from_array(np.ascontiguousarray(value) if value.ndim else value, name)
            for name, value in self.constants.items()
            if name not in held_out
        ]
        graph = helper.make_graph(self.nodes, "network", [*self.inputs, *inputs], self.outputs, tensors)
        opsets = [helper.make_opsetid(DOMAIN, self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Values of a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def make_node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **values: Any) -> onnx.NodeProto:
    """A node that, like all nodes here, is named after its first output."""
    return helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **values)
