"""What every other test builds on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from sage_jax.losses.edpo import answer_surprisal
from tests import conftest

TESTS = Path(__file__).parent
LONGEST = conftest.LONGEST


def test_tests_see_eight_devices() -> None:
    assert jax.device_count() == 8


def test_a_wrong_shape_is_an_error_in_tests() -> None:
    """Without the import hook, a mask of the wrong number of rows would be broadcast in silence."""
    answer_surprisal(jnp.ones((2, 4)), jnp.ones((2, 4), bool), temperature=1.0)
    with pytest.raises(TypeCheckError):
        answer_surprisal(jnp.ones((2, 4)), jnp.ones((1, 4), bool), temperature=1.0)


def test_the_longest_files_come_first_and_the_rest_keeps_its_order() -> None:
    """Tests of one file stay together, in the order in which they are written."""
    assert all((TESTS / name).is_file() for name in LONGEST)
    names = [("losses/test_sft.py", 1), ("models/test_sage.py", 1), ("models/test_sage.py", 2)]
    names += [("losses/test_edpo.py", 1), (LONGEST[0], 1)]
    items: list[Any] = [SimpleNamespace(path=TESTS / name, number=number) for name, number in names]
    conftest.pytest_collection_modifyitems(items)
    found = [(item.path.relative_to(TESTS).as_posix(), item.number) for item in items]
    assert found == [names[4], names[1], names[2], names[0], names[3]]
