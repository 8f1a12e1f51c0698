"""Batch normalisation with TensorFlow's fused op, and normalisation + activation as one layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops as kops

from keras_resnets import lowering, ops
from keras_resnets.layers.base import Composite, Shape, register_layer


@register_layer
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy, 2015, arXiv 1502.03167).

    Input and output `(batch, height, width, channels)`. Differs from `keras.layers.BatchNormalization` in two ways: on
    TensorFlow it uses the fused op (about 15 % of a ResNet-50 train step), and the moving variance follows PyTorch, that
    is the *unbiased* batch variance (factor n/(n-1)), on every backend. Statistics are float32 at any lower precision.

    Args:
        epsilon: added to the variance. No default: every network family states its own.
        momentum: weight of the old moving statistics, Keras' sense (0.9 is PyTorch's 0.1).
        synchronized: compute the batch statistics over all replicas of a TensorFlow distribution strategy.
        zero_gamma: start the scale at zero instead of one.
        biased_variance: let the moving variance take the biased batch variance, as MXNet and Keras do.
    """

    def __init__(self, epsilon: float, momentum: float, synchronized: bool = False, zero_gamma: bool = False,
                 biased_variance: bool = False, **kwargs: Any) -> None:  # fmt: skip
        if zero_gamma:
            kwargs["gamma_initializer"] = "zeros"
        super().__init__(epsilon=epsilon, momentum=momentum, synchronized=synchronized, **kwargs)
        self.biased_variance = biased_variance

    def call(self, x: Any, training: bool | None = None) -> Any:
        training = bool(training) and self.trainable
        if ops.has_fused_batch_norm(x) and not (self.synchronized and training):
            averaged = training and not self.biased_variance
            y, mean, variance = ops.fused_batch_norm(
                x, self.gamma, self.beta, self.moving_mean, self.moving_variance, self.epsilon, training,
                momentum=self.momentum if averaged else 0.0,
            )  # fmt: skip
            if averaged:
                self.moving_mean.assign(mean)
                self.moving_variance.assign(variance)
            elif training:
                count = kops.cast(kops.size(x) // x.shape[-1], variance.dtype)
                self._update(mean, variance * ((count - 1) / count))
            return y
        wide = kops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            count = kops.size(x) // x.shape[-1]
            if self.synchronized:
                mean, variance = self._moments(wide, None)
                count = count * ops.replicas_in_sync()
            else:  # two passes; Keras' moments lose precision in mean(x²) - mean(x)² on some backends
                mean, variance = kops.mean(wide, self._reduction_axes), kops.var(wide, self._reduction_axes)
            count = kops.cast(count, wide.dtype)
            unbiased = variance * (count / kops.maximum(count - 1, 1))
            self._update(mean, variance if self.biased_variance else unbiased)
        mean, variance, gamma, beta = (kops.cast(v, wide.dtype) for v in (mean, variance, self.gamma, self.beta))
        y = kops.batch_normalization(wide, mean, variance, -1, beta, gamma, self.epsilon)
        return kops.cast(y, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "biased_variance": self.biased_variance}

    def _update(self, mean: Any, variance: Any) -> None:
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + kops.cast(batch, moving.dtype) * (1.0 - self.momentum))


@register_layer
class ScaleShift(keras.layers.Layer):
    """`x · scale + offset` by channel: what is left of a batch normalisation at inference.

    Input and output `(batch, height, width, channels)`. `keras_resnets.fuse` puts it in the place of normalisations that do not
    follow a convolution.
    """

    def build(self, input_shape: Shape) -> None:
        self.scale = self.add_weight((input_shape[-1],), initializer="ones", name="scale")
        self.offset = self.add_weight((input_shape[-1],), initializer="zeros", name="offset")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def call(self, x: Any) -> Any:
        if ops.is_exporting() or ops.has_fast_depthwise(x):
            return lowering.scale_and_shift(x, self.scale, self.offset)
        dtype = keras.backend.result_type(x.dtype, "float32")
        scale, offset = (kops.cast(weight, dtype) for weight in (self.scale, self.offset))
        return kops.cast(kops.cast(x, dtype) * scale + offset, x.dtype)


def normalization(norm: dict[str, Any], name: str) -> BatchNorm | ScaleShift:
    """A batch normalisation without a convolution right before it, from the keyword arguments of `BatchNorm`; with
    `{"folded": True}` in them what `keras_resnets.fuse` makes of it."""
    return ScaleShift(name=name) if norm.get("folded") else BatchNorm(**norm, name=name)


@register_layer
class NormAct(Composite):
    """Batch normalisation, then an activation: the pre-activation of ResNet v2. Shape unchanged.

    Args:
        norm: keyword arguments of `BatchNorm`; see `normalization`.
        activation: name of a Keras activation, or None.
    """

    def __init__(self, norm: dict[str, Any], activation: str | None = "relu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = normalization(norm, "norm")
        self.activation = keras.activations.get(activation)

    def branches(self) -> Sequence[Sequence[keras.layers.Layer]]:
        return [[self.norm]]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def call(self, x: Any) -> Any:
        return self.activation(self.norm(x))
