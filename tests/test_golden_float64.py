"""Every reference entry in double precision: where single precision hides small mistakes under rounding.

`make test` runs one entry of every family that has layers of its own, `make test-all` the rest too. Odd sizes are left to
single precision: a wrong border is no rounding error.
"""

import pytest
import reference


def _marked(entry: str):
    return entry if entry in reference.LEAST_OF_FAMILY else pytest.param(entry, marks=pytest.mark.slow)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("entry", [_marked(entry) for entry in reference.ENTRIES if "@odd" not in entry])
def test_values_in_float64(entry: str) -> None:
    golden = reference.load(entry)
    model = golden.build()
    distances = reference.eval_distances(golden, model, "float64")
    distances |= reference.train_distances(golden, model, "float64")
    reference.assert_within(distances, reference.limits(golden.row, "float64"))
