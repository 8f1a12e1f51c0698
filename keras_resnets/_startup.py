"""Silence while the command line starts: imported first by the package, it does nothing in any other process.

TensorFlow writes several lines to stderr from C++ when it is imported, at any log level, and the package imports it
(through Keras) before a line of `cli.py` runs. Users of a command see what the command says, and nothing else.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

STDERR = 2


@contextlib.contextmanager
def held_back_stderr() -> Iterator[None]:
    """Drops what is written to stderr, by C++ too, unless an unexpected exception leaves the block."""
    sys.stderr.flush()
    stderr = os.dup(STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        except ImportError:
            raise  # it says what is missing
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, STDERR)
            os.close(stderr)


def is_command_line() -> bool:
    """Whether this process runs the script `keras-resnets` or `python -m keras_resnets.cli`."""
    return Path(sys.argv[0]).stem == "keras-resnets" or (sys.argv[0] == "-m" and "keras_resnets.cli" in sys.orig_argv)


if is_command_line():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for what is logged later
    try:
        with held_back_stderr():
            import keras  # noqa: F401
    except ImportError as error:
        sys.exit(f"keras-resnets: error: {error}. Keras needs a backend: pip install 'keras-resnets[tensorflow]'")
