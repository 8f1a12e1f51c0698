"""Deeper is not better without shortcuts: `python -m training.studies.degradation`.

Plain and residual networks of 20 and 56 layers (He et al., 2015, arXiv 1512.03385, section 4.2 and figure 6), trained alike.
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.plots import TEST, TRAIN
from training.studies import figures
from training.studies.outcomes import Outcome, difference, spread
from training.studies.variants import Study, Variant, main

KINDS, DEPTHS = ("plain", "residual"), (20, 56)


def findings(table: Sequence[Outcome]) -> list[str]:
    """Whether depth costs training error, with and without shortcuts: degradation, as overfitting does not raise that error."""
    said, rows = [], {row.label: row for row in table}
    for kind in KINDS:
        shallow, deep = (rows[f"{kind}, {depth} layers"] for depth in DEPTHS)
        gap = difference(deep.train_errors, shallow.train_errors)
        verdict = "no clear difference"
        if gap.clear:
            verdict = "the deeper network is worse" if gap.mean > 0 else "the deeper network is better"
        said.append(
            f"{kind}: training error {spread(shallow.train_errors)} % with {DEPTHS[0]} layers, {spread(deep.train_errors)} % with "
            f"{DEPTHS[1]}, {gap}: {verdict}. Test error {spread(shallow.test_errors)} % and {spread(deep.test_errors)} %."
        )
    return said


def figure(table: Sequence[Outcome]) -> Figure:
    """Training error over the epochs, as in figure 6 of the paper."""
    style = {f"{kind}, {depth} layers": (colour, line) for kind, colour in zip(KINDS, (TEST, TRAIN), strict=True)
             for depth, line in zip(DEPTHS, ("--", "-"), strict=True)}  # fmt: skip
    return figures.curves(table, "Plain and residual networks of 20 and 56 layers", style.__getitem__)


STUDY = Study(
    name="degradation",
    title="Depth with and without shortcuts",
    question="On CIFAR-10, plain networks of 56 layers have a higher training error than those of 20; residual ones have a "
    "lower one (He et al., 2015). Here on scanned digits, with layers half as wide; residual blocks start as identities (zero "
    "gamma), so that short training suffices.",
    variants=tuple(
        Variant(
            f"{kind}, {depth} layers", (f"model.name={name}{depth}_cifar", f"model.options.zero_gamma={zero_gamma}")
        )
        for kind, name, zero_gamma in zip(KINDS, ("plain", "resnet"), ("false", "true"), strict=True)
        for depth in DEPTHS
    ),
    overrides=("model.options={widths: [8, 16, 32]}", "epochs=20", "test_every=20"),
    seeds=3,
    figure=figure,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
