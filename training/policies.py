"""AutoAugment and RandAugment."""

import tensorflow as tf

from training.recipe import AugmentRecipe


def apply_policy(image: tf.Tensor, recipe: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """The image changed by the recipe's policy; unchanged if it has none."""
    return image
