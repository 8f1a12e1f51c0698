"""What training makes small: cross-entropy on logits, of auxiliary logits as well, and with a teacher.

Everything is computed from logits, in float32 at any lower precision, for every example by itself.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from training.recipe import Recipe

Loss = Callable[..., Any]


def training_loss(recipe: Recipe) -> Loss:
    """The loss of `recipe`, as a function of `(targets, outputs, teacher_logits=None)`.

    Its arguments are the targets, probabilities `(batch, classes)`; the network's logits of the same shape, or
    `{"logits": …, "aux_logits": …}`; and the teacher's logits of the same images, for recipes with distillation. It returns
    the loss of every example, `(batch,)`:

        classification(logits) + aux_weight * classification(aux_logits) + distillation.weight * distilled(logits)

    with `softmax_cross_entropy` or `sigmoid_cross_entropy` for the classification, on targets that are `smoothed` and then,
    with `target_threshold`, 0 or 1; and `distillation_loss`.
    """
    classification = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}[recipe.loss]
    distillation = recipe.distillation

    def prepared(targets: Any) -> Any:
        targets = smoothed(_wide(targets), recipe.label_smoothing)
        if not recipe.target_threshold:
            return targets
        return ops.cast(targets > recipe.target_threshold, targets.dtype)

    def loss(targets: Any, outputs: Any, teacher_logits: Any = None) -> Any:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        targets = prepared(targets)
        total = classification(targets, logits)
        if isinstance(outputs, dict):
            total += recipe.aux_weight * classification(targets, outputs["aux_logits"])
        if teacher_logits is not None:
            total += distillation.weight * distillation_loss(teacher_logits, logits, distillation.temperature)
        return total

    return loss


def smoothed(targets: Any, share: float) -> Any:
    """`targets` with a share of their weight spread evenly: `(1 - share) * target + share / classes` (Szegedy et al., 2015,
    arXiv 1512.00567, section 7). The true class has its part of the share too."""
    return targets * (1 - share) + share / targets.shape[-1] if share else targets


def softmax_cross_entropy(targets: Any, logits: Any) -> Any:
    """`-Σ target * log softmax(logits)`: `(batch, classes)` twice to `(batch,)`."""
    return -ops.sum(_wide(targets) * ops.log_softmax(_wide(logits)), axis=-1)


def sigmoid_cross_entropy(targets: Any, logits: Any) -> Any:
    """The mean over the classes of the binary cross-entropies of `sigmoid(logits)`, as in timm: every class is a question of
    its own. The sum would have the gradient of as many times the learning rate, and be clipped far more."""
    targets, logits = _wide(targets), _wide(logits)
    each = ops.maximum(logits, 0) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))
    return ops.mean(each, axis=-1)


def distillation_loss(teacher_logits: Any, logits: Any, temperature: float) -> Any:
    """`T² * -Σ softmax(teacher / T) * log softmax(student / T)` (Hinton et al., 2015, arXiv 1503.02531).

    The factor keeps the size of the gradient, which the temperature divides by its square.
    """
    teacher = ops.softmax(_wide(teacher_logits) / temperature)
    student = ops.log_softmax(_wide(logits) / temperature)
    return -(temperature**2) * ops.sum(teacher * student, axis=-1)


def _wide(x: Any) -> Any:
    """In float32, or float64 if it is."""
    x = ops.convert_to_tensor(x)
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
