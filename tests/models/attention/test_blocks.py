"""Lists of visible blocks, against the mask of every pair of tokens."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from sage_jax.models.attention.blocks import BLOCK, PADDING, tree_blocks
from sage_jax.models.sage import tree_mask
from tests.support.attention_cases import random_owners, random_row

ROWS = (
    random_row(0, questions=3, answers=3, prefix=90, question=20, answer=50),
    random_row(1, questions=1, answers=1, prefix=5, question=4, answer=4),
    random_row(2, questions=5, answers=4, prefix=70, question=12, answer=16),
)


@pytest.mark.parametrize("length", [512, 640, 530])
def test_a_block_that_some_token_sees_is_listed_in_order(length: int) -> None:
    owners = random_owners(*ROWS, length=length)
    blocks = jax.jit(tree_blocks)(*owners)
    seen = np.asarray(tree_mask(*owners)) & np.asarray(owners[0])[:, :, None]
    more = -length % BLOCK
    seen = np.pad(seen, ((0, 0), (0, more), (0, more)))
    number = seen.shape[1] // BLOCK
    by_block = seen.reshape(len(seen), number, BLOCK, number, BLOCK).any(axis=(2, 4))
    listed_pairs = 0
    pairs: Any = by_block
    for row in range(len(seen)):
        for z in range(number):
            keys = np.asarray(blocks.keys_seen)[row, z, : int(blocks.num_keys_seen[row, z])]
            assert set(np.flatnonzero(pairs[row, z])) <= set(keys.tolist()) and list(keys) == sorted(keys)
            queries = np.asarray(blocks.seen_by)[row, z, : int(blocks.num_seen_by[row, z])]
            assert set(np.flatnonzero(pairs[row, :, z])) <= set(queries.tolist())
            assert all(z in np.asarray(blocks.keys_seen)[row, q, : int(blocks.num_keys_seen[row, q])] for q in queries)
            listed_pairs += len(keys)
            assert sorted(np.asarray(blocks.keys_seen)[row, z].tolist()) == list(range(number))
    assert listed_pairs <= 1.05 * by_block.sum()  # in packed order hardly a block is read for nothing
    assert listed_pairs < 0.7 * len(seen) * number * (number + 1) / 2


def test_padding_sees_nothing_and_is_not_seen() -> None:
    owners = random_owners(ROWS[1], length=200)
    blocks = tree_blocks(*owners)
    real = int(np.asarray(owners[0]).sum())
    assert (np.asarray(blocks.question_index)[0, real:] == PADDING).all()
    assert real <= BLOCK
    np.testing.assert_array_equal(blocks.num_keys_seen, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(blocks.num_seen_by, [[1, 0, 0, 0]])
