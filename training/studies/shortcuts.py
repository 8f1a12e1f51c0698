"""What may stand on a shortcut: `python -m training.studies.shortcuts`.

The identity, or something else in every residual unit (He et al., 2016, arXiv 1603.05027, table 1).
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.studies import figures
from training.studies.outcomes import Outcome, compared, ranking
from training.studies.variants import Study, Variant, main


def findings(table: Sequence[Outcome]) -> list[str]:
    """Everything compared with the identity."""
    identity, *others = table
    return [*(compared(row, identity) for row in others), ranking(table)]


def figure(table: Sequence[Outcome]) -> Figure:
    """Errors of all forms."""
    return figures.bars(table, "What stands on the shortcut of every unit, 20 layers")


def _variant(label: str, skip: str, **options: float) -> Variant:
    return Variant(label, tuple(f"model.options.{key}={value}" for key, value in {"skip": skip, **options}.items()))


STUDY = Study(
    name="shortcuts",
    title="Shortcuts of residual units",
    question="On CIFAR-10 with 110 layers nothing beats the identity: 6.6 % error, against 12.4 % with both branches "
    "halved, 12.2 % with a 1x1 convolution, 8.7 % with exclusive gates, and no success without a shortcut or "
    "with dropout on it (He et al., 2016). Here with 20 layers on scanned digits.",
    variants=(
        _variant("identity", "identity"),
        _variant("halved, residual halved", "constant", shortcut_scale=0.5, residual_scale=0.5),
        _variant("none", "constant", shortcut_scale=0.0, residual_scale=1.0),
        _variant("exclusive gate", "exclusive_gate", gate_bias=-6.0),
        _variant("shortcut gate, bias 0", "shortcut_gate", gate_bias=0.0),
        _variant("1x1 convolution", "conv1x1"),
        _variant("dropout", "dropout"),
    ),
    overrides=("model.name=identity_mappings110_cifar", "model.options.depth=3", "epochs=10", "test_every=10"),
    seeds=3,
    figure=figure,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
