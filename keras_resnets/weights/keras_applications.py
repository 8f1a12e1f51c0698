"""The `.h5` files that keras.applications publishes, as weights of networks of this package."""

import os

import keras
import numpy as np

from keras_resnets.assembly import Network, nearest
from keras_resnets.registry import create_model

# Our network: its function in keras.applications.
APPLICATIONS = {
    "resnet50_v1": "ResNet50",
    "resnet101_v1": "ResNet101",
    "resnet152_v1": "ResNet152",
    "resnet50_v2": "ResNet50V2",
    "resnet101_v2": "ResNet101V2",
    "resnet152_v2": "ResNet152V2",
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
}


def read_keras_applications(path: str | os.PathLike, network: str) -> dict[str, np.ndarray]:
    """The weights in a file that keras.applications publishes, as those of our network.

    What differs is settled in the numbers. Biases before a normalisation go into its moving mean; where the epsilons of the
    normalisations differ, the moving variances make up for it. The stem of the ResNets v1 reads BGR there and RGB here, so that
    their images are to be less the mean (123.68, 116.779, 103.939), and not scaled: the normalisation "caffe".

    Args:
        path: of a file with the classifier for ImageNet's 1000 classes ("…_tf_kernels.h5", not "…_notop.h5").
        network: its name here, such as "resnet50_v1" for ResNet50. What keras.applications calls InceptionV3 is
            "inception_v3" with `count_include_pad=False`.

    Returns:
        Arrays by the paths of our variables, in Keras' layouts.

    Raises:
        ValueError: keras.applications has no such network; `path` is not a file, or not a whole one of that network.
    """
    from keras_resnets.equivalence import carry_keras_applications, carry_keras_inception
    from keras_resnets.equivalence.variables import stateful

    if network not in APPLICATIONS:
        raise ValueError(f"network {network!r} is not one of keras.applications': {nearest(network, APPLICATIONS)}")
    source = _application(path, network)
    target = create_model(network)
    (carry_keras_inception if network.startswith("inception") else carry_keras_applications)(source, target)
    arrays = {variable.path: keras.ops.convert_to_numpy(variable) for variable in stateful(target)}
    excess = np.float32(_epsilon(source) - _epsilon(target))
    arrays |= {name: array + excess for name, array in arrays.items() if name.endswith("/moving_variance")}
    if network.endswith("_v1"):
        arrays["stem/conv/kernel"] = arrays["stem/conv/kernel"][:, :, ::-1]
    return arrays


def _application(path: str | os.PathLike, network: str) -> keras.Model:
    """The network of keras.applications with the weights of the file."""
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ValueError(f"source {name!r} is not a file")
    try:
        return getattr(keras.applications, APPLICATIONS[network])(weights=name)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise ValueError(f"source {name!r} is not a whole file of keras.applications' {APPLICATIONS[network]}: "
                         f"{error}") from error  # fmt: skip


def _epsilon(model: keras.Model | Network) -> float:
    """What all normalisations of a network add to the variance."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    (epsilon,) = {norm.epsilon for norm in norms}
    return epsilon
