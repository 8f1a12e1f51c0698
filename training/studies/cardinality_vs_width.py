"""More groups instead of wider layers: `python -m training.studies.cardinality_vs_width`.

ResNeXt blocks of equal complexity (Xie et al., 2017, arXiv 1611.05431, tables 2 and 3).
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.studies import figures
from training.studies.outcomes import Outcome, compared, ranking
from training.studies.variants import Study, Variant, main

# Cardinality and channels per group, as in table 2; here for a first stage of 32 channels instead of 64.
SETTINGS = ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))


def findings(table: Sequence[Outcome]) -> list[str]:
    """How equal the complexities are, and every cardinality against 1."""
    costs = [row.mmacs for row in table]
    sizes = [row.parameters for row in table]
    equal = (f"The networks have {min(sizes):,} to {max(sizes):,} parameters and {min(costs):.2f} to {max(costs):.2f} million "
             f"multiply-adds, at most {max(costs) / min(costs) - 1:.0%} apart.")  # fmt: skip
    one, *more = table
    return [equal, *(compared(row, one) for row in more), ranking(table)]


def figure(table: Sequence[Outcome]) -> Figure:
    """Errors by cardinality."""
    return figures.bars(table, "Cardinality at equal complexity, ResNeXt of 20 layers")


STUDY = Study(
    name="cardinality_vs_width",
    title="Cardinality against width",
    question="On ImageNet, at equal complexity, more groups of fewer channels are better: 23.9 % error for ResNet-50, that is 1 "
    "group of 64 channels, 22.2 % for 32 groups of 4 (Xie et al., 2017). Here with 20 layers, half as wide, on scanned digits.",
    variants=tuple(
        Variant(
            f"{cardinality}x{width}d", (f"model.options.cardinality={cardinality}", f"model.options.base_width={width}")
        )
        for cardinality, width in SETTINGS
    ),
    overrides=(
        "model.name=resnext29_1x64d_cifar",
        "model.options={depth: 2, widths: [32, 64, 128]}",
        "epochs=12",
        "test_every=12",
    ),
    seeds=3,
    figure=figure,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
