"""From a Keras model to an ONNX graph: tf2onnx translates the operators, and never sees a weight.

tf2onnx copies all weights for each of its passes. Here the weights are arguments of the traced function, so that what it
translates is small; they are put back, under the names that they have in the model, when the graph is done.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import onnx

from keras_resnets import ops
from keras_resnets.export.base import named_outputs, signature
from keras_resnets.export.onnx_graph import Graph
from keras_resnets.export.onnx_layout import channels_first
from keras_resnets.export.onnx_passes import (
    fold_constants,
    merge_equal_nodes,
    name_values,
    pads_into_windows,
    products_into_gemm,
    remove_identities,
    softmax_without_transposes,
    spell_for_opset,
    sums_into_biases,
)

OPSET = 17  # what tf2onnx writes: the last in which axes are attributes, which is what the passes read


def converted(model: keras.Model, opset: int, nchw_input: bool) -> Graph:
    """`model`, for any batch size, with the input "image" and outputs named as the model's.

    Raises:
        ValueError: the model has operators that ONNX does not.
    """
    graph = _translated(model)
    remove_identities(graph)
    fold_constants(graph)
    softmax_without_transposes(graph)
    channels_first(graph, nchw_input)
    fold_constants(graph)
    remove_identities(graph)
    for rewrite in (pads_into_windows, sums_into_biases, products_into_gemm, merge_equal_nodes):
        rewrite(graph)
        graph.remove_unused()
    spell_for_opset(graph, opset)
    name_values(graph)
    for value in (*graph.inputs, *graph.outputs):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return graph


def _translated(model: keras.Model) -> Graph:
    """The model operator by operator, as TensorFlow has them."""
    import tensorflow as tf
    from tf2onnx import tf_loader, tfonnx

    variables = list({id(variable): variable for variable in model.variables}.values())

    def predict(image: Any, *values: Any) -> dict[str, Any]:
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping), ops.exporting("onnx"):
            return named_outputs(model, image)

    specs = [tf.TensorSpec(v.shape, v.dtype, name=f"weight_{i}") for i, v in enumerate(variables)]
    function = tf.function(predict, autograph=False).get_concrete_function(*signature(model), *specs)
    inputs = [tensor.name for tensor in function.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in function.outputs]
    names = {tensor.name: name for name, tensor in function.structured_outputs.items()}
    arguments = [tensor.name for tensor in function.inputs[: 1 + len(variables)]]
    renamed = {**names, arguments[0]: "image"}
    with _quiet(), tf.device("/cpu:0"):
        frozen = tf_loader.from_function(function, inputs, outputs)
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(frozen, name="")
            translated = tfonnx.process_tf_graph(graph, continue_on_error=True, opset=OPSET, input_names=inputs,
                                                 output_names=outputs, tensors_to_rename=renamed)  # fmt: skip
            proto = translated.make_model("network")
    _check_operators(proto)
    weights = {name: keras.ops.convert_to_numpy(v) for name, v in zip(arguments[1:], variables, strict=True)}
    return Graph.of(proto, weights, {name: v.path for name, v in zip(arguments[1:], variables, strict=True)})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """tf2onnx logs what `_check_operators` raises."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_operators(proto: onnx.ModelProto) -> None:
    foreign = sorted({node.op_type for node in proto.graph.node if node.domain or not onnx.defs.has(node.op_type)})
    if foreign:
        raise ValueError(f"ONNX has no operator for {', '.join(foreign)}")
