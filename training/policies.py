"""AutoAugment and RandAugment: which operations an image gets, and how strong they are.

Strength is a level of 0 to 10, from which every operation's own argument follows.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from training import policy_operations as ops
from training.draws import seed_for
from training.recipe import AugmentRecipe

HIGHEST = 10.0
APPLIED = 0.5  # chance of each operation that RandAugment has drawn, as in the code behind "ResNet strikes back"

# Image, level and sign (1 or -1, with equal chances) to image.
Operation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def _plain(operation: Callable[[tf.Tensor], tf.Tensor]) -> Operation:
    """An operation that has no strength."""
    return lambda image, level, sign: operation(image)


def _scaled(operation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], argument: Callable) -> Operation:
    """An operation whose argument is a function of the level, and of the sign if it takes one."""
    return lambda image, level, sign: operation(image, argument(level, sign))


def _signed(most: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Up to `most`, in both directions."""
    return lambda level, sign: sign * (level * most / HIGHEST)


def _whole(most: float, level: tf.Tensor) -> tf.Tensor:
    """Up to `most`, rounded down."""
    return tf.floor(level * most / HIGHEST)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _plain(ops.auto_contrast),
    "equalize": _plain(ops.equalize),
    "invert": _plain(ops.invert),
    "rotate": _scaled(ops.rotate, _signed(30.0)),
    "posterize": _scaled(ops.posterize, lambda level, sign: tf.maximum(4 - _whole(4.0, level), 1)),
    "solarize": _scaled(ops.solarize, lambda level, sign: 256 - _whole(256.0, level)),
    "solarize_add": _scaled(ops.solarize_add, lambda level, sign: _whole(110.0, level)),
    "shear_x": _scaled(ops.shear_x, _signed(0.3)),
    "shear_y": _scaled(ops.shear_y, _signed(0.3)),
    "translate_x": _scaled(ops.translate_x, _signed(0.45)),
    "translate_y": _scaled(ops.translate_y, _signed(0.45)),
}
ENHANCEMENTS = {"color": ops.color, "contrast": ops.contrast, "brightness": ops.brightness, "sharpness": ops.sharpness}

# Away from the image (1) in both directions: 0.1 to 1.9 at the highest level, nothing at 0.
RANDAUGMENT = OPERATIONS | {
    name: _scaled(operation, lambda level, sign: 1 + sign * (level * 0.9 / HIGHEST))
    for name, operation in ENHANCEMENTS.items()
}
# From weaker than the image to stronger: 0.1 at level 0, 1.9 at the highest.
AUTOAUGMENT = OPERATIONS | {
    name: _scaled(operation, lambda level, sign: 0.1 + level * 1.8 / HIGHEST)
    for name, operation in ENHANCEMENTS.items()
}

# The 25 sub-policies found for ImageNet (Cubuk et al., 2018, table 9): two operations each, with probability and level.
Step = tuple[str, float, int]
SUB_POLICIES: tuple[tuple[Step, Step], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 0)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


@tf.autograph.experimental.do_not_convert
def apply_policy(image: tf.Tensor, recipe: AugmentRecipe, seed: tf.Tensor) -> tf.Tensor:
    """The image changed by the recipe's policy; as it is without one.

    Args:
        image: `(height, width, 3)`, pixels 0..255, uint8 or float32, which is rounded first.
        recipe: `policy`, and for "randaugment" the number of operations and their level.
        seed: two integers, of the example.

    Returns:
        An image of the same shape and type; whole numbers if there is a policy.
    """
    if recipe.policy == "none":
        return image
    draw = _draw_autoaugment if recipe.policy == "autoaugment" else _draw_randaugment
    operations, steps = draw(recipe, seed_for("policy", seed))

    def carried_out(image: tf.Tensor, step: tuple[tf.Tensor, ...]) -> tf.Tensor:
        wanted, chosen, level, sign = step
        branches = [functools.partial(operation, image, level, sign) for operation in operations]
        return tf.ensure_shape(
            tf.switch_case(tf.where(wanted, chosen, len(operations)), [*branches, lambda: image]), image.shape
        )

    return tf.cast(tf.foldl(carried_out, steps, _to_uint8(image)), image.dtype)


def _to_uint8(image: tf.Tensor) -> tf.Tensor:
    return image if image.dtype == tf.uint8 else tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


# Operations, and of each step whether it is carried out, with which of them, at which level and with which sign.
Drawn = tuple[list[Operation], tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]]


def _draw_randaugment(recipe: AugmentRecipe, seed: tf.Tensor) -> Drawn:
    operations = list(RANDAUGMENT.values())
    wanted, chosen, signs = tf.unstack(tf.random.stateless_uniform((3, recipe.policy_ops), seed))
    noise = tf.random.stateless_normal((recipe.policy_ops,), seed_for("noise", seed), stddev=recipe.policy_noise)
    levels = tf.clip_by_value(recipe.policy_magnitude + noise, 0.0, HIGHEST)
    return operations, (wanted < APPLIED, tf.cast(chosen * len(operations), tf.int32), levels, _sign(signs))


def _draw_autoaugment(recipe: AugmentRecipe, seed: tf.Tensor) -> Drawn:
    names = list(AUTOAUGMENT)
    row, wanted, signs = tf.split(tf.random.stateless_uniform((5,), seed), [1, 2, 2])
    row = tf.cast(row[0] * len(SUB_POLICIES), tf.int32)
    chosen = tf.constant([[names.index(name) for name, _, _ in steps] for steps in SUB_POLICIES])[row]
    chances = tf.constant([[chance for _, chance, _ in steps] for steps in SUB_POLICIES])[row]
    levels = tf.constant([[float(level) for _, _, level in steps] for steps in SUB_POLICIES])[row]
    return list(AUTOAUGMENT.values()), (wanted < chances, chosen, levels, _sign(signs))


def _sign(draws: tf.Tensor) -> tf.Tensor:
    return tf.where(draws < 0.5, -1.0, 1.0)
