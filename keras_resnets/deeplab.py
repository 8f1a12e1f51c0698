"""DeepLabV3: atrous spatial pyramid pooling on a dilated network (Chen et al., 2017, arXiv 1706.05587), for segmentation.

The form used with ResNeSt and in torchvision: four convolutions side by side, 1x1 and three dilated 3x3, and the mean of the
image; a 1x1 over all of them, a 3x3 and the classifier. The network is built with `output_stride=8` (rates 12, 24, 36) or 16
(rates 6, 12, 18). Logits are enlarged to the image's size by bilinear interpolation with the corners aligned.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops as kops

from keras_resnets.features import feature_extractor
from keras_resnets.layers import Composite, Conv2D, ConvNorm, Dropout
from keras_resnets.layers.base import Shape, register_layer

NORM: dict[str, Any] = {"epsilon": 1e-5, "momentum": 0.9}


@register_layer
class AtrousPyramid(Composite):
    """1x1, three dilated 3x3 and the mean of the image side by side, then a 1x1 over all (arXiv 1706.05587, figure 5).

    Input `(batch, height, width, channels)`, output `(batch, height, width, filters)`.

    Args:
        filters: of each convolution.
        rates: dilations of the 3x3 convolutions.
        dropout: rate after the last convolution, of whole channels.
        norm: keyword arguments of `BatchNorm`; each convolution is followed by it and a ReLU.
    """

    def __init__(self, filters: int, rates: Sequence[int], dropout: float = 0.5, *, norm: dict[str, Any],
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**kwargs)
        normed: dict[str, Any] = {"activation": "relu", "norm": norm}
        self.convs = [ConvNorm(filters, 1, name="conv0", **normed)]
        self.convs += [
            ConvNorm(filters, 3, dilation=rate, name=f"conv{i}", **normed) for i, rate in enumerate(rates, start=1)
        ]
        self.image_conv = ConvNorm(filters, 1, name="image_conv", **normed)
        self.project = ConvNorm(filters, 1, name="project", **normed)
        self.dropout = keras.layers.SpatialDropout2D(dropout, name="dropout")

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [*([conv] for conv in self.convs), [self.image_conv]]

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        *shape, channels = self.convs[0].compute_output_shape(tuple(input_shape))
        self.build_chain([self.project, self.dropout], (*shape, channels * (len(self.convs) + 1)))

    def call(self, x: Any) -> Any:
        maps = [conv(x) for conv in self.convs]
        image = self.image_conv(kops.mean(x, (1, 2), keepdims=True))
        maps.append(image * kops.ones_like(maps[0][..., :1]))  # the mean at every pixel
        return self.dropout(self.project(kops.concatenate(maps, axis=-1)))


@register_layer
class AlignedUpsampling(keras.layers.Layer):
    """A map enlarged to the height and width of another: bilinear interpolation with the corners aligned.

    Input: a list of two, `(batch, h, w, channels)` and `(batch, height, width, any)`; output `(batch, height, width, channels)`.
    PyTorch's `align_corners=True`, which `keras.ops.image.resize` does not have: the first and the last pixels fall on each
    other, and each axis is a product with a matrix of linear weights.
    """

    def call(self, inputs: Any) -> Any:
        x, like = inputs
        (height, width), (rows, columns) = kops.shape(x)[1:3], kops.shape(like)[1:3]
        x = kops.einsum("ij,bjwc->biwc", _linear_weights(height, rows, x.dtype), x)
        return kops.einsum("ij,bhjc->bhic", _linear_weights(width, columns, x.dtype), x)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        (batch, _, _, channels), (_, *size, _) = input_shape
        return (batch, *size, channels)


def _linear_weights(old: Any, new: Any, dtype: str) -> Any:
    """`(new, old)` weights of linear interpolation between aligned ends."""
    if isinstance(old, int) and isinstance(new, int):
        places = np.linspace(0, old - 1, new)[:, None]
        return kops.convert_to_tensor(np.maximum(1 - np.abs(places - np.arange(old)), 0), dtype=dtype)
    step = kops.cast(old - 1, dtype) / kops.cast(kops.maximum(new - 1, 1), dtype)
    places = kops.cast(kops.arange(new, dtype="int32"), dtype)[:, None] * step
    return kops.relu(1 - kops.abs(places - kops.cast(kops.arange(old, dtype="int32"), dtype)))


def deeplab_v3(network: keras.Model, classes: int, rates: Sequence[int] = (12, 24, 36), channels: int = 256,
               auxiliary: bool = False, norm: dict[str, Any] | None = None, name: str | None = None) -> keras.Model:  # fmt: skip
    """A segmentation model with the input and the weights of `network`.

    Args:
        network: of this package, built with `output_stride=8` or 16, or a functional model that has its marker layers.
        classes: number of them.
        rates: dilations; (6, 12, 18) for an output stride of 16.
        channels: of the head.
        auxiliary: a second, small head on the level before the last, for a loss that helps training (weight 0.2 with ResNeSt).
        norm: keyword arguments of `layers.BatchNorm`, such as `{"epsilon": 1e-5, "momentum": 0.9, "synchronized": True}`;
            without `synchronized` by default.
        name: of the model.

    Returns:
        A model from `(batch, height, width, channels)` to logits `(batch, height, width, classes)`; with `auxiliary` to
        `{"logits": …, "aux_logits": …}`.

    Raises:
        ValueError: `classes`, `channels` or `rates` are not whole numbers above 0, or `network` has not two levels.
    """
    for argument, numbers in (("classes", [classes]), ("channels", [channels]), ("rates", rates)):
        if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError(f"{argument} must be whole numbers above 0, not {numbers}")
    norm = norm or NORM
    last, before = _last_levels(network)
    features = feature_extractor(network, (before, last)).output
    x = AtrousPyramid(channels, rates, norm=norm, name="pyramid")(features[last])
    logits = _head(x, channels, classes, norm, network.input, "")
    output = logits
    if auxiliary:
        aux = features[before]
        output = {
            "logits": logits,
            "aux_logits": _head(aux, max(aux.shape[-1] // 4, 1), classes, norm, network.input, "aux_"),
        }
    return keras.Model(network.input, output, name=name or f"{network.name}_deeplab_v3")


def _last_levels(network: keras.Model) -> tuple[str, str]:
    """The coarsest level and the one before."""
    present = [layer.name for layer in network.layers if layer.name in ("C1", "C2", "C3", "C4", "C5")]
    if len(present) < 2:
        raise ValueError(f"network {network.name!r} must have two levels at least, not {present}")
    return present[-1], present[-2]


def _head(x: Any, channels: int, classes: int, norm: dict[str, Any], image: Any, prefix: str) -> Any:
    """3x3, dropout and the classifier, whose logits stay float32 under mixed precision, at the size of `image`."""
    x = ConvNorm(channels, 3, activation="relu", norm=norm, name=f"{prefix}head")(x)
    x = Dropout(0.1, name=f"{prefix}dropout")(x)
    dtype = keras.backend.result_type(keras.config.dtype_policy().compute_dtype, "float32")
    x = Conv2D(classes, 1, dtype=dtype, name=f"{prefix}classifier")(x)
    return AlignedUpsampling(dtype=dtype, name=f"{prefix}logits")([x, image])
