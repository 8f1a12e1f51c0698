"""Channels first throughout: ONNX's convolutions and pools are, TensorFlow's graphs are not.

tf2onnx puts a Transpose before and behind every convolution. Here each value `(batch, height, width, channels)` is
computed as its twin `(batch, channels, height, width)` wherever the operators between convolutions can work on that as
well, which leaves one Transpose, at the input, or none. What cannot gets its values transposed back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from keras_resnets.export.onnx_graph import Graph, Shape, attributes, make_node

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
AXES = np.array([0, 2, 3, 1])  # where an axis of a value is in its twin
_SPATIAL = (1, 2)

_ELEMENTWISE = (
    "Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign",
    "Gelu", "Mish", "Clip", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Floor", "Ceil", "Round",
    "Sign", "Cast", "Identity", "Not", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Mean", "PRelu",
    "Where", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or",
)  # fmt: skip
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")

Handler = Callable[[onnx.NodeProto], bool]


def channels_first(graph: Graph, nchw_input: bool) -> None:
    """Rewrites `graph`; with `nchw_input` its inputs of four dimensions are channels first as well."""
    _Layout(graph).run(nchw_input)


class _Layout:
    """One walk over the nodes.

    `twins` names the channels-first twin of each value that has one. Such a value itself is computed only if some node
    cannot do without: it is then in `present`, as are all values that have no twin.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes = graph.shapes()
        self.twins: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        self.present: set[str] = {value.name for value in graph.inputs}
        self.nodes: list[onnx.NodeProto] = []
        self.handlers: dict[str, Handler] = {
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
            **dict.fromkeys(_REDUCTIONS, self._reduction),
            **dict.fromkeys(("Concat", "Split", "Softmax", "LogSoftmax"), self._along_axis),
            "Transpose": self._transpose,
            "Pad": self._pad,
            "Slice": self._slice,
            "Resize": self._resize,
            "Reshape": self._reshape,
            "Squeeze": self._squeeze,
            "Unsqueeze": self._unsqueeze,
            "Shape": self._shape,
        }

    def run(self, nchw_input: bool) -> None:
        if nchw_input:
            self._turn_inputs()
        for node in self.graph.nodes:
            for i, name in enumerate(node.input):
                node.input[i] = self.renamed.get(name, name)
            handler = self.handlers.get(node.op_type)
            if handler is None or not handler(node):
                for name in node.input:
                    self._need(name)
                self.nodes.append(node)
                self.present.update(node.output)
        for output in self.graph.outputs:
            if output.name in self.renamed:
                self._emit("Identity", [self.renamed[output.name]], output.name)
            self._need(output.name)
        self.graph.nodes = self.nodes

    def _turn_inputs(self) -> None:
        """Makes every image that the graph takes the twin of what it took before."""
        for value in self.graph.inputs:
            sizes = value.type.tensor_type.shape.dim
            if len(sizes) == 4:
                last = self.graph.new_name(value.name)
                self.renamed[value.name], self.twins[last] = last, value.name
                self.shapes[last] = self.shapes[value.name]
                turned = [onnx.TensorShapeProto.Dimension.FromString(sizes[i].SerializeToString()) for i in TO_FIRST]
                del sizes[:]
                sizes.extend(turned)

    def _emit(self, kind: str, inputs: Sequence[str], output: str, **values: Any) -> None:
        self.nodes.append(make_node(kind, inputs, [output], **values))
        self.present.add(output)

    def _need(self, name: str) -> None:
        """Computes a value of which only the twin was."""
        if self._only_twin(name):
            sizes = self._sizes_of(name)
            if sizes is not None:
                self._emit("Reshape", [self.twins[name], self._sizes(sizes)], name)
            else:
                self._emit("Transpose", [self.twins[name]], name, perm=TO_LAST)

    def _only_twin(self, name: str) -> bool:
        return name in self.twins and name not in self.present

    def _twin(self, name: str) -> str:
        """The twin of a value of four dimensions, computed if there was none."""
        if name not in self.twins:
            twin = self.twins[name] = self.graph.new_name(name)
            sizes = self._sizes_of(name)
            if sizes is not None:
                self._emit("Reshape", [name, self._sizes([sizes[i] for i in TO_FIRST])], twin)
            else:
                self._emit("Transpose", [name], twin, perm=TO_FIRST)
        return self.twins[name]

    def _sizes_of(self, name: str) -> list[int] | None:
        """The shape of a value whose twin has its numbers in the same order, being of one pixel or one channel; else None."""
        shape = self._shape_of(name)
        if len(shape) != 4 or None in shape[1:] or not (shape[3] == 1 or shape[1] == shape[2] == 1):
            return None
        return [0, *(size or 0 for size in shape[1:])]

    def _shape_of(self, name: str) -> Shape:
        return self.shapes.get(name, ())

    def _sizes(self, values: Any) -> str:
        return self.graph.constant(values, "int64")

    def _twin_outputs(self, node: onnx.NodeProto) -> list[str]:
        for name in node.output:
            self.twins[name] = self.graph.new_name(name)
        return [self.twins[name] for name in node.output]

    def _turned(self, node: onnx.NodeProto, inputs: Sequence[str], **values: Any) -> bool:
        """Emits `node` on twins, with some attributes replaced."""
        outputs = self._twin_outputs(node)
        self.nodes.append(make_node(node.op_type, inputs, outputs, **{**attributes(node), **values}))
        return True

    def _transpose(self, node: onnx.NodeProto) -> bool:
        (source,), (target,) = node.input, node.output
        perm = list(attributes(node)["perm"])
        if perm == TO_FIRST:
            self.renamed[target] = self._twin(source)
            return True
        if perm == TO_LAST:
            self.twins[target] = source
            return True
        return False

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        if not any(self._only_twin(name) for name in node.input):
            return False
        inputs = []
        for name in node.input:
            constant = self.graph.value(name)
            rank = len(self._shape_of(name))
            if constant is None and (name in self.twins or rank == 4):
                inputs.append(self._twin(name))
            elif constant is not None and constant.size > 1:
                whole = constant.reshape((1,) * (4 - constant.ndim) + constant.shape).transpose(TO_FIRST)
                turned = self.graph.constant(whole[0] if len(whole) == 1 else whole)
                if name in self.graph.origins:
                    self.graph.origins[turned] = self.graph.origins[name]
                inputs.append(turned)
            elif not name or constant is not None or rank == 0:
                inputs.append(name)
            else:
                return False
        return self._turned(node, inputs)

    def _along_axis(self, node: onnx.NodeProto) -> bool:
        data = node.input if node.op_type == "Concat" else node.input[:1]
        if not any(self._only_twin(name) for name in data):
            return False
        default = 0 if node.op_type == "Split" else -1
        axis = int(AXES[attributes(node).get("axis", default)])
        return self._turned(node, [*map(self._twin, data), *node.input[len(data) :]], axis=axis)

    def _axes(self, node: onnx.NodeProto) -> list[int] | None:
        """Axes of a reduction or a squeeze, from the attribute or the second input."""
        axes = attributes(node).get("axes")
        if axes is None and len(node.input) > 1:
            axes = self.graph.value(node.input[1])
        return None if axes is None else sorted(int(axis) % 4 for axis in axes)

    def _reduction(self, node: onnx.NodeProto) -> bool:
        axes = self._axes(node)
        if not self._only_twin(node.input[0]) or axes is None:
            return False
        kept = attributes(node).get("keepdims", 1)
        source = self._twin(node.input[0])
        if node.op_type in ("ReduceMean", "ReduceMax") and tuple(axes) == _SPATIAL:
            pooled = self._twin_outputs(node)[0] if kept else self.graph.new_name(source)
            self._emit("GlobalAveragePool" if node.op_type == "ReduceMean" else "GlobalMaxPool", [source], pooled)
            if not kept:
                self._emit("Flatten", [pooled], node.output[0])
            return True
        order = [int(AXES[axis]) for axis in axes]
        if not kept and axes not in ([1, 2], [3], [0], [1, 2, 3]):
            return False  # the axes that are left would be in another order
        turned = {"axes": sorted(order)} if "axes" in attributes(node) else {}
        inputs = [source] if turned else [source, self._sizes(sorted(order))]
        if kept:
            return self._turned(node, inputs, **turned)
        self.nodes.append(make_node(node.op_type, inputs, node.output, **{**attributes(node), **turned}))
        self.present.update(node.output)
        return True

    def _pad(self, node: onnx.NodeProto) -> bool:
        pads = self.graph.value(node.input[1])
        if not self._only_twin(node.input[0]) or pads is None or len(pads) != 8:
            return False
        turned = self._sizes([*pads[:4][TO_FIRST], *pads[4:][TO_FIRST]])
        return self._turned(node, [self._twin(node.input[0]), turned, *node.input[2:3]])

    def _slice(self, node: onnx.NodeProto) -> bool:
        if not self._only_twin(node.input[0]):
            return False
        axes = self.graph.value(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        if axes is None:
            starts = self.graph.value(node.input[1])
            if starts is None or (len(node.input) > 3 and node.input[3]):
                return False
            axes = np.arange(len(starts), dtype=starts.dtype)
        turned = self.graph.constant(AXES[axes], axes.dtype)
        return self._turned(node, [self._twin(node.input[0]), *node.input[1:3], turned, *node.input[4:]])

    def _resize(self, node: onnx.NodeProto) -> bool:
        if not self._only_twin(node.input[0]) or "axes" in attributes(node):
            return False
        turned = []
        for name in node.input[2:]:
            sizes = self.graph.value(name)
            if name and (sizes is None or sizes.size not in (0, 4)):
                return False
            turned.append(self.graph.constant(sizes[TO_FIRST]) if sizes is not None and sizes.size else name)
        return self._turned(node, [self._twin(node.input[0]), "", *turned])

    def _reshape(self, node: onnx.NodeProto) -> bool:
        """Values whose twins have their numbers in the same order are reshaped as twins."""
        (source, sizes), (target,) = node.input, node.output
        shape = self.graph.value(sizes)
        if shape is None or (self._only_twin(source) and self._sizes_of(source) is None):
            return False
        taken = self.twins[source] if self._only_twin(source) else source
        if len(shape) == 4 and tuple(shape[1:3]) == (1, 1):
            self._emit("Reshape", [taken, self._sizes([shape[0], shape[3], 1, 1])], *self._twin_outputs(node))
        else:
            self._emit("Reshape", [taken, sizes], target)
        return True

    def _squeeze(self, node: onnx.NodeProto) -> bool:
        if not self._only_twin(node.input[0]) or self._axes(node) != list(_SPATIAL):
            return False
        self._emit("Flatten", [self._twin(node.input[0])], node.output[0])
        return True

    def _unsqueeze(self, node: onnx.NodeProto) -> bool:
        axes = self._axes(node)
        if len(self._shape_of(node.input[0])) != 2 or axes != list(_SPATIAL):
            return False
        self._emit("Unsqueeze", [node.input[0], self._sizes([2, 3])], *self._twin_outputs(node))
        return True

    def _shape(self, node: onnx.NodeProto) -> bool:
        if not self._only_twin(node.input[0]) or attributes(node):
            return False
        turned = self.graph.new_name(node.output[0])
        self._emit("Shape", [self._twin(node.input[0])], turned)
        self._emit("Gather", [turned, self._sizes(AXES)], node.output[0], axis=0)
        return True
