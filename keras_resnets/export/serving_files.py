"""The files that TF Serving reads beside a SavedModel: warm-up requests, and the configuration of a server of versions."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
WARMUP_BATCHES = (1, 4)
CONFIG, BATCHING = "models.config", "batching_parameters.txt"

_CONFIG = """\
# For tensorflow_model_server --model_config_file=…: the newest version is served. To go back to an older one:
#   model_version_policy {{ specific {{ versions: 1 }} }}
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""
_BATCHING = """\
# For tensorflow_model_server --enable_batching --batching_parameters_file=…: requests that arrive within
# two milliseconds are computed together. num_batch_threads is the number of cores if it is not given.
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 128 }
"""


def write_warmup(folder: Path, requests: Iterator[tuple[str, str, Any]]) -> None:
    """Writes warm-up requests into a SavedModel: `(signature, input's name, TensorProto)` each.

    The records are PredictionLog messages, written here field by field: the package that declares them,
    tensorflow-serving-api, is a client's.
    """
    import tensorflow as tf

    file = folder / WARMUP
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, name, tensor in requests:
            spec = _field(1, folder.name.encode()) + _field(3, signature.encode())  # ModelSpec: name, signature_name
            entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())  # of the map of inputs
            request = _field(1, spec) + _field(2, entry)  # PredictRequest: model_spec, inputs
            writer.write(_field(6, _field(1, request)))  # PredictionLog.predict_log, PredictLog.request


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message in Protocol Buffers' wire format."""
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def write_configuration(folder: Path) -> None:
    """Writes the configuration of a server into the folder of versions, where there is none yet: it may have been edited."""
    texts = {CONFIG: _CONFIG.format(name=folder.resolve().name), BATCHING: _BATCHING}
    for name, text in texts.items():
        if not (folder / name).exists():
            unfinished = folder / f".{name}.{os.getpid()}"
            unfinished.write_text(text, "utf-8")
            unfinished.rename(folder / name)


def has_versions(folder: Path) -> bool:
    return folder.is_dir() and any(entry.name.isdecimal() for entry in folder.iterdir())


def is_saved_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").exists()
