"""One train step on the CPU (forward, backward, SGD with momentum): this package, PyTorch, stock Keras layers."""

import argparse
import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from benchmarks import train_step_page
from benchmarks.harness import Comparison, Contender, Plan, compare
from benchmarks.options import (
    CHANNELS_LAST,
    CONTIGUOUS,
    add_options,
    choose,
    chosen_plan,
    measured_lately,
    peers_missing,
    torch_contenders,
)
from benchmarks.table import Target, write
from benchmarks.train_step_page import OURS, STEP, STOCK


@dataclasses.dataclass(frozen=True)
class Row:
    """What a network is compared with.

    Attributes:
        stock: whether `benchmarks.stock` has it; "slow" with grouped convolutions, which can take minutes per step.
        torch: module whose `create_model(name)` makes it in PyTorch.
    """

    stock: Literal["quick", "slow"] | None = None
    torch: str = "timm"

    @property
    def stock_at_most(self) -> float:
        """What ours ÷ stock should be at most."""
        return 0.05 if self.stock == "slow" else 0.85


NETWORKS = {
    "resnet50": Row("quick"),
    "resnet50d": Row("quick"),
    "resnext50_32x4d": Row("slow"),
    "seresnext50_32x4d": Row("slow"),
    "skresnet50": Row("quick"),
    "resnest50d": Row("slow"),
    "res2net50_26w_4s": Row("quick"),
    "densenet121": Row("quick"),
    "dpn68": Row("slow"),
    "inception_v3": Row("quick"),
    "resnest50d_4s2x40d": Row("slow"),
    "dpn92": Row(),
    "rednet50": Row(torch="benchmarks.torch_rednet"),
    "hardnet68": Row(torch="benchmarks.torch_hardnet"),
}
BATCH, SIZE = 8, 224
TORCH_AT_MOST = 1.05
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

    maker = NETWORKS[network].torch
    if maker == "timm":
        importlib.import_module("benchmarks.torchvision_cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = importlib.import_module(maker).create_model(network)
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


def contenders(network: str, torch: Sequence[Contender], stock_rounds: int) -> list[Contender]:
    """The rows of the network's table; a slow stock form takes part in the first `stock_rounds` rounds only."""
    keras, stock = f"{HERE}:keras_measures", NETWORKS[network].stock
    rows = [Contender(OURS, keras, {"network": network}), *torch]
    if stock is not None:
        rounds = stock_rounds if stock == "slow" else None
        rows.append(Contender(STOCK, keras, {"network": network, "stock": True}, rounds=rounds))
    return rows


def targets(network: str, comparison: Comparison) -> list[Target]:
    """What was aimed at: not slower than PyTorch in its better memory format, several times as fast as stock Keras."""
    reached = []
    if formats := [name for name in (CONTIGUOUS, CHANNELS_LAST) if name in comparison.times]:
        best = comparison.fastest(formats, STEP)
        reached.append(Target(f"ours ÷ {best}", comparison.ratio(OURS, best, STEP).median, at_most=TORCH_AT_MOST))
    if STOCK in comparison.times:
        measured = comparison.ratio(OURS, STOCK, STEP).median
        reached.append(Target(f"ours ÷ {STOCK}", measured, at_most=NETWORKS[network].stock_at_most))
    return reached


def measure(network: str, options: argparse.Namespace) -> None:
    """Compares one network and writes its page."""
    needed = ["torch", "timm"] if NETWORKS[network].torch == "timm" else ["torch"]
    remarks = peers_missing(options.peers_python, *needed)
    torch = torch_contenders(options.peers_python, needed[-1], f"{HERE}:torch_measures", network=network)
    comparison = compare(contenders(network, torch, options.stock_rounds), chosen_plan(options))
    if NETWORKS[network].stock == "slow":
        remarks.append(f"{STOCK} took part in the first {options.stock_rounds} round(s) only.")
    title = f"Train step of {network}, batch {BATCH} at {SIZE}x{SIZE}, float32, CPU"
    write(train_step_page.page(network), title, comparison, OURS, targets(network, comparison), remarks)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run train_step", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--stock-rounds", type=int, default=1, metavar="N",
                        help="rounds in which stock grouped convolutions take part (default %(default)s)")  # fmt: skip
    add_options(parser, Plan(rounds=5, seconds=2.0, warm_up_seconds=4.0))
    options = parser.parse_args(arguments)
    if options.stock_rounds < 1:
        parser.error(f"--stock-rounds must be at least 1, not {options.stock_rounds}")
    for network in choose(options.networks, list(NETWORKS), parser):
        if not measured_lately(train_step_page.page(network), options):
            print(f"{network}:", flush=True)
            measure(network, options)
    train_step_page.summarise(list(NETWORKS), chosen_plan(options))
