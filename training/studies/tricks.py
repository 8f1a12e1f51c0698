"""The bag of tricks, one after the other: `python -m training.studies.tricks`.

The ablations of He et al., 2018 (arXiv 1812.01187, tables 4 and 6), each row with everything of the rows above. Half precision is
left out: on a CPU it gains nothing; so are the forms of the network (B, C, D), whose stems and strides are for large images.
"""

import itertools
import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from training.studies import figures
from training.studies.outcomes import Outcome, compared
from training.studies.variants import Study, Variant, main

TEACHER = Variant(
    "teacher",
    ("model={name: resnet56_cifar, options: {widths: [8, 16, 32], zero_gamma: true}}", "schedule={warmup_epochs: 2}"),
)
# What each row adds to the one above; the first one is the baseline.
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("baseline, batch 32", ("schedule={name: step, drop_epochs: [15, 22]}", "optimizer.l2_on=all")),
    ("+ batch 128, rate times 4", ("batch_size=128",)),
    ("+ warm-up", ("schedule.warmup_epochs=2",)),
    ("+ zero gamma", ("model.options.zero_gamma=true",)),
    ("+ no decay of biases", ("optimizer.l2_on=kernels",)),
    ("+ cosine", ("schedule={warmup_epochs: 2}",)),
    ("+ label smoothing", ("label_smoothing=0.1",)),
)
DISTILLATION = ("distillation={teacher: resnet56_cifar, weights: '{runs}/teacher_seed{seed}/final.keras'}",)
MIXUP = ("augment.mixup=0.2",)
# What is added to the last step, one or the other or both.
LAST = (("… + distillation", DISTILLATION), ("… + mixup", MIXUP), ("… + distillation and mixup", DISTILLATION + MIXUP))


def ladder() -> tuple[Variant, ...]:
    """All rows: the steps with everything above them, then the alternatives with all steps."""
    sums = itertools.accumulate((added for _, added in STEPS))
    rows = [Variant(label, overrides) for (label, _), overrides in zip(STEPS, sums, strict=True)]
    return (*rows, *(Variant(label, rows[-1].overrides + added) for label, added in LAST))


def findings(table: Sequence[Outcome]) -> list[str]:
    """Every step against the one before, the alternatives against the last step, and that against the baseline."""
    steps, last = table[: len(STEPS)], table[len(STEPS) :]
    said = [compared(row, before) for before, row in itertools.pairwise(steps)]
    return [*said, *(compared(row, steps[-1]) for row in last), f"All steps: {compared(steps[-1], steps[0])}"]


def figure(table: Sequence[Outcome]) -> Figure:
    """Errors down the ladder."""
    return figures.bars(table, "The bag of tricks, step by step, ResNet-20")


STUDY = Study(
    name="tricks",
    title="The bag of tricks on digits",
    question="On ImageNet the tricks take ResNet-50 from 75.9 to 79.3 % (He et al., 2018): large batches cost nothing "
    "with warm-up, zero gamma and no decay of biases; cosine, label smoothing, distillation and mixup each "
    "gain. Here a ResNet-20 with layers half as wide on scanned digits. Mixup and distillation make the "
    "training error of their rows that of another task.",
    variants=(TEACHER, *ladder()),
    overrides=(
        "model.options={widths: [8, 16, 32]}",
        "optimizer.lr_batch=32",
        "epochs=30",
        "test_every=30",
    ),
    seeds=3,
    figure=figure,
    findings=findings,
    helpers=1,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
