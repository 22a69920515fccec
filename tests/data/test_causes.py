"""Faults of one cause are one row; those of another are another, and none is lost."""

from __future__ import annotations

import pytest

from sage_jax.data.causes import Cause, by_cause, rows_of, told
from sage_jax.data.records import Fault


def gone(number: int) -> Fault:
    return Fault("a.json", number, f"img/{number:03d}.png does not exist under /data", "correct the path")


def test_faults_of_one_cause_are_one_row_with_count_and_places() -> None:
    faults = [gone(number) for number in range(1, 41)]
    (cause,) = by_cause(faults)
    assert cause == Cause(tuple(faults))
    assert str(cause) == (
        "40 of one cause: a.json:1: img/001.png does not exist under /data (correct the path), and 39 more, such as "
        "a.json:2 and a.json:3"
    )
    assert str(by_cause(faults[:1])[0]) == str(faults[0]) == told(faults[:1], 10)
    assert told(faults, 10) == str(cause)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("is in 'hole', but its mask is empty", "is in 'bent wire', but its mask is empty"),
        ("is 640 x 480 px, its mask 32 x 32", "is 64 x 48 px, its mask 31 x 3"),
        ("has 4 questions", "has 12 questions"),
        ("mask a.png is damaged: bad byte 3", "mask b-c.tiff is damaged: bad byte 17"),
        ("stands in line 3 of x/a.json already", "stands in line 9 of C:\\y\\b.json already"),
    ],
)
def test_names_and_numbers_say_where_a_fault_is_not_what(one: str, other: str) -> None:
    assert len(by_cause([Fault("a", 1, one, "mend it"), Fault("b", None, other, "mend it")])) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("is defective but has no mask", "add it"), ("is a link to nothing", "add it")),
        (("does not exist", "correct the path"), ("does not exist", "complete the data set")),
        (("is truncated: no end", "copy it"), ("is damaged: no end", "copy it")),
    ],
)
def test_other_problems_and_other_cures_are_other_causes(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert len(by_cause([Fault("a", 1, *one), Fault("a", 2, *other)])) == 2


def test_every_fault_is_in_one_cause_and_rows_stop_at_the_most() -> None:
    kinds = ["is torn", "is wet", "is gone", "is old"]
    faults = [Fault(f"{number}.png", None, kinds[number % 4], "mend it") for number in range(12)]
    causes = by_cause(faults)
    assert sorted(fault.file for cause in causes for fault in cause.faults) == sorted(fault.file for fault in faults)
    assert [cause.faults[0] for cause in causes] == faults[:4]
    assert rows_of(causes, 3).splitlines()[-1] == "  and 1 more causes"
    said = told(faults, 3).splitlines()
    assert said[0] == "12 faults of 4 causes:" and len(said) == 5
    assert "such as" not in str(by_cause([faults[0]] * 2)[0])


def test_a_row_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in str(by_cause([Fault("a\x1b[2J", None, "is wet", "dry it")] * 2)[0])
