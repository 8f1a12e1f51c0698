"""Networks of this package as backbones of KerasHub's segmenters and detectors.

Needs KerasHub: `pip install 'keras-resnets[keras-hub]'`. Import this module before a file that holds such a backbone is loaded.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_resnets.assembly import Network
from keras_resnets.features import feature_extractor

try:
    from keras_hub.models import FeaturePyramidBackbone
except ImportError as error:
    raise ImportError("keras_resnets.keras_hub needs KerasHub: pip install 'keras-resnets[keras-hub]'") from error


@keras.saving.register_keras_serializable("keras_resnets")
class PyramidBackbone(FeaturePyramidBackbone):
    """A network of this package as a `keras_hub.models.FeaturePyramidBackbone`, whose weights it shares.

    Its output is the last level; `pyramid_outputs` holds `"Pn"` for the levels, a map of 1/2ⁿ of the image's size as KerasHub
    has it: "P2" to "P5" for ImageNet networks. Of several levels at one size, as in dilated networks, the last one counts: with
    `output_stride=16` there are "P2" to "P4", and "P4" is the last level. Images are normalised before they come here, as the
    network's weights want it (`keras_resnets.preprocess_input`). KerasHub's heads double maps: sizes divide by 32, or by
    128 for a RetinaNet up to "P7".

    Args:
        network: with its classifier or without; of fixed input size or, as KerasHub's own, of `(None, None, channels)`.
        levels: "C1" to "C5", from fine to coarse.
        **kwargs: of `keras.Model`, such as `name`.

    Raises:
        ValueError: `levels` is empty, or holds a level twice, or one that `network` lacks.
    """

    def __init__(self, network: keras.Model, levels: Sequence[str] = ("C2", "C3", "C4", "C5"), **kwargs: Any) -> None:
        extractor = feature_extractor(network, levels)
        features = extractor.output
        last = features[levels[-1]]
        super().__init__(inputs=network.input, outputs=last, **kwargs)
        # Without what comes after the last level.
        self.network = Network(network.input, last, name=network.name)
        self.network.variant, self.network.weights_tag = (
            getattr(network, key, None) for key in ("variant", "weights_tag")
        )
        self.levels = list(levels)
        self.pyramid_outputs = {f"P{exponent}": features[level] for level, exponent in _exponents(extractor).items()}

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "levels": self.levels}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PyramidBackbone":
        network = config["network"]
        network = keras.saving.deserialize_keras_object(network) if isinstance(network, dict) else network
        return super().from_config({**config, "network": network})


def _exponents(extractor: keras.Model) -> dict[str, int]:
    """By level: how often its map has been halved. "Cn" is at most n times; small unpadded maps look as if it were more."""
    _, *size, channels = extractor.input.shape
    height, width = (side or 512 for side in size)
    shapes = extractor.compute_output_shape((1, height, width, channels))
    return {level: min(round(math.log2(height / shape[1])), int(level[1:])) for level, shape in shapes.items()}
