"""The suite `startup`: what is timed, and what is compared."""

import types

import pytest

from benchmarks import startup, startup_programs
from benchmarks.startup_programs import BUILD, IMPORT, LOAD, PREDICT, TOTAL


def seconds(*steps: float) -> dict[str, float]:
    return dict(zip((IMPORT, BUILD, LOAD, PREDICT, TOTAL), (*steps, sum(steps)), strict=True))


ROUNDS: startup.Rounds = {
    startup.OURS: [seconds(4, 1, 0.5, 2.5), seconds(8, 2, 1, 1)],
    startup.THEIRS: [seconds(4, 2, 1, 3), seconds(8, 4, 2, 2)],
    "package": [{IMPORT: 0.1, BUILD: 11.0}, {IMPORT: 0.2, BUILD: 12.0}],
}


def test_calls_are_timed_and_the_function_is_put_back() -> None:
    holder = types.SimpleNamespace(double=lambda x: 2 * x)
    original = holder.double
    with startup_programs.timed(holder, "double") as found:
        assert holder.double(3) == 6 and holder.double(x=4) == 8
    assert len(found) == 2 and min(found) > 0
    assert holder.double is original


def test_targets() -> None:
    whole, imported, built, slope = startup.targets(ROUNDS, [(20.0, 1.0), (40.0, 4.0)])
    # 8 ÷ 10 and 12 ÷ 16.
    assert whole.measured == pytest.approx(0.775) and whole.met and whole.headline
    assert imported.measured == pytest.approx(0.15) and imported.met
    assert built.measured == pytest.approx(11.5) and not built.met
    assert slope.measured == pytest.approx(2) and not slope.met


def test_table_has_a_row_per_step() -> None:
    header, *rows = startup.table(ROUNDS)
    assert [row[0] for row in rows] == list(startup.STEPS) and len(header) == 4
    assert rows[1] == [BUILD, "1.5 (1–2)", "3 (2–4)", "0.5 (0.5–0.5)"]


def test_build_times_are_by_depth() -> None:
    times = startup_programs.build_times([20, 56], calls=1)
    assert len(times) == 2 and min(times) > 0
