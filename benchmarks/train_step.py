"""One train step on the CPU (forward, backward, SGD with momentum): this package, the same network from stock Keras layers, timm.

python -m benchmarks.train_step [NETWORK …] [--torch-python INTERPRETER]
"""

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Contender, Plan, compare
from benchmarks.options import add_options, chosen_plan, torch_contenders
from benchmarks.table import Target, show, write

# Cardinality and base width by network.
NETWORKS = {"resnext50_32x4d": (32, 4), "resnet50": (1, 64)}
BATCH, SIZE = 8, 224

STEP = "train step"
OURS, STOCK = "keras_resnets", "stock Keras layers"
HERE = "benchmarks.train_step"


def keras_measures(network: str, stock: bool = False) -> dict[str, Callable[[], Any]]:
    """A step of `fit`, as compiled by default."""
    import keras
    import tensorflow as tf

    import keras_resnets
    from benchmarks.stock import resnet50

    if stock:
        cardinality, base_width = NETWORKS[network]
        model = resnet50((SIZE, SIZE, 3), cardinality, base_width)
    else:
        model = keras_resnets.create_model(network, classifier_activation=None, input_shape=(SIZE, SIZE, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    x = tf.random.stateless_normal((BATCH, SIZE, SIZE, 3), (1, 2))
    y = tf.range(BATCH)
    return {STEP: lambda: model.train_on_batch(x, y)}


def torch_measures(network: str, channels_last: bool) -> dict[str, Callable[[], Any]]:
    """The same with timm's network of that name."""
    import timm
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(network).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=layout)
    y = torch.arange(BATCH)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {STEP: step}


def measure(network: str, options: argparse.Namespace) -> None:
    """Compares one network and writes its table."""
    keras = f"{HERE}:keras_measures"
    torch = torch_contenders(options.torch_python, "timm", f"{HERE}:torch_measures", network=network)
    grouped = NETWORKS[network][0] > 1
    contenders = [
        Contender(OURS, keras, {"network": network}),
        *torch,
        # Minutes per step with grouped convolutions.
        Contender(STOCK, keras, {"network": network, "stock": True}, rounds=options.stock_rounds if grouped else None),
    ]
    comparison = compare(contenders, chosen_plan(options))
    speedup = comparison.ratio(STOCK, OURS, STEP).median
    remarks = [str(Target(f"{STOCK} ÷ ours", speedup, at_least=20))] if grouped else []
    if grouped:
        remarks.append(f"{STOCK}: {options.stock_rounds} timed step(s) only, since each takes minutes.")
    title = f"Train step of {network}, batch {BATCH} at {SIZE}x{SIZE}, float32, CPU"
    show(title, comparison, OURS, remarks)
    print("wrote", *write(f"train_step_{network}", title, comparison, OURS, remarks))


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {HERE}", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(NETWORKS),
                        help=f"of {', '.join(NETWORKS)} (default: all)")  # fmt: skip
    parser.add_argument("--stock-rounds", type=int, default=2, metavar="N",
                        help="rounds in which stock grouped convolutions take part (default %(default)s)")  # fmt: skip
    add_options(parser, Plan(seconds=3.0, warm_up_seconds=5.0))
    options = parser.parse_args()
    if options.stock_rounds < 1:
        parser.error(f"--stock-rounds must be at least 1, not {options.stock_rounds}")
    for network in options.networks:
        if network not in NETWORKS:
            parser.error(f"NETWORK must be one of {', '.join(NETWORKS)}, not {network!r}")
        measure(network, options)


if __name__ == "__main__":
    main()
