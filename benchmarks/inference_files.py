"""The files that `benchmarks.inference` times: each made by the program that its users would use, in a process of its own.

python -m benchmarks.inference_files MAKER NETWORK PATH

They are kept in build/inference, and made again when the package or the peers' versions have changed. All of a network have the
same weights, except stock Keras', which `tests/test_stock.py` proves to compute what ours do.
"""

import argparse
import functools
import hashlib
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.harness import ROOT

FOLDER = ROOT / "build" / "inference"
# keras.applications' networks, by our names. Its ResNet50 has its strides on the first 1x1 convolutions.
APPLICATIONS = {"resnet50_v1": "ResNet50", "densenet121": "DenseNet121", "inception_v3": "InceptionV3"}
BATCHES = (1, 8)
_CALIBRATION_IMAGES = 32


def image_size(network: str) -> int:
    """The side of the input images: the network's own."""
    return 299 if network == "inception_v3" else 224


def path_of(maker: str, network: str) -> pathlib.Path:
    """Where the file is or will be; a new place for every version of the code and the packages that make it."""
    _, suffix, _ = MAKERS[maker]
    return FOLDER / f"{network}.{maker}.{_version(maker)}{suffix}"


@functools.cache
def _version(maker: str) -> str:
    """A name for the state of what the file is made by."""
    benchmarks = ROOT / "benchmarks"
    made_by = {
        "weights": [],
        "timm_onnx": [benchmarks / "peers.txt"],
        "stock_saved_model": benchmarks.glob("stock*.py"),
        "applications_tflite": [],
    }.get(maker, (ROOT / "keras_resnets").rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(made_by))).hexdigest()[:8]


def make(maker: str, network: str, peers_python: str = sys.executable) -> pathlib.Path:
    """The file, made if it is not there yet; ends the program if it cannot be made."""
    path, (_, _, by_peers) = path_of(maker, network), MAKERS[maker]
    if not path.exists():
        python = peers_python if by_peers else sys.executable
        command = [python, "-m", "benchmarks.inference_files", maker, network, str(path)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{maker} of {network} cannot be made:\n{done.stderr[-2000:]}")
    return path


def network_of_ours(network: str) -> Any:
    """Our network with the weights that every file has."""
    import keras_resnets as kr

    model = kr.create_model(
        network, weights=None, input_shape=(image_size(network),) * 2 + (3,), classifier_activation=None
    )
    kr.load_pytorch_weights(model, make("weights", network))
    return model


def _weights(network: str, path: pathlib.Path) -> None:
    """Weights in PyTorch's names and order: random, with statistics that matter."""
    import keras
    import numpy as np
    from safetensors.numpy import save_file

    import keras_resnets as kr
    from benchmarks.exports import make_statistics_matter

    keras.utils.set_random_seed(0)
    model = kr.create_model(network, weights=None)
    make_statistics_matter(model)
    parameters = kr.pytorch_parameters(model).items()
    save_file(
        {name: np.ascontiguousarray(to_torch(variable.numpy())) for name, (variable, to_torch) in parameters}, path
    )


def _answers(network: str, path: pathlib.Path) -> None:
    """Images, and the logits that every file has to give for them."""
    import numpy as np

    size = image_size(network)
    images = np.random.default_rng(0).normal(size=(max(BATCHES), size, size, 3)).astype("float32")
    with path.open("wb") as file:
        np.savez(file, images=images, logits=np.asarray(network_of_ours(network)(images, training=False)))


def _export(network: str, path: pathlib.Path, **options: Any) -> None:
    """`keras_resnets.export`. The weights are random, which 8 bits treat worse than trained ones: agreement is not asked for."""
    import keras_resnets as kr
    from keras_resnets.export.photos import real_images

    model = network_of_ours(network)
    if options.get("quantization"):
        options |= {"calibration": real_images(model, _CALIBRATION_IMAGES), "tolerance": 1.0, "min_agreement": 0.0}
    kr.export(model, path, **options)


def _timm_onnx(network: str, path: pathlib.Path) -> None:
    """timm's network through PyTorch's exporter, as its documentation shows it, for any batch."""
    import torch

    size = image_size(network)
    shapes = ({0: torch.export.Dim("batch")},)
    example = torch.randn(2, 3, size, size)
    torch.onnx.export(
        timm_network(network), (example,), str(path), dynamo=True, dynamic_shapes=shapes, external_data=False
    )


def timm_network(network: str) -> Any:
    """timm's network with the weights that every file has."""
    importlib.import_module("benchmarks.torchvision_cpu")
    import safetensors.torch
    import timm

    model = timm.create_model(network).eval()
    missing, unexpected = model.load_state_dict(safetensors.torch.load_file(path_of("weights", network)), strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise RuntimeError(f"weights of {network} that timm lacks: {unexpected}; that it wants: {missing}")
    return model


def _stock(network: str, path: pathlib.Path) -> None:
    """`model.export` of the network written in stock Keras layers."""
    from benchmarks.stock import NETWORKS

    NETWORKS[network]((image_size(network),) * 2 + (3,)).export(str(path), verbose=False)


def _applications(network: str) -> Any:
    import keras

    return getattr(keras.applications, APPLICATIONS[network])(weights=None, classifier_activation=None)


def _applications_tflite(network: str, path: pathlib.Path) -> None:
    """TensorFlow's converter on the network of keras.applications."""
    import tensorflow as tf

    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(_applications(network)).convert())


Maker = Callable[[str, pathlib.Path], None]
# Name: who makes it, the suffix of the file, and whether it runs in the peers' environment.
MAKERS: dict[str, tuple[Maker, str, bool]] = {
    "weights": (_weights, ".safetensors", False),
    "answers": (_answers, ".npz", False),
    "saved_model": (functools.partial(_export, format="saved_model"), "", False),
    "tflite": (functools.partial(_export, format="tflite"), ".tflite", False),
    "tflite_int8": (
        functools.partial(_export, format="tflite", quantization="int8", quantizer="converter"), ".tflite", False),
    "onnx": (functools.partial(_export, format="onnx"), ".onnx", False),
    "onnx_nchw": (functools.partial(_export, format="onnx", layout="nchw"), ".onnx", False),
    "onnx_int8": (functools.partial(_export, format="onnx", quantization="int8"), ".onnx", False),
    "timm_onnx": (_timm_onnx, ".onnx", True),
    "stock_saved_model": (_stock, "", False),
    "applications_tflite": (_applications_tflite, ".tflite", False),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference_files", description=__doc__.splitlines()[0])
    parser.add_argument("maker", choices=MAKERS)
    parser.add_argument("network")
    parser.add_argument("path", type=pathlib.Path)
    options = parser.parse_args()
    function, suffix, _ = MAKERS[options.maker]
    options.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.path.parent) as folder:
        made = pathlib.Path(folder, f"network{suffix}")
        function(options.network, made)
        for old in options.path.parent.glob(f"{options.network}.{options.maker}.*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        os.replace(made, options.path)


if __name__ == "__main__":
    main()
