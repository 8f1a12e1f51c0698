"""A grouped 3x3 convolution on the CPU: this package's Conv2D, stock Keras' and PyTorch's.

python -m benchmarks.grouped_conv [--torch-python INTERPRETER]
"""

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Contender, Plan, compare
from benchmarks.options import add_options, chosen_plan, torch_contenders
from benchmarks.table import Target, show, write

BATCH, SIZE, CHANNELS, GROUPS = 8, 56, 128, 32
STOCK_ROUNDS = 3  # stock Keras takes many seconds per call

FORWARD, TRAIN = "forward", "forward + backward"
OURS, STOCK = "keras_resnets", "stock Keras"
HERE = "benchmarks.grouped_conv"


def keras_measures(layer: str, jit_compile: bool = False) -> dict[str, Callable[[], Any]]:
    """Forward, and gradients to input and kernel, of the "stock" or "ours" layer in a graph, as in `fit`."""
    import keras
    import tensorflow as tf

    import keras_resnets

    makers = {"stock": keras.layers.Conv2D, "ours": keras_resnets.layers.Conv2D}
    conv = makers[layer](CHANNELS, 3, padding="same", groups=GROUPS, use_bias=False)
    x = tf.random.stateless_normal((BATCH, SIZE, SIZE, CHANNELS), (1, 2))
    upstream = tf.random.stateless_normal((BATCH, SIZE, SIZE, CHANNELS), (3, 4))
    conv.build(x.shape)

    @tf.function(jit_compile=jit_compile)
    def forward() -> Any:
        return conv(x)

    @tf.function(jit_compile=jit_compile)
    def train() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = conv(x)
        # The output is returned as well: nothing else needs the forward convolution, and the graph would drop it.
        return y, tape.gradient(y, [x, conv.kernel.value], upstream)

    return {FORWARD: forward, TRAIN: train}


def torch_measures(channels_last: bool) -> dict[str, Callable[[], Any]]:
    """The same with `torch.nn.Conv2d`."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    # Any, because PyTorch's stubs do not know that a module takes a memory format alone.
    conv: Any = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=GROUPS, bias=False)
    conv.to(memory_format=layout)
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE).to(memory_format=layout).requires_grad_()
    upstream = torch.randn(BATCH, CHANNELS, SIZE, SIZE).to(memory_format=layout)

    def forward() -> Any:
        with torch.no_grad():
            return conv(x)

    def train() -> Any:
        return torch.autograd.grad(conv(x), [x, conv.weight], upstream)

    return {FORWARD: forward, TRAIN: train}


def contenders(torch: list[Contender]) -> list[Contender]:
    """Every row of the table."""
    keras = f"{HERE}:keras_measures"
    return [
        Contender(OURS, keras, {"layer": "ours"}),
        *torch,
        Contender(f"{OURS}, oneDNN off", keras, {"layer": "ours"}, environment={"TF_ENABLE_ONEDNN_OPTS": "0"}),
        Contender(f"{OURS}, XLA forced", keras, {"layer": "ours", "jit_compile": True}),
        Contender(STOCK, keras, {"layer": "stock"}, rounds=STOCK_ROUNDS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {HERE}", description=__doc__.splitlines()[0])
    add_options(parser, Plan())
    options = parser.parse_args()
    torch = torch_contenders(options.torch_python, "torch", f"{HERE}:torch_measures")
    comparison = compare(contenders(torch), chosen_plan(options))
    targets = [
        Target("stock Keras ÷ ours, forward + backward", comparison.ratio(STOCK, OURS, TRAIN).median, at_least=100)
    ]
    if torch:
        best = comparison.fastest([contender.name for contender in torch], TRAIN)
        targets.append(
            Target(f"ours ÷ {best}, forward + backward", comparison.ratio(OURS, best, TRAIN).median, at_most=1.3)
        )
    title = f"3x3 convolution, {BATCH}x{SIZE}x{SIZE}x{CHANNELS}, {GROUPS} groups, float32, CPU"
    remarks = [*map(str, targets), f"{STOCK} took part in the first {STOCK_ROUNDS} rounds only."]
    show(title, comparison, OURS, remarks)
    print("wrote", *write("grouped_conv", title, comparison, OURS, remarks))


if __name__ == "__main__":
    main()
