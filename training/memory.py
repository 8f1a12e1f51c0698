"""How much memory a training step takes: an estimate from the shapes of layers and weights, without running anything."""

import dataclasses
import math

import keras

import keras_resnets as kr
from keras_resnets.assembly import Network
from training.recipe import Recipe

# A step holds more than what its gradients need: outputs of additions, gradients on their way, copies of the operations.
OVERHEAD = 1.3
# Numbers that an optimizer keeps for every weight.
SLOTS = {"sgd": 1, "lamb": 2, "rmsprop": 2}


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step on one replica, as `estimate` finds them.

    Attributes:
        weights: of the network, of its average and of the teacher.
        gradients: of the weights that are trained; twice with `accumulate`.
        optimizer: its slots.
        activations: that the gradients need, and what comes beside them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(network: Network, recipe: Recipe, replicas: int = 1) -> StepMemory:
    """The memory of a training step of `network`.

    Activations are the inputs of all convolutions, dense layers and normalisations, which their gradients need, and 30 % more.
    On a CPU, five networks (ResNet-20 and pre-activated ResNet-110 for CIFAR, DenseNet-40, ResNet-50, ResNeSt-50) took 0.8 to 1.15
    times as much. GPU libraries take workspace besides, and TensorFlow all of a GPU's memory unless told otherwise.

    Args:
        network: with known height and width, of the training images.
        recipe: of the run.
        replicas: among which a batch is shared.
    """
    trained = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    weights = sum(math.prod(variable.shape) for variable in network.weights)
    copies = 2 if recipe.ema else 1
    teacher = kr.model_info(recipe.distillation.teacher).params if recipe.distillation.teacher else 0
    half = recipe.precision != "float32"
    images = math.ceil(recipe.batch_size / replicas / recipe.accumulate)
    activations = OVERHEAD * activation_elements(network) * images * (2 if half else 4)
    return StepMemory(
        weights=4 * (copies * weights + teacher) + (2 * weights if half else 0),
        gradients=4 * trained * (2 if recipe.accumulate > 1 else 1),
        optimizer=4 * trained * SLOTS[recipe.optimizer.name],
        activations=round(activations),
    )


def activation_elements(network: Network) -> int:
    """Elements of the inputs of all convolutions, dense layers and normalisations, for one image.

    Raises:
        ValueError: the height or width is unknown.
    """
    kinds = (keras.layers.Conv2D, keras.layers.Dense, keras.layers.BatchNormalization)
    shapes = [layer.get_build_config()["input_shape"][1:] for layer in network._flatten_layers(include_self=False)
              if isinstance(layer, kinds)]  # fmt: skip
    if any(None in shape for shape in shapes):
        raise ValueError("the height or width of the network's input is unknown; its memory cannot be estimated")
    return sum(math.prod(shape) for shape in shapes)
