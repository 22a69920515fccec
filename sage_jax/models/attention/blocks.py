"""Blocks of a packed tree, and which of them see which: what block-sparse attention reads in place of a mask."""

from __future__ import annotations

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Int
from sage_jax.batch import AnyArray

BLOCK: Final = 64
"""Tokens of a block, of queries and of keys alike: questions and answers are about as long, so that little of a visible
block is hidden."""

PADDING: Final = -2
"""Question of a token that is none: no token sees it, and it sees none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeBlocks:
    """What the tokens of a packed tree belong to, and which of its blocks see which.

    Z blocks hold S tokens and what pads them to whole blocks. A list names the blocks in question first, in order, and
    then the others.

    Attributes:
      question_index: Question of each token, -1 in the prefix, PADDING where there is no token.
      answer_index: Answer of each token, -1 in prefix and questions.
      keys_seen: Of each block of queries, the blocks of keys that some token of it sees.
      num_keys_seen: How many these are.
      seen_by: Of each block of keys, the blocks of queries that see some token of it.
      num_seen_by: How many these are.

    Of arrays, or of what stands for them while a kernel is traced.
    """

    question_index: AnyArray  # B S
    answer_index: AnyArray  # B S
    keys_seen: AnyArray  # B Z Z
    num_keys_seen: AnyArray  # B Z
    seen_by: AnyArray  # B Z Z
    num_seen_by: AnyArray  # B Z


def tree_blocks(
    token_mask: Bool[Array, "B S"], question_index: Int[Array, "B S"], answer_index: Int[Array, "B S"]
) -> TreeBlocks:
    """The blocks of trees whose tokens see each other as `sage.tree_mask` says; padding sees nothing."""
    more = ((0, 0), (0, -token_mask.shape[1] % BLOCK))
    real = jnp.pad(token_mask, more)
    question = jnp.where(real, jnp.pad(question_index, more), PADDING).astype(jnp.int32)
    answer = jnp.pad(answer_index, more).astype(jnp.int32)
    seen = _blocks_seen(question, answer)
    keys_seen, num_keys_seen = _listed(seen)
    seen_by, num_seen_by = _listed(seen.swapaxes(1, 2))
    return TreeBlocks(question, answer, keys_seen, num_keys_seen, seen_by, num_seen_by)


def _blocks_seen(question: Int[Array, "B S"], answer: Int[Array, "B S"]) -> Bool[Array, "B Z Z"]:
    """True where a block of queries may see a block of keys.

    Never False where a token sees another. True without need only where the owners of two blocks' tokens interleave,
    which in packed order they never do.
    """

    def span(owner: Array, mask: Array) -> tuple[Array, Array]:
        """Lowest and highest owner of each block's tokens; of none, a span that meets no other."""
        owner, mask = (x.reshape(len(x), -1, BLOCK) for x in (owner, mask))
        most = jnp.iinfo(jnp.int32).max
        return jnp.min(jnp.where(mask, owner, most), axis=-1), jnp.max(jnp.where(mask, owner, -1), axis=-1)

    def meet(queries: tuple[Array, Array], keys: tuple[Array, Array]) -> Array:
        return (queries[0][:, :, None] <= keys[1][:, None]) & (keys[0][:, None] <= queries[1][:, :, None])

    asked, answers = question >= 0, span(answer, (question > PADDING) & (answer >= 0))
    own = meet(span(question, asked), span(question, asked & (answer < 0))) | meet(answers, answers)
    prefix, real = ((x.reshape(len(x), -1, BLOCK)).any(axis=-1) for x in (question == -1, question > PADDING))
    causal = jnp.tril(jnp.ones((real.shape[1], real.shape[1]), bool))
    return causal & real[:, :, None] & (prefix[:, None] | own)


def _listed(seen: Bool[Array, "B Z Z"]) -> tuple[Int[Array, "B Z Z"], Int[Array, "B Z"]]:
    """Of each row the columns that are True, in order and before the others, and how many they are."""
    order = jnp.argsort(~seen, axis=-1, stable=True)
    return order.astype(jnp.int32), jnp.sum(seen, axis=-1, dtype=jnp.int32)
