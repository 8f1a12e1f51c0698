"""Splits and groups of split attention: `python -m training.studies.radix_vs_cardinality`.

ResNeSt's ablation of radix and cardinality (Zhang et al., 2020, arXiv 2004.08955, table 2).
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.studies import figures
from training.studies.outcomes import Outcome, compared, ranking
from training.studies.variants import Study, Variant, main

SETTINGS = ((0, 1), (1, 1), (2, 1), (4, 1), (1, 2), (2, 2))


def label(radix: int, cardinality: int) -> str:
    """The paper's short form without the width, and what it means."""
    return f"{radix}s{cardinality}x (radix {radix}, cardinality {cardinality})"


def findings(table: Sequence[Outcome]) -> list[str]:
    """What attention does, then more splits, then more groups."""
    rows = {setting: row for setting in SETTINGS for row in table if row.label == label(*setting)}
    pairs = (((1, 1), (0, 1)), ((2, 1), (1, 1)), ((4, 1), (2, 1)), ((1, 2), (1, 1)), ((2, 2), (2, 1)))
    return [*(compared(rows[one], rows[other]) for one, other in pairs), ranking(table)]


def figure(table: Sequence[Outcome]) -> Figure:
    """Errors of all settings."""
    return figures.bars(table, "Radix and cardinality of split attention, ResNeSt of 11 layers")


STUDY = Study(
    name="radix_vs_cardinality",
    title="Radix against cardinality",
    question="On ImageNet split attention is worth a point of accuracy: 79.4 % without (radix 0), 80.4 % with one "
    "split, 80.6 % with two, 80.9 % with four; 81.2 % with four splits and two groups (Zhang et al., 2020). "
    "Here with 11 layers of 16 to 64 channels on scanned digits.",
    variants=tuple(
        Variant(label(radix, cardinality), (f"model.options.radix={radix}", f"model.options.cardinality={cardinality}"))
        for radix, cardinality in SETTINGS
    ),
    overrides=(
        "model.name=resnest29_cifar",
        "model.options={depth: 1, widths: [16, 32, 64]}",
        "epochs=12",
        "test_every=12",
    ),
    seeds=3,
    figure=figure,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
