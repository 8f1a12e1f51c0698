"""One train step on the CPU (forward, backward, SGD with momentum): this package, stock Keras layers, PyTorch.

python -m benchmarks.train_step [NETWORK …] [--torch-python INTERPRETER]
"""

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal

from benchmarks.harness import Comparison, Contender, Plan, compare
from benchmarks.options import add_options, chosen_plan, torch_contenders
from benchmarks.table import Target, show, write


@dataclasses.dataclass(frozen=True)
class Row:
    """What a network is compared with.

    Attributes:
        stock: whether `benchmarks.stock` has it; "slow" with grouped convolutions, which can take minutes per step.
        speedup: aim to be at least so many times as fast as stock Keras.
        torch: module whose `create_model(name)` makes it in PyTorch.
        torch_sets_pace: aim to be no slower than PyTorch in its better memory format.
    """

    stock: Literal["quick", "slow"] | None = None
    speedup: float | None = None
    torch: str = "timm"
    torch_sets_pace: bool = False


NETWORKS = {
    "resnext50_32x4d": Row("slow", speedup=20),
    "resnet50": Row("quick"),
    "resnest50d": Row("slow", speedup=20, torch_sets_pace=True),
    "resnest50d_4s2x40d": Row("slow"),
    "res2net50_26w_4s": Row(),
    "rednet50": Row(torch="benchmarks.torch_rednet", torch_sets_pace=True),
    "densenet121": Row(torch_sets_pace=True),
    "dpn92": Row(torch_sets_pace=True),
    "hardnet68": Row(torch="benchmarks.torch_hardnet", torch_sets_pace=True),
    "inception_v3": Row(torch_sets_pace=True),
}
BATCH, SIZE = 8, 224

STEP = "train step"
OURS, STOCK = "keras_resnets", "stock Keras layers"
HERE = "benchmarks.train_step"


def keras_measures(network: str, stock: bool = False) -> dict[str, Callable[[], Any]]:
    """A step of `fit`, as compiled by default."""
    import keras
    import tensorflow as tf

    import keras_resnets
    from benchmarks.stock import NETWORKS as STOCK_NETWORKS

    if stock:
        model = STOCK_NETWORKS[network]((SIZE, SIZE, 3))
    else:
        model = keras_resnets.create_model(network, classifier_activation=None, input_shape=(SIZE, SIZE, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    x = tf.random.stateless_normal((BATCH, SIZE, SIZE, 3), (1, 2))
    y = tf.range(BATCH)
    return {STEP: lambda: model.train_on_batch(x, y)}


def torch_measures(network: str, channels_last: bool) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = importlib.import_module(NETWORKS[network].torch).create_model(network)
    model = model.to(memory_format=layout).train()
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


def contenders(network: str, torch: list[Contender], stock_rounds: int) -> list[Contender]:
    """The rows of the network's table; a slow stock form takes part in the first `stock_rounds` rounds only."""
    keras, stock = f"{HERE}:keras_measures", NETWORKS[network].stock
    rows = [Contender(OURS, keras, {"network": network}), *torch]
    if stock is not None:
        rounds = stock_rounds if stock == "slow" else None
        rows.append(Contender(STOCK, keras, {"network": network, "stock": True}, rounds=rounds))
    return rows


def remarks(network: str, comparison: Comparison, torch: list[Contender], stock_rounds: int) -> list[str]:
    """What was aimed at, and how far it was reached."""
    row, lines = NETWORKS[network], []
    if torch and row.torch_sets_pace:
        best = comparison.fastest([contender.name for contender in torch], STEP)
        lines.append(str(Target(f"ours ÷ {best}", comparison.ratio(OURS, best, STEP).median, at_most=1)))
    if row.speedup is not None:
        measured = comparison.ratio(STOCK, OURS, STEP).median
        lines.append(str(Target(f"{STOCK} ÷ ours", measured, at_least=row.speedup)))
    if row.stock == "slow":
        lines.append(f"{STOCK} took part in the first {stock_rounds} round(s) only.")
    return lines


def measure(network: str, options: argparse.Namespace) -> None:
    """Compares one network and writes its table."""
    maker = NETWORKS[network].torch
    needed = "timm" if maker == "timm" else "torch"
    torch = torch_contenders(options.torch_python, needed, f"{HERE}:torch_measures", network=network)
    comparison = compare(contenders(network, torch, options.stock_rounds), chosen_plan(options))
    lines = remarks(network, comparison, torch, options.stock_rounds)
    title = f"Train step of {network}, batch {BATCH} at {SIZE}x{SIZE}, float32, CPU"
    show(title, comparison, OURS, lines)
    print("wrote", *write(f"train_step_{network}", title, comparison, OURS, lines))


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
