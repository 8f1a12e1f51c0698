"""The digits network as float32 and as int8, made once by the command of the guide."""

import contextlib
import io

import keras
import pytest
from files_of_digits import Files, commands


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("export needs Keras on the TensorFlow backend")
    from tflite import quantize

    folder = tmp_path_factory.mktemp("files")
    (command,) = commands("quantize")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(folder)
        assert quantize.main(command) == 0
    return Files(folder / "digits.tflite", folder / "digits_int8.tflite", said.getvalue())
