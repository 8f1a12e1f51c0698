"""Training losses against PyTorch's, and against sums written out by hand."""

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from training.losses import sigmoid_cross_entropy, training_loss
from training.recipe import Recipe, load_recipe

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "data" / "losses.json").read_text("utf-8"))
CASES: dict[str, list[str]] = {
    "softmax": ["label_smoothing=0"],
    "softmax_smoothed": [],
    "sigmoid": ["loss=sigmoid", "label_smoothing=0"],
    "sigmoid_smoothed": ["loss=sigmoid"],
    "sigmoid_threshold": ["loss=sigmoid", "label_smoothing=0", "target_threshold=0.2"],
    "auxiliary": ["aux_weight=0.4"],
    "distilled": ["distillation={teacher: resnet20_cifar, weights: digits, temperature: 20, weight: 0.5}"],
}


def recipe(*overrides: str) -> Recipe:
    """With label smoothing 0.1."""
    return load_recipe("digits_resnet20", overrides)


def arrays(dtype: str) -> dict[str, Any]:
    return {name: tf.constant(GOLDEN[name], dtype) for name in ("logits", "aux_logits", "teacher_logits", "targets")}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_losses_of_pytorch(case: str, dtype: str) -> None:
    """Values and gradients, with one logit of 200 and one row of some 90 among them."""
    given, expected = arrays(dtype), GOLDEN["cases"][case]
    loss = training_loss(recipe(*CASES[case]))
    with tf.GradientTape() as tape:
        tape.watch(given["logits"])
        outputs = given["logits"]
        if case == "auxiliary":
            outputs = {"logits": outputs, "aux_logits": given["aux_logits"]}
        values = loss(given["targets"], outputs, given["teacher_logits"] if case == "distilled" else None)
    tolerance = {"rtol": 1e-12, "atol": 1e-13} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(values, expected["loss"], **tolerance)
    np.testing.assert_allclose(tape.gradient(values, given["logits"]), expected["gradient"], **tolerance)
    assert values.dtype == dtype


def test_half_precision_is_computed_in_float32() -> None:
    """Logits of 300 and -300 in float16: their exponentials would overflow there."""
    logits = tf.constant([[300.0, -300.0], [0.5, -0.25]], "float16")
    targets = tf.constant([[0.0, 1.0], [1.0, 0.0]], "float16")
    for name, expected in (("softmax", 600.0), ("sigmoid", 300.0)):
        values = training_loss(recipe(f"loss={name}", "label_smoothing=0"))(targets, logits)
        assert values.dtype == "float32"
        assert float(values[0]) == pytest.approx(expected)
    assert float(values[1]) == pytest.approx((math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-0.25))) / 2, rel=1e-6)


def test_smoothing_spreads_over_all_classes() -> None:
    """The true class keeps its part: with uniform logits and any share the loss is log K, and with one logit raised by x the
    target 1 - share + share/K counts."""
    loss = training_loss(recipe("label_smoothing=0.3"))
    targets = tf.one_hot([2], 4)
    assert float(loss(targets, tf.zeros((1, 4)))[0]) == pytest.approx(math.log(4))
    raised = tf.constant([[0.0, 0.0, 5.0, 0.0]])
    assert float(loss(targets, raised)[0]) == pytest.approx(math.log(3 + math.exp(5)) - (0.7 + 0.3 / 4) * 5, rel=1e-6)


def test_sigmoid_is_a_mean_over_classes() -> None:
    assert float(sigmoid_cross_entropy(tf.one_hot([1], 10), tf.zeros((1, 10)))[0]) == pytest.approx(math.log(2))


def test_distillation_gradient_hardly_depends_on_the_temperature() -> None:
    """At high temperatures the gradient tends to (student - teacher) / K for logits of mean zero: that is what T² is for
    (Hinton et al., section 2.1)."""
    student, teacher = tf.constant([[1.0, -2.0, 1.0]], "float64"), tf.constant([[-1.0, -1.0, 2.0]], "float64")
    for temperature in (200.0, 2000.0):
        loss = training_loss(recipe(
            f"distillation={{teacher: resnet20_cifar, weights: digits, temperature: {temperature}}}", "label_smoothing=0"
        ))  # fmt: skip
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(student)
            taught, untaught = (loss(tf.one_hot([0], 3, dtype="float64"), student, given) for given in (teacher, None))
        gradient = tape.gradient(taught, student) - tape.gradient(untaught, student)
        np.testing.assert_allclose(gradient, (student - teacher) / 3, rtol=0.02)
