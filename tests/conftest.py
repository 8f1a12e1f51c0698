"""What every test of the package shares: the quiet environment, markers, precision fixtures."""

import gc
import os
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if (
    "PYTEST_XDIST_WORKER_COUNT" in os.environ
):  # several processes share the cores: a thread pool each only gets in the way
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")

import keras
import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: long checks that `make test` leaves to `make test-slow`")
    config.addinivalue_line(
        "markers", "series: repeats at length what shorter checks show once; `make test-all` alone has them"
    )


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache of weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_RESNETS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_heap_of_old_networks() -> Iterator[None]:
    """Networks are full of reference cycles, which the collector alone finds too late among TensorFlow's many objects."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _keras_state() -> Iterator[None]:
    """Whatever a test changes in Keras' configuration is undone after it."""
    policy, floatx, data_format = keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)


@pytest.fixture
def float64() -> None:
    """The test runs under Keras' float64 policy."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
