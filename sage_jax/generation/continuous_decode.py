"""Rows of decoding that each hold an image at its own token, so that a row whose image has ended takes in the next.

Tokens are written at one place for all rows. In front of the prompt's slots a cache has a ring of slots for answers:
step k writes slots (k mod (L - 1)) * Q and on. An image has ended after at most L - 1 steps, before its first slot is
written again. Slots need no order: positions are in the keys, and each row's mask says which slots are its own.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Int
from sage_jax.batch import AnyArray, Scores, TreeBatch
from sage_jax.generation.decoding import (
    DecodeState,
    Decoding,
    chosen_token,
    first_logits,
    first_scores,
    next_token,
    prefill,
    unasked,
)
from sage_jax.generation.sampling import draw_keys
from sage_jax.models.sage import Sage


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeRows:
    """Images whose questions are being answered, one a row, and how far each is.

    Attributes:
      state: The conversations; the ring's slots come first in its cache, and its length is the ring's next slot.
      token: Last token of each answer.
      ended: True where there is nothing more to answer; everywhere in a row that is free.
      step: Number of the last token in its answer, from 0.
      seeds: Of each row's draws.
      token_ids: The answers so far; what follows is the closing id.

    Of arrays, or of their shardings.
    """

    state: DecodeState
    token: AnyArray  # B Q
    ended: AnyArray  # B Q
    step: AnyArray  # B
    seeds: AnyArray  # B
    token_ids: AnyArray  # B Q L

    @property
    def num_slots(self) -> int:
        """Slots of the cache."""
        return self.state.visible.shape[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowStates:
    """How far rows are.

    Attributes:
      free: True where a row's answers have ended, or where it never had an image.
      token_ids: Answers so far.
      steps: Decoding steps that were made since the last time.

    Of arrays, or of their shardings.
    """

    free: AnyArray  # B
    token_ids: AnyArray  # B Q L
    steps: AnyArray


def ring_slots(num_questions: int, decoding: Decoding) -> int:
    """Slots of the ring: a token of every question in every step that an image can take."""
    return max(decoding.max_new_tokens - 1, 1) * num_questions


def row_bytes(group: DecodeRows, decoding: Decoding) -> float:
    """Bytes that a row of its own takes on a device, ring included, as long as those of a prefilled group."""
    arrays = [leaf for leaf in jax.tree.leaves(group) if leaf.ndim]
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in arrays)
    rows, num_questions = group.token.sharding.shard_shape(group.token.shape)
    return held / rows * (1.0 + ring_slots(num_questions, decoding) / group.num_slots)


def prefill_rows(
    model: Sage, batch: TreeBatch, seeds: Int[Array, " B"], decoding: Decoding
) -> tuple[Scores, DecodeRows]:
    """The images of a batch with the first token of each answer, to be put into rows; their cache has no ring."""
    logits, similarity, state = prefill(model, batch, 0, decoding)
    rows, num_questions, _ = logits.shape
    keys, zero = draw_keys(decoding.sampling.seed, seeds, num_questions, state.turns), jnp.zeros((), jnp.int32)
    scores = first_scores(logits, batch, similarity, decoding)
    first = first_logits(logits, scores.verdict_score, decoding)
    token, ended, state = chosen_token(state, first, unasked(batch), keys, zero, decoding)
    token_ids = jnp.full((rows, num_questions, decoding.max_new_tokens), decoding.end_id, jnp.int32)
    found = DecodeRows(
        state=state,
        token=token,
        ended=ended | (decoding.max_new_tokens == 1),
        step=jnp.zeros(rows, jnp.int32),
        seeds=seeds,
        token_ids=token_ids.at[:, :, 0].set(token),
    )
    return scores, found


def free_rows(model: Sage, group: DecodeRows, rows: int, decoding: Decoding) -> DecodeRows:
    """So many free rows for images of prompts as long as those of a group, which is only looked at for its shapes."""
    num_questions = group.token.shape[1]
    slots = ring_slots(num_questions, decoding) + group.num_slots

    def none(x: Array) -> Array:
        return jnp.zeros((rows, *x.shape[1:]), x.dtype)

    state = DecodeState(
        cache=model.decoder.empty_cache(rows, slots),
        visible=jnp.zeros((rows, num_questions, slots), bool),
        position_ids=none(group.state.position_ids),
        used=jax.tree.map(none, group.state.used),
        places=jax.tree.map(none, group.state.places),
        turns=jnp.zeros((), jnp.int32),
    )
    return DecodeRows(
        state=state,
        token=none(group.token),
        ended=jnp.ones((rows, num_questions), bool),
        step=none(group.step),
        seeds=none(group.seeds),
        token_ids=none(group.token_ids),
    )


def widen_rows(rows: DecodeRows, slots: int) -> DecodeRows:
    """The same with so many slots in all: the ring comes first, so that longer prompts find room behind."""
    return dataclasses.replace(rows, state=rows.state.widened(slots))


def put_rows(rows: DecodeRows, group: DecodeRows, into_rows: Int[Array, " C"], decoding: Decoding) -> DecodeRows:
    """The rows with a group's images in some of them; whatever these held is gone.

    Args:
      group: Of prompts no longer than the rows have slots for.
      into_rows: Row of each image of the group; the number of rows where one is left out.
    """
    ring = ring_slots(group.token.shape[1], decoding)
    end = ring + group.num_slots

    def put(into: Array, what: Array) -> Array:
        return into.at[into_rows].set(what, mode="drop")

    cache, shown = rows.state.cache, group.state.cache
    cache = dataclasses.replace(
        cache,
        keys=tuple(
            old.at[into_rows, :, :, ring:end].set(new, mode="drop")
            for old, new in zip(cache.keys, shown.keys, strict=True)
        ),
        values=tuple(
            old.at[into_rows, :, ring:end].set(new, mode="drop")
            for old, new in zip(cache.values, shown.values, strict=True)
        ),
    )
    state = DecodeState(
        cache=cache,
        visible=put(rows.state.visible, jnp.pad(group.state.visible, ((0, 0), (0, 0), (ring, rows.num_slots - end)))),
        position_ids=put(rows.state.position_ids, group.state.position_ids),
        used=jax.tree.map(put, rows.state.used, group.state.used),
        places=jax.tree.map(put, rows.state.places, group.state.places),
        turns=rows.state.turns,
    )
    return DecodeRows(
        state=state,
        token=put(rows.token, group.token),
        ended=put(rows.ended, group.ended),
        step=put(rows.step, group.step),
        seeds=put(rows.seeds, group.seeds),
        token_ids=put(rows.token_ids, group.token_ids),
    )


def decode_rows(
    model: Sage, rows: DecodeRows, wanted: Int[Array, ""], decoding: Decoding
) -> tuple[DecodeRows, RowStates]:
    """One token of every open answer in each step, until so many rows are free; and how far the rows then are."""
    num_questions, longest = rows.token_ids.shape[1:]
    keys = draw_keys(decoding.sampling.seed, rows.seeds, num_questions, rows.state.turns)
    ring = ring_slots(num_questions, decoding)

    def unfinished(carry: tuple[DecodeRows, Array]) -> Array:
        return jnp.sum(carry[0].ended.all(axis=1)) < wanted

    def step(carry: tuple[DecodeRows, Array]) -> tuple[DecodeRows, Array]:
        rows, steps = carry
        number = rows.step + ~rows.ended.all(axis=1)
        token, ended, state = next_token(model, rows.state, rows.token, rows.ended, keys, number[:, None], decoding)
        here = (jnp.arange(longest) == number[:, None, None]) & ~rows.ended[..., None]
        length = jnp.where(state.length < ring, state.length, 0)
        rows = DecodeRows(
            state=dataclasses.replace(state, cache=dataclasses.replace(state.cache, length=length)),
            token=token,
            ended=ended | (number >= longest - 1)[:, None],
            step=number,
            seeds=rows.seeds,
            token_ids=jnp.where(here, token[..., None], rows.token_ids),
        )
        return rows, steps + 1

    rows, steps = jax.lax.while_loop(unfinished, step, (rows, jnp.zeros((), jnp.int32)))
    return rows, RowStates(rows.ended.all(axis=1), rows.token_ids, steps)
