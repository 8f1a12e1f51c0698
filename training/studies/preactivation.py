"""Activation after or before the convolutions: `python -m training.studies.preactivation`.

Original and fully pre-activated units (He et al., 2016, arXiv 1603.05027, table 3) at two depths.
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.plots import TEST, TRAIN
from training.studies import figures
from training.studies.outcomes import Outcome, compared
from training.studies.variants import Study, Variant, main

ORDERS = {"original": "original", "pre-activation": "full"}
BLOCKS = {20: 3, 56: 9}  # per stage, by layers


def label(order: str, layers: int) -> str:
    """Of a variant."""
    return f"{order}, {layers} layers"


def findings(table: Sequence[Outcome]) -> list[str]:
    """The two orders compared at each depth, and the depths at each order."""
    rows = {row.label: row for row in table}
    said = [compared(*(rows[label(order, layers)] for order in ("pre-activation", "original"))) for layers in BLOCKS]
    return said + [
        compared(*(rows[label(order, layers)] for layers in sorted(BLOCKS, reverse=True))) for order in ORDERS
    ]


def figure(table: Sequence[Outcome]) -> Figure:
    """Training error over the epochs, as in figure 6 of the paper."""
    style = {label(order, layers): (colour, line) for order, colour in zip(ORDERS, (TEST, TRAIN), strict=True)
             for layers, line in zip(BLOCKS, ("--", "-"), strict=True)}  # fmt: skip
    return figures.curves(table, "Original and pre-activated units", style.__getitem__)


STUDY = Study(
    name="preactivation",
    title="Original and pre-activated units",
    question="On CIFAR-10 pre-activation lowers the error little at 110 layers (6.6 to 6.4 %) and much at 1001 (7.6 to 4.9 %), and "
    "makes the deepest networks easy to train (He et al., 2016). Here with 20 and 56 layers on scanned digits.",
    variants=tuple(
        Variant(label(order, layers), (f"model.options={{depth: {blocks}, activation_order: {option}}}",))
        for order, option in ORDERS.items()
        for layers, blocks in BLOCKS.items()
    ),
    overrides=("model.name=identity_mappings110_cifar", "epochs=12", "test_every=12"),
    seeds=3,
    figure=figure,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
