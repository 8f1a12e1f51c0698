"""The operators of a TFLite file, its intermediate values for given images, and single operators run by themselves."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_resnets.export.runner import dequantized, quantized
from keras_resnets.export.tflite_flatbuffer import dump, load

# Without the XNNPACK delegate, which does not keep what is inside it.
PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
CASTS = ("QUANTIZE", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True)
class Operator:
    """One output of an operator; one with several (SPLIT) has several of these.

    Attributes:
        place: among all of the file, in the order of execution.
        entry: number of the operator in the file.
        kind: such as "CONV_2D".
        name: of its output tensor.
        shape: of its output.
        inputs: tensors that are computed, not stored in the file.
        output: tensor.
    """

    place: int
    entry: int
    kind: str
    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    output: int


class Graph:
    """An opened `.tflite` file with one subgraph, one input and one output.

    Args:
        path: of the file.

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._model = load(path.read_bytes())
            (self._graph,) = self._model.subgraphs
            ((self.input,), (self.output,)) = self._graph.inputs, self._graph.outputs
            self._interpreter = Interpreter(
                str(path), experimental_op_resolver_type=PLAIN, experimental_preserve_all_tensors=True
            )
            self._interpreter.allocate_tensors()
        except OSError:
            raise
        except Exception as error:  # what the reader of a broken file raises is not documented
            raise ValueError(f"{str(path)!r} is not a TFLite file with one input and one output: {error}") from error
        self._details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        outputs = [
            (number, int(tensor)) for number, entry in enumerate(self._graph.operators) for tensor in entry.outputs
        ]
        self.operators = [self._operator(place, number, tensor) for place, (number, tensor) in enumerate(outputs)]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(batch, height, width, channels)`."""
        return tuple(int(size) for size in self._graph.tensors[self.input].shape)

    def _operator(self, place: int, number: int, output: int) -> Operator:
        entry = self._graph.operators[number]
        code = self._model.operatorCodes[entry.opcodeIndex]
        kind = _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = tuple(int(tensor) for tensor in entry.inputs if tensor >= 0 and not self._stored(tensor))
        tensor = self._graph.tensors[output]
        return Operator(place, number, kind, tensor.name.decode(), tuple(map(int, tensor.shape)), inputs, output)

    def _stored(self, tensor: int) -> bool:
        return self._model.buffers[self._graph.tensors[tensor].buffer].data is not None

    def is_floating(self, tensor: int) -> bool:
        """Whether the values of a tensor are, or stand for, real numbers."""
        detail = self._details[tensor]
        return detail["dtype"] == np.float32 or bool(detail["quantization"][0])

    def values(self, images: np.ndarray) -> dict[int, np.ndarray]:
        """All computed real tensors for `images` `(batch, height, width, channels)`, dequantised, by number."""
        self._interpreter.set_tensor(self.input, quantized(images, self._details[self.input]))
        self._interpreter.invoke()
        computed = [self.input, *(operator.output for operator in self.operators)]
        return {
            tensor: dequantized(self._interpreter.get_tensor(tensor), self._details[tensor])
            for tensor in computed
            if self.is_floating(tensor)
        }

    def alone(self, operator: Operator) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """A function from the values of `operator.inputs` to its output, computed by this operator and nothing else."""
        entry = copy.copy(self._graph.operators[operator.entry])
        used = sorted({int(tensor) for tensor in (*entry.inputs, *entry.outputs) if tensor >= 0})
        renumbered = {-1: -1} | {tensor: place for place, tensor in enumerate(used)}
        entry.inputs = [renumbered[int(tensor)] for tensor in entry.inputs]
        entry.outputs = [renumbered[int(tensor)] for tensor in entry.outputs]
        graph, model = schema.SubGraphT(), schema.ModelT()
        model.version, model.subgraphs, model.operatorCodes = 3, [graph], self._model.operatorCodes
        model.buffers, graph.tensors = [schema.BufferT()], []
        for tensor in used:
            own = copy.copy(self._graph.tensors[tensor])
            own.buffer = len(model.buffers)
            model.buffers.append(self._model.buffers[self._graph.tensors[tensor].buffer])
            graph.tensors.append(own)
        graph.operators = [entry]
        graph.inputs, graph.outputs = [renumbered[tensor] for tensor in operator.inputs], entry.outputs
        interpreter = Interpreter(model_content=dump(model), experimental_op_resolver_type=PLAIN)
        interpreter.allocate_tensors()
        sources = {detail["index"]: detail for detail in interpreter.get_input_details()}
        target = next(
            detail for detail in interpreter.get_output_details() if detail["index"] == renumbered[operator.output]
        )

        def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
            for place, value in zip(graph.inputs, inputs, strict=True):
                interpreter.set_tensor(place, quantized(value, sources[place]))
            interpreter.invoke()
            return dequantized(interpreter.get_tensor(target["index"]), target)

        return run
