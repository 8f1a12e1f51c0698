"""Serves an exported SavedModel with KServe, which speaks the REST protocol of TF Serving.

    python serving/kserve_server.py digits --model_name digits --http_port 8501

The first argument is a SavedModel's directory, or one of versions of which the newest is served. It needs tensorflow and
kserve, but neither Keras nor keras_resnets: copied into an image of its own, this file is all there is to install.
"""

import argparse
import asyncio
import base64
import binascii
import os
import pathlib
from typing import Any

# Before TensorFlow is imported: nothing is trained here, so weights may be kept in the order that the processor wants.
os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")

import numpy as np
import tensorflow as tf
from kserve import Model, ModelServer, model_server
from kserve.errors import InvalidInput


def newest(path: pathlib.Path) -> pathlib.Path:
    """The directory of the highest version in `path`, or `path` itself if it holds none."""
    versions = [entry for entry in path.iterdir() if entry.name.isdecimal()]
    return max(versions, key=lambda entry: int(entry.name), default=path)


def plain(value: Any) -> Any:
    """A JSON value with `{"b64": …}` decoded."""
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    return [plain(item) for item in value] if isinstance(value, list) else value


class SavedModel(Model):
    """Answers `{"instances": [...], "signature_name": "..."}`, each instance being a value or `{input's name: value}`."""

    def __init__(self, name: str, path: pathlib.Path) -> None:
        super().__init__(name)
        self.loaded = tf.saved_model.load(str(path))
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        return await asyncio.to_thread(self.answer, payload)  # other requests are answered meanwhile

    def answer(self, payload: Any) -> dict[str, Any]:
        if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
            raise InvalidInput('the request must be {"instances": [...]}')
        name = payload.get("signature_name", "serving_default")
        if name not in self.loaded.signatures:
            raise InvalidInput(f"signature_name must be one of {', '.join(self.loaded.signatures)}, not {name!r}")
        function = self.loaded.signatures[name]
        ((argument, spec),) = function.structured_input_signature[1].items()
        outputs = function(**{argument: batch(payload["instances"], argument, spec)})
        return {"predictions": rows({key: output.numpy() for key, output in outputs.items()})}


def batch(instances: list[Any], argument: str, spec: tf.TensorSpec) -> tf.Tensor:
    """The one input of a signature, from all instances; InvalidInput if they are something else."""
    try:
        values = [
            plain(instance[argument] if isinstance(instance, dict) and instance.keys() != {"b64"} else instance)
            for instance in instances
        ]
        if spec.dtype == tf.string:
            if not all(isinstance(value, bytes) for value in values):
                raise ValueError('files must be {"b64": ...}')
            return tf.constant(values, tf.string, shape=(len(values),))
        array = np.array(values, spec.dtype.as_numpy_dtype)
        if not values:
            array = array.reshape(0, *(size or 1 for size in spec.shape[1:]))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InvalidInput(f"instances must hold {argument!r}: {error!r}") from error
    if not spec.shape.is_compatible_with(array.shape):
        raise InvalidInput(f"{argument} must be of shape {spec.shape}, not {array.shape}")
    return tf.constant(array)


def rows(outputs: dict[str, np.ndarray]) -> list[Any]:
    """One JSON value for each instance: of a single output its value, else `{output's name: value}`."""
    lists = {name: np.vectorize(bytes.decode, otypes=[object])(output).tolist() if output.dtype == object and output.size
             else output.tolist() for name, output in outputs.items()}  # fmt: skip
    return next(iter(lists.values())) if len(lists) == 1 else [
        dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, parents=[model_server.parser],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("path", type=pathlib.Path, help="SavedModel's directory, or one of versions")
    arguments = parser.parse_args()
    ModelServer(enable_grpc=False).start([SavedModel(arguments.model_name, newest(arguments.path))])
