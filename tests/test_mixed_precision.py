"""Networks under Keras' 16-bit policies: what stays float32, and that training works."""

from typing import Any

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr

SMALL = {"depths": (1, 1, 1, 1), "input_shape": (64, 64, 3), "classes": 5}
# Grouped convolutions, attention, blur, dilation and a pre-activation network.
NETWORKS = {
    "resnet18": SMALL,
    "resnext50_32x4d": SMALL,
    "seresnet50": SMALL,
    "ecaresnet50d": SMALL,
    "skresnet18": SMALL,
    "res2next50": {**SMALL, "depths": (2, 1, 1, 1)},
    "resnetblur50": {**SMALL, "output_stride": 16},
    "resnetv2_18": SMALL,
    "resnest50_fast_2s2x40d": SMALL,
    "resnet20_cifar": {"depth": 1},
}
# Largest difference of logits from float32 that rounding of activations to 11 or 8 bits explains, relative to the largest.
ROUNDING = {"mixed_float16": 0.01, "mixed_bfloat16": 0.08}


def with_rule_weights(name: str, options: dict[str, Any]) -> keras.Model:
    model = kr.create_model(name, classifier_activation=None, **options)
    parameters = kr.pytorch_parameters(model).items()
    shapes = {key: to_torch(np.broadcast_to(np.float32(0), v.shape)).shape for key, (v, to_torch) in parameters}
    kr.load_pytorch_weights(model, {key: reference.weight(key, shape) for key, shape in shapes.items()})
    return model


@pytest.mark.parametrize("policy", ROUNDING)
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_and_training_step(name: str, policy: str) -> None:
    exact = with_rule_weights(name, NETWORKS[name])
    x = reference.generator(f"input:{name}").standard_normal((4, *exact.input_shape[1:]), dtype=np.float32)
    expected = keras.ops.convert_to_numpy(exact(x, training=False))

    keras.config.set_dtype_policy(policy)
    model = with_rule_weights(name, NETWORKS[name])
    assert model.get_layer("C1").output.dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in model.variables} == {"float32"}
    logits = model(x, training=False)
    assert logits.dtype == "float32"
    assert reference.distance(keras.ops.convert_to_numpy(logits), expected) <= ROUNDING[policy]

    step = reference.train_step(model, x, np.full((4, expected.shape[1]), 0.25, "float32"))
    assert np.isfinite(step.logits).all()
    for values in (step.gradients, step.after):
        assert all(array.dtype == "float32" and np.isfinite(array).all() for array in values.values())


def test_fit_scales_the_loss() -> None:
    """Under float16 Keras scales the loss; a network learns a few images by heart."""
    keras.config.set_dtype_policy("mixed_float16")
    model = kr.create_model("resnext29_2x64d_cifar", depth=1, widths=(16, 32, 64), classes=4)
    x = reference.generator("images").standard_normal((16, 32, 32, 3), dtype=np.float32)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    losses = model.fit(x, np.arange(16) % 4, batch_size=16, epochs=12, verbose=0).history["loss"]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] / 3
