"""All faults of a checkpoint in one error."""

from __future__ import annotations

import pytest

from sage_jax.errors import UserError
from sage_jax.hf.faults import WeightsError, listed, raise_any


def test_long_lists_are_cut_and_counted() -> None:
    with pytest.raises(WeightsError, match="50 faults(?s:.*)fault 39\n  and 10 more"):
        raise_any("folder", [f"fault {i}" for i in range(50)])
    raise_any("folder", [])


def test_one_fault_is_one_and_none_is_no_error() -> None:
    raise_any("weights", [])
    assert str(listed("weights", ["a is missing"])) == "weights: 1 fault, nothing was loaded:\n  a is missing"
    assert isinstance(listed("weights", ["a", "b"]), UserError) and "2 faults" in str(listed("weights", ["a", "b"]))
