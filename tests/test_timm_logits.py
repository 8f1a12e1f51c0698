"""Networks without a golden entry of their own against timm (or their `source`): inference logits with the rule's weights.

tests/golden/timm_logits.json holds, per network, the largest magnitude, the norm and the first eight of the logits that timm 1.0.31
computes in double precision for one generated 64x96 image, and by how much they move in single precision. The deepest
squeeze-and-excitation networks amplify rounding too much at random weights: they are compared with fewer blocks (`depths`),
on a 75x101 image, in single precision. A key with an "@" is a network with `options`, ours of the same meaning as timm's.
"""

import json

import keras
import numpy as np
import pytest
import reference

import keras_resnets as kr

LOGITS = json.loads((reference.FOLDER / "timm_logits.json").read_text("utf-8"))
SMALL = {key for key, stored in LOGITS.items() if "depths" in stored or kr.model_info(key.split("@")[0]).params < 13e6}
SMALL |= {"resnest26d@os16", "resnest26d@official16", "resnest50d_1s4x24d@os8", "resnest50d_1s4x24d@official8"}


@pytest.mark.parametrize(
    "key", [key if key in SMALL else pytest.param(key, marks=pytest.mark.slow) for key in sorted(LOGITS)]
)
def test_logits_are_timms(key: str) -> None:
    stored = LOGITS[key]
    shape = (*stored.get("size", (64, 96)), 3)
    options = {"depths": tuple(stored["depths"])} if "depths" in stored else stored.get("options", {})
    model = kr.create_model(key.split("@")[0], weights=None, classifier_activation=None, input_shape=shape, **options)
    parameters = kr.pytorch_parameters(model)
    state = {
        name: reference.weight(name, to_torch(variable).shape) for name, (variable, to_torch) in parameters.items()
    }
    kr.load_pytorch_weights(model, state)
    x = reference.generator(f"input:{key}").standard_normal((1, *shape), dtype=np.float32)
    logits = keras.ops.convert_to_numpy(model(x, training=False))[0].astype(np.float64)
    limit = max(2e-5, 20 * stored["noise"])
    assert np.abs(logits[:8] - stored["first"]).max() / stored["max"] <= limit
    assert abs(np.linalg.norm(logits) / stored["norm"] - 1) <= limit
