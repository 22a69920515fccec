"""The legend of axis letters, and the array types that it is for."""

from __future__ import annotations

import re

import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError, jaxtyped

from sage_jax import axes


def test_each_letter_of_the_legend_has_one_meaning() -> None:
    rows = re.findall(r"^  ([A-Z])  (\S.*)$", axes.__doc__ or "", re.MULTILINE)
    letters = [letter for letter, _ in rows]
    assert letters == sorted(set(letters)) and len({meaning for _, meaning in rows}) == len(rows)


def test_a_letter_is_one_size_within_a_call() -> None:
    @jaxtyped(typechecker=beartype)
    def add(first: axes.Float[np.ndarray, "B T"], second: axes.Float[np.ndarray, "B T2"]) -> float:
        return float(first.sum() + second.sum())

    assert add(np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)) == 16.0
    with pytest.raises((TypeCheckError, BeartypeCallHintParamViolation)):
        add(np.ones((2, 3), np.float32), np.ones((3, 5), np.float32))
