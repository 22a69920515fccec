"""The batch as a tree of arrays: what is traced, what is part of a program's shape, what is documented."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.batch import Answers, Scores, TreeBatch
from sage_jax.config.fields import field_meanings
from tests.support.tiny_sage import on_device, random_batch

SLOTS = ("prefix_slots", "question_slots", "answer_slots", "target_slots")


@pytest.mark.parametrize("kind", [TreeBatch, Answers, Scores])
def test_every_field_is_documented_and_nothing_else(kind: type) -> None:
    assert field_meanings(kind).keys() == {field.name for field in dataclasses.fields(kind)}


def test_arrays_are_leaves_and_slots_are_kept_beside_them() -> None:
    batch = random_batch(0)
    doubled = jax.tree.map(lambda leaf: leaf + leaf, batch)
    for field in dataclasses.fields(TreeBatch):
        value, twice = getattr(batch, field.name), getattr(doubled, field.name)
        if field.name in SLOTS:
            assert twice == value
        else:
            np.testing.assert_array_equal(twice, value + value)


def test_another_number_of_slots_is_another_program() -> None:
    traced: list[int] = []

    @jax.jit
    def count(batch: TreeBatch) -> jax.Array:
        traced.append(batch.prefix_slots)
        return jnp.sum(batch.token_mask)

    batch = on_device(random_batch(1))
    for slots in (5, 5, 9):
        count(dataclasses.replace(batch, prefix_slots=slots))
    assert traced == [5, 9]
