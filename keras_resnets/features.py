"""Feature maps of a network at its levels, for detectors, segmenters and a look inside."""

from collections.abc import Sequence

import keras

from keras_resnets.assembly import Network

_LEVELS = ("C1", "C2", "C3", "C4", "C5")


def feature_extractor(model: keras.Model, levels: Sequence[str] = ("C2", "C3", "C4", "C5")) -> keras.Model:
    """A model with the input and the weights of `model` that gives its feature maps.

    Args:
        model: a network of this package, or a functional model that has its marker layers.
        levels: which: "C1" is the stem's output, "C2" to "C5" those of the stages. CIFAR networks have "C1" to "C4".

    Returns:
        A model from `(batch, height, width, channels)` to `{level: (batch, height / reduction, width / reduction, features)}`.
        Reductions are 2, 4, 8, 16, 32 for ImageNet networks and 1, 1, 2, 4 for CIFAR networks; `output_stride` limits them.
        Inception networks do not pad: their maps are a little smaller.

    Raises:
        ValueError: `levels` is empty, or holds a level twice, or one that `model` lacks.
    """
    levels = [levels] if isinstance(levels, str) else list(levels)
    present = [layer.name for layer in model.layers if layer.name in _LEVELS]
    if not levels or len(set(levels)) < len(levels):
        raise ValueError(f"levels must be different names of levels, not {levels}")
    for level in levels:
        if level not in present:
            raise ValueError(f"model {model.name!r} has no level {level!r}: it has {', '.join(present) or 'none'}")
    outputs = {level: model.get_layer(level).output for level in levels}
    return keras.Model(model.input, outputs, name=f"{model.name}_features")


def without_auxiliary(model: Network) -> Network:
    """`model` as it is used after training: without an auxiliary classifier if it has one, and not compiled.

    The layers are those of `model`: weights are shared, not copied.
    """
    output = model.output
    network = Network(model.input, output["logits"] if isinstance(output, dict) else output, name=model.name)
    network.variant, network.weights_tag = model.variant, model.weights_tag
    return network
