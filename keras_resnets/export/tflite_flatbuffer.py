"""TFLite files as flatbuffers: written compactly, given another interface, and checked for what they compute in.

The converters spend bytes that a small network feels: tensor names of several hundred characters, and eight bytes of zero
point per channel that are always zero. What is rewritten here is the spelling; the function stays the same.
"""

import copy
import re
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_ALIGNMENT = 16  # of weights inside the file, as the schema of TFLite asks for


def load(data: bytes) -> Any:
    """The file as `schema.ModelT`, with weights that lie behind the flatbuffer brought in."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    for buffer in model.buffers:
        if buffer.offset:
            buffer.data = np.frombuffer(data, "uint8", buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def dump(model: Any) -> bytes:
    """`model` as a file. Equal buffers are stored once, so are equal vectors of scales and of zero points."""
    _merge_buffers(model)
    for buffer in model.buffers:
        buffer.__class__ = _AlignedBuffer
    shared: dict[Any, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is not None:
                tensor.quantization.__class__ = _SharedQuantization
                tensor.quantization.shared = shared
    size = sum(_length(buffer.data) for buffer in model.buffers)
    builder = flatbuffers.Builder(size + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def shorten(model: Any) -> None:
    """Gives every tensor one short name: activations that of their layer and operator, constants that of their user.

    "stage1_block1/conv1/Relu" is an activation; "stage1_block1/conv1/Relu:1" the kernel that made it and ":2" its bias.
    The ends have the names that the file's signature gives them. What calibration leaves beside scales is dropped.
    """
    for graph in model.subgraphs:
        names: dict[int, str] = {}
        taken: set[str] = set()

        def give(index: int, name: str, names: dict[int, str] = names, taken: set[str] = taken) -> None:
            if index < 0 or index in names:
                return
            unique, number = name, 1
            while unique in taken:
                number += 1
                unique = f"{name}_{number}"
            names[index] = unique
            taken.add(unique)

        for end in _signature_ends(model):
            give(end.tensorIndex, end.name.decode())
        clean = _cleaner([graph.tensors[int(i)].name.decode() for op in graph.operators for i in op.outputs])
        for operator in graph.operators:
            for index in operator.outputs:
                give(int(index), clean(graph.tensors[int(index)].name.decode()))
        for operator in graph.operators:
            for position, index in enumerate(operator.inputs):
                give(int(index), f"{names[int(operator.outputs[0])]}:{position}")
        for index, tensor in enumerate(graph.tensors):
            give(index, "unused")
            tensor.name = names[index].encode()
            if tensor.quantization is not None and tensor.quantization.details is None:
                tensor.quantization.min = tensor.quantization.max = None
                if not _length(tensor.quantization.scale):
                    tensor.quantization = None


def with_unsigned_ends(model: Any) -> None:
    """Turns an int8 interface into uint8: the same scale, every value 128 higher."""
    graph = model.subgraphs[0]
    code = _operator_code(model, schema.BuiltinOperator.QUANTIZE)

    def unsigned(index: int, is_input: bool) -> int:
        tensor = copy.deepcopy(graph.tensors[index])
        tensor.type, tensor.buffer = schema.TensorType.UINT8, 0
        tensor.quantization.zeroPoint = np.asarray(tensor.quantization.zeroPoint) + 128
        graph.tensors[index].name += b"_int8"
        graph.tensors.append(tensor)
        operator, new = schema.OperatorT(), len(graph.tensors) - 1
        operator.opcodeIndex = code
        operator.inputs, operator.outputs = (
            np.array([number], "int32") for number in ((new, index) if is_input else (index, new))
        )
        graph.operators.insert(0 if is_input else len(graph.operators), operator)
        for end in _signature_ends(model):
            if end.tensorIndex == index:
                end.tensorIndex = new
        return new

    graph.inputs = np.array([unsigned(int(index), True) for index in graph.inputs], "int32")
    graph.outputs = np.array([unsigned(int(index), False) for index in graph.outputs], "int32")


def float_operators(model: Any) -> list[str]:
    """Operators that compute in floating point; conversions to and from integers are not among them."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    found = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            types = {graph.tensors[int(i)].type for i in (*operator.inputs, *operator.outputs) if i >= 0}
            if name not in ("QUANTIZE", "DEQUANTIZE") and types & {
                schema.TensorType.FLOAT32,
                schema.TensorType.FLOAT16,
            }:
                found.add(name)
    return sorted(found)


def output_names(model: Any) -> list[str]:
    """Names of the outputs in the order of the graph."""
    return [model.subgraphs[0].tensors[int(index)].name.decode() for index in model.subgraphs[0].outputs]


def set_metadata(model: Any, name: str, content: bytes) -> None:
    """Stores `content` in the file under `name`, in place of what was there."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, "uint8")
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name.encode(), len(model.buffers) - 1
    model.metadata = [item for item in model.metadata or [] if item.name != entry.name] + [entry]


def _signature_ends(model: Any) -> list[Any]:
    return [end for signature in model.signatureDefs or [] for end in (*signature.inputs, *signature.outputs)]


def _operator_code(model: Any, builtin: int) -> int:
    """Index of an operator among those of the file, to which it is added if need be."""
    for index, code in enumerate(model.operatorCodes):
        if builtin in (code.builtinCode, code.deprecatedBuiltinCode):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 2
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _cleaner(names: list[str]) -> Any:
    """A function from the converter's tensor names to short ones.

    It joins the names of all operators that it fused with ";", and each begins with the model's name. Calling a model again
    numbers its scopes: a "_1" that all of them have says nothing.
    """
    paths = [name.split(";")[0].split("/") for name in names]
    roots = {path[0] for path in paths if len(path) > 1}
    root = 1 if len(roots) == 1 else 0
    scopes = {scope for path in paths for scope in path[root:-1]}
    number = re.compile(r"_\d+$")
    endings = {found.group() if (found := number.search(scope)) else "" for scope in scopes}
    ending = endings.pop() if len(endings) == 1 else ""

    def clean(name: str) -> str:
        *scopes, leaf = name.split(";")[0].split("/")
        return "/".join([*(scope.removesuffix(ending) for scope in scopes[root:]), leaf])

    return clean


def _merge_buffers(model: Any) -> None:
    """Points everything at the first of equal buffers and drops those that nothing points at; buffer 0 stays empty."""
    first: dict[bytes, int] = {}
    kept = [schema.BufferT()]
    users = [tensor for graph in model.subgraphs for tensor in graph.tensors] + list(model.metadata or [])
    for user in users:
        data = model.buffers[user.buffer].data
        content = b"" if data is None else np.asarray(data, "uint8").tobytes()
        if content and content not in first:
            first[content] = len(kept)
            kept.append(model.buffers[user.buffer])
        user.buffer = first.get(content, 0)
    model.buffers, model.metadataBuffer = kept, None  # the latter is a deprecated list of their numbers


def _length(values: Any) -> int:
    return 0 if values is None else len(values)


class _AlignedBuffer(schema.BufferT):
    """Written at a multiple of 16 bytes, which the generated class does not do."""

    def Pack(self, builder: Any) -> int:
        if not _length(self.data):
            schema.BufferStart(builder)
            return schema.BufferEnd(builder)
        content = np.asarray(self.data, "uint8").tobytes()
        builder.StartVector(1, len(content), _ALIGNMENT)
        builder.head = builder.head - len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class _SharedQuantization(schema.QuantizationParametersT):
    """Points at an equal vector, or an equal whole, that was written before."""

    shared: dict[Any, int]

    def Pack(self, builder: Any) -> int:
        if not _length(self.scale) or self.details is not None or _length(self.min) or _length(self.max):
            return super().Pack(builder)
        scale, zero = np.asarray(self.scale, "<f4"), np.asarray(self.zeroPoint, "<i8")
        key = (scale.tobytes(), zero.tobytes(), self.quantizedDimension)
        if key not in self.shared:
            vectors = [self._vector(builder, values) for values in (scale, zero)]
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, vectors[0])
            schema.QuantizationParametersAddZeroPoint(builder, vectors[1])
            schema.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
            self.shared[key] = schema.QuantizationParametersEnd(builder)
        return self.shared[key]

    def _vector(self, builder: Any, values: np.ndarray) -> int:
        key = (values.dtype.str, values.tobytes())
        if key not in self.shared:
            self.shared[key] = builder.CreateNumpyVector(values)
        return self.shared[key]
