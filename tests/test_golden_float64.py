"""Every reference entry in double precision: where single precision hides small mistakes under rounding.

`make test` runs one entry of every family and the shallow networks, `make test-all` the rest too.
"""

import pytest
import reference

FIRST_OF_FAMILY = {row["family"]: entry for entry, row in reversed(reference.ENTRIES.items())}.values()
SHALLOW = [entry for entry, row in reference.ENTRIES.items() if row["params"] < 13e6]


def _marked(entry: str):
    return entry if entry in FIRST_OF_FAMILY or entry in SHALLOW else pytest.param(entry, marks=pytest.mark.slow)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("entry", [_marked(entry) for entry in reference.ENTRIES])
def test_values_in_float64(entry: str) -> None:
    golden = reference.load(entry)
    model = golden.build()
    distances = reference.eval_distances(golden, model, "float64")
    distances |= reference.train_distances(golden, model, "float64")
    reference.assert_within(distances, reference.limits(golden.row, "float64"))
