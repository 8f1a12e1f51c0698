"""Networks and blocks that compute the same function in different forms, and how to carry weights between them.

Each function takes a `source` and a `target`, models or built layers, assigns the target's variables, and leaves the source
alone; afterwards the two agree up to the order of floating-point sums, in inference and in training.
"""

from keras_resnets.equivalence.blocks import carry_dual_path, carry_merge_and_run, carry_shared_dense_layer
from keras_resnets.equivalence.forms import carry_form, carry_layout
from keras_resnets.equivalence.keras_applications import carry_keras_applications, carry_keras_inception

__all__ = [
    "carry_dual_path",
    "carry_form",
    "carry_keras_applications",
    "carry_keras_inception",
    "carry_layout",
    "carry_merge_and_run",
    "carry_shared_dense_layer",
]
