"""What the programs of a `Responder` are given, in shapes that do not depend on what is asked of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sage_jax.axes import Int
from sage_jax.batch import TreeBatch

Begun = Int[np.ndarray, "B Q L"]
"""Token ids that answers to a batch's questions, or its first ones, begin with; -1 from where the model goes on."""


def lean(batch: TreeBatch) -> TreeBatch:
    """The batch as it is, or without tiles of references where no row shows one: they would be encoded for nothing."""
    if np.asarray(batch.reference_tile_mask).any():
        return batch
    return dataclasses.replace(
        batch, reference_tiles=batch.reference_tiles[:, :0], reference_tile_mask=batch.reference_tile_mask[:, :0]
    )


def draws_of(seeds: Int[np.ndarray, " B"] | None, rows: Any) -> Int[np.ndarray, " B"]:
    """What tells the draws of rows apart; 0 for all where nothing is given."""
    return np.zeros(len(rows), np.int32) if seeds is None else np.asarray(seeds, np.int32)


def begun_of(begun: Begun | None, rows_and_questions: tuple[int, ...], longest: int) -> Begun:
    """The beginnings of answers of at most `longest` tokens; -1 throughout where nothing is given.

    Args:
      begun: Of as many rows, and of the first questions at least.

    Raises:
      ValueError: It has another number of rows, or leaves the model no token to say.
    """
    found = np.full((*rows_and_questions, longest), -1, np.int32)
    if begun is not None:
        rows, questions, length = begun.shape
        if rows != found.shape[0] or questions > found.shape[1] or length >= longest:
            raise ValueError(
                f"begun answers {begun.shape} of a batch {found.shape}: give all rows, no more questions, fewer tokens"
            )
        found[:, :questions, :length] = begun
    return found
