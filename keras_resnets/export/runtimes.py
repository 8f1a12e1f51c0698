"""Runs an exported artifact in its own runtime, in a separate process that cannot import Keras.

    run_artifact(path: str | Path, inputs: np.ndarray, batch_size: int = 1) -> tuple[np.ndarray, float]

gives the artifact's outputs and its latency in milliseconds per image. The runtime follows from the path: TensorFlow's
session loader (what TF Serving uses) for a directory, LiteRT for `.tflite`, ONNX Runtime for `.onnx`. The child process
executes this very file, which therefore imports nothing else of the package.
"""

import collections
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("tensorflow", "ai_edge_litert", "onnx", "onnxruntime")
TIMED_RUNS = 20
TIMED_SECONDS = 3.0


class ArtifactError(ValueError):
    """An artifact that does not load or run in its own runtime."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the child process found out.

    Attributes:
        latency_ms: median over some calls, in milliseconds per image; None if the artifact was not run.
        operators: how often each operator occurs.
        problems: reasons why the artifact was not run: operators its runtime should not have to know.
        partitions: pieces that TFLite's XNNPACK delegate runs; None for other formats.
        versions: of the runtime's packages.
    """

    latency_ms: float | None
    operators: dict[str, int]
    problems: list[str]
    partitions: int | None
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """An opened artifact: `call` takes and returns one batch; `batch` is the only batch size it takes, or None."""

    operators: dict[str, int]
    call: Callable[[np.ndarray], np.ndarray]
    batch: int | None
    partitions: int | None = None


class ForeignOperators(Exception):
    """Operators (all of them) and problems of an artifact that is not opened because of some of them."""

    def __init__(self, operators: dict[str, int], problems: list[str]) -> None:
        super().__init__(*problems)
        self.operators, self.problems = operators, problems


def run_artifact(path: str | Path, inputs: np.ndarray, batch_size: int = 1) -> tuple[np.ndarray, float]:
    """Outputs of an exported artifact and its latency, computed without Keras in a separate process.

    Args:
        path: SavedModel directory, `.tflite` file or `.onnx` file with one input and one output.
        inputs: `(images, height, width, channels)`, as the exported model takes them. Artifacts with an int8 interface are
            given them quantised, and their outputs come back dequantised.
        batch_size: images per call. An artifact made for a fixed batch is run with that.

    Returns:
        Outputs `(images, …)`, and milliseconds per image: the median of up to 20 calls after the first.

    Raises:
        ArtifactError: (a ValueError) the artifact does not exist, does not load or does not run.
    """
    outputs, facts = inspect_artifact(path, inputs, batch_size, batch_size)
    if outputs is None or facts.latency_ms is None:
        raise ArtifactError(f"{path} cannot run: {'; '.join(facts.problems)}")
    return outputs, facts.latency_ms


def inspect_artifact(path: str | Path, inputs: np.ndarray, batch_size: int,
                     timed_batch_size: int) -> tuple[np.ndarray | None, Facts]:  # fmt: skip
    """Outputs for `inputs` in batches of `batch_size` (None if the artifact has problems) and facts, from a child process."""
    if not os.path.exists(path):
        raise ArtifactError(f"artifact {os.fspath(path)!r} does not exist")
    _opener(os.fspath(path))
    if not len(inputs) or batch_size < 1:
        raise ValueError(f"inputs and batch_size must be at least one image, not {len(inputs)} and {batch_size}")
    with tempfile.TemporaryDirectory() as folder:
        np.save(os.path.join(folder, "inputs.npy"), inputs)
        # runpy rather than the file as a program: the file's directory, with its onnx.py, stays off the import path.
        command = [sys.executable, "-c", "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')", __file__,
                   os.path.abspath(path), folder, str(batch_size), str(timed_batch_size)]  # fmt: skip
        child = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if child.returncode:
            lines = child.stderr.strip().splitlines()[-5:] or [f"exit status {child.returncode}"]
            raise ArtifactError(f"artifact {os.fspath(path)!r} does not run in its own runtime: " + "\n  ".join(lines))
        facts = Facts(**json.loads(Path(folder, "facts.json").read_text("utf-8")))
        return None if facts.problems else np.load(os.path.join(folder, "outputs.npy")), facts


def _opener(path: str) -> Callable[[str], Runtime]:
    if os.path.isdir(path):
        return _open_saved_model
    if path.endswith(".tflite"):
        return _open_tflite
    if path.endswith(".onnx"):
        return _open_onnx
    raise ArtifactError(f"artifact {path!r} is not a SavedModel directory, a .tflite file or an .onnx file")


def _open_saved_model(path: str) -> Runtime:
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = meta_graph.signature_def["serving_default"]
    ((feed, fetch),) = zip(signature.inputs.values(), signature.outputs.values(), strict=True)
    functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
    operators = _called_operators(session.graph.get_tensor_by_name(fetch.name).op, functions)
    compiled = sorted(name for name, function in functions.items() if function.attr["_XlaMustCompile"].b)
    if compiled:
        raise ForeignOperators(operators, [f"function {name} is compiled by XLA per input shape" for name in compiled])
    batch = feed.tensor_shape.dim[0].size
    return Runtime(operators, lambda x: session.run(fetch.name, {feed.name: x}), batch if batch > 0 else None)


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


def _open_tflite(path: str) -> Runtime:
    from ai_edge_litert.interpreter import Interpreter

    operators = _tflite_operators(path)
    problems = [f"operator {name} is not built into TFLite" for name in operators if name.startswith("CUSTOM:")]
    if problems:
        raise ForeignOperators(operators, problems)
    interpreter = Interpreter(path, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call(x: np.ndarray) -> np.ndarray:
        if interpreter.get_input_details()[0]["shape"][0] != len(x):
            interpreter.resize_tensor_input(source["index"], x.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], _quantized(x, source))
        interpreter.invoke()
        return _dequantized(interpreter.get_tensor(target["index"]), target)

    batch = int(source["shape_signature"][0])
    partitions = sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
    return Runtime(operators, call, batch if batch > 0 else None, partitions)


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


def _quantized(x: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """`x` as the tensor takes it: `round(x / scale) + zero_point`, clipped, for an 8-bit tensor with a scale."""
    scale, zero_point = tensor["quantization"]
    if not scale:
        return x.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantized(y: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    return (y.astype("float32") - zero_point) * np.float32(scale) if scale else y


def _open_onnx(path: str) -> Runtime:
    import onnx
    import onnxruntime

    model = onnx.load(path)
    operators = dict(collections.Counter(f"{node.domain}:{node.op_type}".lstrip(":") for node in model.graph.node))
    problems = [f"operator {name} is not an ONNX operator" for name in operators if not onnx.defs.has(name)]
    if problems:
        raise ForeignOperators(operators, problems)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    batch = source.shape[0] if isinstance(source.shape[0], int) else None
    return Runtime(operators, lambda x: session.run(None, {source.name: x})[0], batch)


def _run(runtime: Runtime, inputs: np.ndarray, batch_size: int) -> np.ndarray:
    size = runtime.batch or batch_size
    outputs = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        missing = (runtime.batch or len(batch)) - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        outputs.append(np.asarray(runtime.call(filled))[: len(batch)])
    return np.concatenate(outputs)


def _latency_ms(runtime: Runtime, inputs: np.ndarray, batch_size: int) -> float:
    batch = np.resize(inputs, (runtime.batch or batch_size, *inputs.shape[1:]))
    runtime.call(batch)
    times: list[float] = []
    while len(times) < TIMED_RUNS and sum(times) < TIMED_SECONDS:
        start = time.perf_counter()
        runtime.call(batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / len(batch) * 1000


def _facts(path: str, folder: str, batch_size: int, timed_batch_size: int) -> Facts:
    """Opens and runs the artifact; its outputs go to the folder that its inputs came in."""
    inputs = np.load(os.path.join(folder, "inputs.npy"))
    try:
        runtime = _opener(path)(path)
    except ForeignOperators as foreign:
        return Facts(None, foreign.operators, foreign.problems, None, {})
    np.save(os.path.join(folder, "outputs.npy"), _run(runtime, inputs, batch_size))
    latency = _latency_ms(runtime, inputs, timed_batch_size)
    versions = {name: getattr(sys.modules[name], "__version__", "unknown") for name in PACKAGES if name in sys.modules}
    return Facts(latency, runtime.operators, [], runtime.partitions, versions)


def _main(path: str, folder: str, batch_size: int, timed_batch_size: int) -> None:
    for package in ("keras", "keras_resnets"):
        sys.modules[package] = None  # type: ignore[assignment]  # from here on, importing it fails
    facts = _facts(path, folder, batch_size, timed_batch_size)
    Path(folder, "facts.json").write_text(json.dumps(dataclasses.asdict(facts)), "utf-8")


if __name__ == "__main__":
    _path, _folder, *_sizes = sys.argv[2:]  # behind "-c" and this file's path
    _main(_path, _folder, *map(int, _sizes))
