"""What `startup` times, each in a process of its own; nothing is imported before the clock runs."""

import contextlib
import importlib
import time
from collections.abc import Iterator
from typing import Any

IMPORT, BUILD, LOAD, PREDICT, TOTAL = "import", "build", "load weights", "first prediction", "total"


def ours() -> dict[str, float]:
    """Seconds of `import keras_resnets`, `ResNet50(weights="imagenet")` and the first `predict`."""
    start = time.perf_counter()
    keras_resnets = importlib.import_module("keras_resnets")
    imported = time.perf_counter()
    weights = importlib.import_module("keras_resnets.weights")
    with timed(weights, "load_weights") as loading:
        model = keras_resnets.ResNet50(weights="imagenet")
    return _seconds(model, start, imported, sum(loading))


def keras_applications(path: str) -> dict[str, float]:
    """The same of `keras.applications.ResNet50(weights=path)`."""
    start = time.perf_counter()
    keras = importlib.import_module("keras")
    imported = time.perf_counter()
    with timed(keras.Model, "load_weights") as loading:
        model = keras.applications.ResNet50(weights=path)
    return _seconds(model, start, imported, sum(loading))


@contextlib.contextmanager
def timed(holder: Any, name: str) -> Iterator[list[float]]:
    """Within, the seconds of every call of `holder.name` are added to the list."""
    function, seconds = getattr(holder, name), []

    def call(*arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(holder, name, call)
    try:
        yield seconds
    finally:
        setattr(holder, name, function)


def _seconds(model: Any, start: float, imported: float, loading: float) -> dict[str, float]:
    made = time.perf_counter()
    import numpy as np

    model.predict(np.zeros((1, 224, 224, 3), "float32"), verbose=0)
    end = time.perf_counter()
    return {
        IMPORT: imported - start,
        BUILD: made - imported - loading,
        LOAD: loading,
        PREDICT: end - made,
        TOTAL: end - start,
    }


def package() -> dict[str, float]:
    """Seconds of `import keras_resnets` when Keras is there, and of building ResNet-152."""
    importlib.import_module("keras")
    start = time.perf_counter()
    keras_resnets = importlib.import_module("keras_resnets")
    imported = time.perf_counter()
    keras_resnets.ResNet152(weights=None)
    return {IMPORT: imported - start, BUILD: time.perf_counter() - imported}


def build_times(depths: list[int], calls: int = 2) -> list[float]:
    """CPU seconds of building the CIFAR ResNets of these depths, the smallest of some calls in turns."""
    import keras_resnets

    keras_resnets.create_model("resnet20_cifar")
    times: dict[int, list[float]] = {depth: [] for depth in depths}
    for _ in range(calls):
        for depth, found in times.items():
            start = time.process_time()
            keras_resnets.create_model(f"resnet{depth}_cifar")
            found.append(time.process_time() - start)
    return [min(found) for found in times.values()]


def make_files(checkpoint: str, keras_file: str) -> None:
    """A checkpoint of ResNet-50 with PyTorch's names, and a weights file of keras.applications; their values are random."""
    import keras
    import numpy as np
    import safetensors.numpy

    import keras_resnets

    parameters = keras_resnets.pytorch_parameters(keras_resnets.create_model("resnet50")).items()
    arrays = {name: np.ascontiguousarray(to_torch(variable.value)) for name, (variable, to_torch) in parameters}
    safetensors.numpy.save_file(arrays, checkpoint)
    keras.applications.ResNet50(weights=None).save_weights(keras_file)
