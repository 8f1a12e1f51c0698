"""The program that runs an artifact in its own runtime: a process that cannot import Keras.

The runtime follows from the path: TensorFlow's session loader (what TF Serving uses) for a directory, LiteRT for `.tflite`,
ONNX Runtime for `.onnx`. `runtimes.py` starts this file by its path, so that it imports nothing else of the package.
"""

import collections
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

PACKAGES = ("tensorflow", "ai_edge_litert", "onnx", "onnxruntime")
TIMED_RUNS = 20
TIMED_SECONDS = 3.0
DEFAULT_SIGNATURE = "predict"


@dataclasses.dataclass(frozen=True)
class Call:
    """One run that is asked for: `inputs` by name through `signature`, `batch` images at a time."""

    signature: str
    inputs: Arrays
    batch: int


@dataclasses.dataclass(frozen=True)
class Function:
    """One function of an opened artifact; `batch` is the only batch size it takes, or None."""

    run: Callable[[Arrays], Arrays]
    inputs: tuple[str, ...]
    batch: int | None = None


@dataclasses.dataclass(frozen=True)
class Runtime:
    """An opened artifact."""

    operators: dict[str, int]
    functions: dict[str, Function]
    partitions: int | None = None


class ForeignOperators(Exception):
    """Operators (all of them) and problems of an artifact that is not opened because of some of them."""

    def __init__(self, operators: dict[str, int], problems: list[str]) -> None:
        super().__init__(*problems)
        self.operators, self.problems = operators, problems


def opener(path: str) -> Callable[[str, int | None], Runtime] | None:
    """What opens the artifact at `path`, or None if it is of no kind known here."""
    if os.path.isdir(path):
        return _open_saved_model
    return {".tflite": _open_tflite, ".onnx": _open_onnx}.get(os.path.splitext(path)[1])


def _open_saved_model(path: str, threads: int | None) -> Runtime:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads or 0, inter_op_parallelism_threads=threads or 0
    )
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    library = {function.signature.name: function for function in meta_graph.graph_def.library.function}

    def function(signature: Any) -> Function:
        feeds = {name: tensor.name for name, tensor in signature.inputs.items()}
        fetches = {name: tensor.name for name, tensor in signature.outputs.items()}
        sizes = {tensor.tensor_shape.dim[0].size for tensor in signature.inputs.values() if tensor.tensor_shape.dim}
        batch = sizes.pop() if len(sizes) == 1 else -1

        def run(inputs: Arrays) -> Arrays:
            return session.run(fetches, {feeds[name]: value for name, value in inputs.items()})

        return Function(run, tuple(feeds), batch if batch > 0 else None)

    signatures = {key: value for key, value in meta_graph.signature_def.items() if not key.startswith("__")}
    (output, *_) = signatures.get(DEFAULT_SIGNATURE, signatures["serving_default"]).outputs.values()
    operators = _called_operators(session.graph.get_tensor_by_name(output.name).op, library)
    compiled = sorted(name for name, function in library.items() if function.attr["_XlaMustCompile"].b)
    if compiled:
        raise ForeignOperators(operators, [f"function {name} is compiled by XLA per input shape" for name in compiled])
    return Runtime(operators, {key: function(signature) for key, signature in signatures.items()})


def _called_operators(operation: Any, functions: dict[str, Any]) -> dict[str, int]:
    """Operators in the functions that `operation` calls, directly or not: saving and restoring are left out."""
    counts: collections.Counter[str] = collections.Counter()
    pending = [operation.node_def]
    while pending:
        for attribute in pending.pop().attr.values():
            if attribute.func.name in functions:
                nodes = functions[attribute.func.name].node_def
                counts.update(node.op for node in nodes)
                pending.extend(nodes)
    return dict(counts)


def _open_tflite(path: str, threads: int | None) -> Runtime:
    from ai_edge_litert.interpreter import Interpreter

    operators = _tflite_operators(path)
    problems = [f"operator {name} is not built into TFLite" for name in operators if name.startswith("CUSTOM:")]
    if problems:
        raise ForeignOperators(operators, problems)
    interpreter = Interpreter(path, num_threads=threads or os.cpu_count())
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    targets = interpreter.get_output_details()
    names = _tflite_output_names(interpreter, targets)

    def run(inputs: Arrays) -> Arrays:
        (x,) = inputs.values()
        if interpreter.get_input_details()[0]["shape"][0] != len(x):
            interpreter.resize_tensor_input(source["index"], x.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], quantized(x, source))
        interpreter.invoke()
        return {
            name: dequantized(interpreter.get_tensor(target["index"]), target)
            for name, target in zip(names, targets, strict=True)
        }

    batch = int(source["shape_signature"][0])
    partitions = sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
    function = Function(run, ("image",), batch if batch > 0 else None)
    return Runtime(operators, {DEFAULT_SIGNATURE: function}, partitions)


def _tflite_output_names(interpreter: Any, targets: list[dict[str, Any]]) -> list[str]:
    """The names that the file's one signature has for its outputs; those of the tensors if it has none."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        return [target["name"] for target in targets]
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    names = {detail["index"]: name for name, detail in runner.get_output_details().items()}
    return [names.get(target["index"], target["name"]) for target in targets]


def _tflite_operators(path: str) -> dict[str, int]:
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.Model.GetRootAs(Path(path).read_bytes())
    kinds = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        # Files written before the 128th operator keep the code in the deprecated, narrower field.
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        kinds.append(f"CUSTOM:{code.CustomCode().decode()}" if name == "CUSTOM" else name)
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return dict(collections.Counter(
        kinds[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength())
    ))  # fmt: skip


def quantized(x: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """`x` as the tensor takes it: `round(x / scale) + zero_point`, clipped, for an integer tensor with a scale."""
    scale, zero_point = tensor["quantization"]
    if not scale:
        return x.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def dequantized(y: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """What the values of a tensor stand for."""
    scale, zero_point = tensor["quantization"]
    return (y.astype("float32") - zero_point) * np.float32(scale) if scale else y


def _open_onnx(path: str, threads: int | None) -> Runtime:
    import onnx
    import onnxruntime

    model = onnx.load(path)
    operators = dict(collections.Counter(f"{node.domain}:{node.op_type}".lstrip(":") for node in model.graph.node))
    problems = [f"operator {name} is not an ONNX operator" for name in operators if not onnx.defs.has(name)]
    if problems:
        raise ForeignOperators(operators, problems)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    batch = source.shape[0] if isinstance(source.shape[0], int) else None

    def run(inputs: Arrays) -> Arrays:
        (x,) = inputs.values()
        return dict(zip(names, session.run(None, {source.name: x}), strict=True))

    return Runtime(operators, {DEFAULT_SIGNATURE: Function(run, (source.name,), batch)})


def _run(function: Function, call: Call) -> Arrays:
    images = len(next(iter(call.inputs.values())))
    size = function.batch or call.batch
    outputs: list[Arrays] = []
    for start in range(0, images, size):
        count = min(size, images - start)
        missing = (function.batch or count) - count  # what a fixed batch lacks is filled up by repetition
        batch = {
            name: np.concatenate([values[start : start + count], np.repeat(values[start : start + 1], missing, axis=0)])
            for name, values in call.inputs.items()
        }
        outputs.append({name: np.asarray(value)[:count] for name, value in function.run(batch).items()})
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def _latency_ms(function: Function, inputs: Arrays, batch_size: int) -> float:
    size = function.batch or batch_size
    batch = {name: np.resize(values, (size, *values.shape[1:])) for name, values in inputs.items()}
    function.run(batch)
    times: list[float] = []
    while len(times) < TIMED_RUNS and sum(times) < TIMED_SECONDS:
        start = time.perf_counter()
        function.run(batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / size * 1000


def packed(arrays: Arrays) -> Arrays:
    """`arrays` for `np.savez`, which would pickle those of `bytes` objects: such become their bytes and their lengths."""
    plain: Arrays = {}
    for name, values in arrays.items():
        if values.dtype == object:
            plain[f"{name}|lengths"] = np.array([len(value) for value in values.flat], "int64").reshape(values.shape)
            values = np.frombuffer(b"".join(values.flat), "uint8")
        plain[name] = values
    return plain


def unpacked(arrays: Arrays) -> Arrays:
    """The inverse of `packed`."""
    plain = {name: values for name, values in arrays.items() if not name.endswith("|lengths")}
    for name in plain:
        if f"{name}|lengths" in arrays:
            lengths = arrays[f"{name}|lengths"]
            pieces = np.split(plain[name], np.cumsum(lengths)[:-1])
            plain[name] = np.empty(lengths.shape, object)
            for place, piece in zip(np.ndindex(lengths.shape), pieces, strict=True):
                plain[name][place] = piece.tobytes()
    return plain


def main(path: str, folder: str) -> None:
    """Runs the calls that `folder` describes, and leaves their outputs and what was found out there."""
    for package in ("keras", "keras_resnets"):
        sys.modules[package] = None  # type: ignore[assignment]  # from here on, importing it fails
    asked = json.loads(Path(folder, "asked.json").read_text("utf-8"))
    facts: dict[str, Any] = {"operators": {}, "problems": [], "partitions": None, "latency_ms": None}
    try:
        runtime = opener(path)(path, asked["threads"])  # type: ignore[misc]
    except ForeignOperators as foreign:
        facts |= {"operators": foreign.operators, "problems": foreign.problems}
    else:
        for i, call in enumerate(asked["calls"]):
            if call["signature"] not in runtime.functions:
                sys.exit(f"it has no signature {call['signature']!r}: it has {', '.join(map(repr, runtime.functions))}")
            function = runtime.functions[call["signature"]]
            with np.load(os.path.join(folder, f"inputs_{i}.npz")) as stored:
                inputs = unpacked(dict(stored))
            if len(inputs) == 1 == len(function.inputs):  # the one input of a function may be called anything
                inputs = dict(zip(function.inputs, inputs.values(), strict=True))
            outputs = _run(function, Call(call["signature"], inputs, call["batch"]))
            np.savez(os.path.join(folder, f"outputs_{i}.npz"), **packed(outputs))  # type: ignore[arg-type]
            if i == 0:
                facts["latency_ms"] = _latency_ms(function, inputs, asked["timed_batch"])
        facts |= {"operators": runtime.operators, "partitions": runtime.partitions}
    facts["versions"] = {
        name: getattr(sys.modules[name], "__version__", "unknown") for name in PACKAGES if name in sys.modules
    }
    Path(folder, "facts.json").write_text(json.dumps(facts), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[2:])  # behind "-c" and this file's path
