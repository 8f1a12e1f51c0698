"""Programs that train and evaluate the networks of keras_resnets; run them from a checkout: `python -m training.train`."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def native_messages_hidden() -> Iterator[None]:
    """Drops what C++ code writes to the standard error; Python's exceptions come through."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# TensorFlow greets with several lines about oneDNN and CUDA while it is imported, whatever its log level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with native_messages_hidden():
    import tensorflow  # noqa: F401
