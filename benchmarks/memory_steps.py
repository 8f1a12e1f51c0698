"""Train steps whose memory is measured, each in a process of its own: this package's networks, and timm's."""

from collections.abc import Callable
from typing import Any

from benchmarks.fresh import MIB, reset_peak, status

SIZE, STEPS = 224, 3
BEFORE, PEAK = "before the first step", "peak"


def keras_peak(network: str, batch: int, size: int = SIZE, **options: Any) -> dict[str, float]:
    """The peak of a few train steps of this package's network as `fit` takes them; see `_peak`."""
    import keras
    import tensorflow as tf

    import keras_resnets

    shape = (size, size, 3)
    model = keras_resnets.create_model(network, classifier_activation=None, input_shape=shape, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    x, y = tf.random.stateless_normal((batch, *shape), (1, 2)), tf.zeros(batch, "int32")
    return _peak(lambda: model.train_on_batch(x, y))


def timm_peak(network: str, batch: int, channels_last: bool, **options: Any) -> dict[str, float]:
    """The same of timm's network in PyTorch, eager."""
    import torch

    from benchmarks import torchvision_cpu  # noqa: F401  before timm, see there

    # isort: split
    import timm

    layout: Any = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(network, **options).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=layout)
    y = torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return _peak(step)


def _peak(step: Callable[[], Any]) -> dict[str, float]:
    """MiB of this process when network and images are there, and at most over the first steps."""
    before = reset_peak()
    for _ in range(STEPS):
        step()
    return {BEFORE: before / MIB, PEAK: status("VmHWM") / MIB}
