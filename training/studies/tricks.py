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
    ("baseline, batch 32", ("schedule={name: step, drop_epochs: [10, 15]}", "optimizer.l2_on=all")),
    ("+ batch 128, rate times 4", ("batch_size=128",)),
    ("+ warm-up", ("schedule.warmup_epochs=2",)),
    ("+ zero gamma", ("model.options.zero_gamma=true",)),
    ("+ no decay of biases", ("optimizer.l2_on=kernels",)),
    ("+ cosine", ("schedule={warmup_epochs: 2}",)),
    ("+ label smoothing", ("label_smoothing=0.1",)),
    ("+ distillation", ("distillation={teacher: resnet56_cifar, weights: '{runs}/teacher_seed{seed}/final.keras'}",)),
    ("+ mixup", ("augment.mixup=0.2",)),
)


def findings(table: Sequence[Outcome]) -> list[str]:
    """Every step against the one before, then all of them together."""
    steps = [compared(row, before) for before, row in itertools.pairwise(table)]
    return [*steps, "All together: " + compared(table[-1], table[0])]


def figure(table: Sequence[Outcome]) -> Figure:
    """Errors down the ladder."""
    return figures.bars(table, "The bag of tricks, each row with everything above it, ResNet-20")


STUDY = Study(
    name="tricks",
    title="The bag of tricks on digits",
    question="On ImageNet the tricks take ResNet-50 from 75.9 to 79.3 % (He et al., 2018): large batches cost nothing "
    "with warm-up, zero gamma and no decay of biases; cosine, label smoothing, distillation and mixup each "
    "gain. Here a ResNet-20 with layers half as wide on scanned digits. Mixup and distillation make the "
    "training error of their rows that of another task.",
    variants=(
        TEACHER,
        *(
            Variant(label, tuple(override for _, added in STEPS[: place + 1] for override in added))
            for place, (label, _) in enumerate(STEPS)
        ),
    ),
    overrides=(
        "model.options={widths: [8, 16, 32]}",
        "optimizer.lr_batch=32",
        "epochs=20",
        "test_every=20",
    ),
    seeds=3,
    figure=figure,
    findings=findings,
    helpers=1,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
