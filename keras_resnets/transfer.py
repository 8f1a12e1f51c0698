"""Transfer learning: what of a network is trained, and a classifier for other classes."""

import keras

from keras_resnets.assembly import Network, classifier, nearest

_LEVELS = {"stem": "C1", "stage1": "C2", "stage2": "C3", "stage3": "C4", "stage4": "C5"}


def freeze(model: keras.Model, through: str) -> list[str]:
    """Keeps the weights of `model` as they are from the image to the end of a stage, everything behind it is trained.

    A stage ends at its level (`feature_extractor`): a DenseNet's transition belongs to the stage that it leads to.

    Batch normalisation that is frozen runs in inference mode in `fit` as well: neither its scale nor its statistics move.
    Compile the model afterwards, Keras takes up what is trainable then.

    Args:
        model: a network of this package, or a model with its marker layers.
        through: the last frozen part: "stem", "stage1" … "stage4" (CIFAR networks have three stages), "all" for the
            whole model, or "none" to train everything again.

    Returns:
        Names of the layers that are frozen now, without those that have no weights.

    Raises:
        ValueError: `model` has no such part.
    """
    present = {layer.name for layer in model.layers}
    parts = [part for part, level in _LEVELS.items() if level in present] + ["all", "none"]
    if through not in parts:
        raise ValueError(f"through must name a part of {model.name!r}, not {through!r}: {nearest(through, parts)}")
    part = model
    if through in _LEVELS:
        part = keras.Model(model.input, model.get_layer(_LEVELS[through]).output)
    model.trainable = True  # a model that was frozen as a whole would train none of its layers
    frozen = [] if through == "none" else part.layers
    for layer in model.layers:
        layer.trainable = layer not in frozen
    return [layer.name for layer in frozen if layer.weights]


def replace_head(model: Network, classes: int, activation: str | None = "softmax") -> Network:
    """`model` with a new classifier, for other classes; the other layers and their weights are shared, not copied.

    Args:
        model: a network of this package with its classifier.
        classes: of the new classifier.
        activation: of the new classifier; None gives logits.

    Raises:
        ValueError: `model` has no classifier as its last layer, or `classes` is not a positive whole number.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a positive whole number, not {classes!r}")
    last = model.layers[-1]
    if last.name != "predictions" or isinstance(model.output, dict):
        raise ValueError(f"model {model.name!r} must end with a classifier 'predictions', not with {last.name!r}: build it with "
                         "include_top=True and without auxiliary logits")  # fmt: skip
    network = Network(model.input, classifier(last.input, classes, activation), name=model.name)
    network.variant, network.weights_tag = getattr(model, "variant", None), getattr(model, "weights_tag", None)
    return network
