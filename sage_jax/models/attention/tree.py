"""Attention over a tree of image, questions and answers that never computes what a token does not see.

A masked S x S attention computes every pair of tokens. Most of a tree's pairs lie on different branches: of a row with
5 questions and 20 answers a token sees the prefix, its own question and its own answer. Here the three are three dense
products, put together under one softmax:

                 prefix   own question   own answer
    prefix       causal
    question     all      causal
    answer       all      all            causal

The sequence itself stays packed, so that all other layers see no padding; questions and answers are gathered into
blocks of equal size for attention alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int
from sage_jax.batch import TreeBatch

Part = tuple[Array, Array, Array]
"""Keys, values, and a mask that is True where a query sees a key."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeLayout:
    """Where the blocks of a tree stand in its sequence. U question tokens and L answer tokens have a slot each.

    Attributes:
      prefix_mask: True at real tokens of the prefix; its length is the number of prefix slots.
      question_slots: Index into S of each question token; any where masked.
      question_mask: True at real question tokens.
      answer_slots: Index into S of each answer token; any where masked.
      answer_mask: True at real answer tokens.
      slot: Of each token of the sequence among all slots: those of the prefix, then of questions, then of answers.
    """

    prefix_mask: Bool[Array, "B U1"]
    question_slots: Int[Array, "B Q U"]
    question_mask: Bool[Array, "B Q U"]
    answer_slots: Int[Array, "B Q N L"]
    answer_mask: Bool[Array, "B Q N L"]
    slot: Int[Array, "B S"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeSlots:
    """The layout of a tree whose attention computes all in slots (`splash_attention.attend_slots`)."""

    layout: TreeLayout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeBranches:
    """The layout of a tree whose attention computes each question with its answers (`cudnn_tree.attend_branches`)."""

    layout: TreeLayout


def tree_layout(batch: TreeBatch) -> TreeLayout:
    """The layout of a batch whose `prefix_slots` and `question_slots` are given.

    Questions and answers are each one run of the sequence, as `data/trees/tree.py` lays them out. A batch without
    answer slots (N = 0) is one of prompts alone.
    """
    rows, length = batch.token_ids.shape
    num_questions, num_answers, answer_length = batch.target_ids.shape[1:]
    answer_length = batch.answer_slots or answer_length
    num_prefix, question_length = batch.prefix_slots, batch.question_slots
    questions = jnp.where(batch.token_mask & (batch.answer_index == -1), batch.question_index, -1)
    question_start, question_mask, question_slots = _runs(questions, num_questions, question_length)
    answers = jnp.where(batch.token_mask, batch.answer_index, -1)
    answer_start, answer_mask, answer_slots = _runs(answers, num_questions * num_answers, answer_length)
    # Where each token of the sequence finds its own output again.
    index = jnp.arange(length)
    question, answer = jnp.maximum(batch.question_index, 0), jnp.maximum(batch.answer_index, 0)
    in_question = index - jnp.take_along_axis(question_start, question, axis=1) + question * question_length
    behind = jnp.clip(in_question, 0)
    if num_answers:
        in_answer = index - jnp.take_along_axis(answer_start, answer, axis=1) + answer * answer_length
        behind = jnp.where(batch.answer_index >= 0, num_questions * question_length + in_answer, behind)
    slot = jnp.where(batch.question_index >= 0, num_prefix + behind, jnp.minimum(index, num_prefix - 1))
    num_slots = num_prefix + num_questions * (question_length + num_answers * answer_length)
    ranked = (rows, num_questions, num_answers, answer_length)
    return TreeLayout(
        prefix_mask=(batch.token_mask & (batch.question_index == -1))[:, :num_prefix],
        question_slots=question_slots,
        question_mask=question_mask,
        answer_slots=answer_slots.reshape(ranked),
        answer_mask=answer_mask.reshape(ranked),
        slot=jnp.clip(slot, 0, num_slots - 1),
    )


def prefix_layout(prefix_mask: Bool[Array, "B U1"]) -> TreeLayout:
    """The layout of a prefix alone, without questions."""
    rows, length = prefix_mask.shape
    none = jnp.zeros((rows, 0, 0, 1), jnp.int32)
    no_question = jnp.zeros((rows, 0, 1), jnp.int32)
    return TreeLayout(
        prefix_mask=prefix_mask,
        question_slots=no_question,
        question_mask=no_question > 0,
        answer_slots=none,
        answer_mask=none > 0,
        slot=jnp.broadcast_to(jnp.arange(length), (rows, length)),
    )


def _runs(owner: Int[Array, "B S"], num_owners: int, length: int) -> tuple[Array, Array, Array]:
    """Of each owner's run of tokens: where it begins, which of `length` slots it fills, and their indices."""
    here = owner[:, None] == jnp.arange(num_owners)[:, None]  # B owners S
    start = jnp.argmax(here, axis=-1)
    slots = start[..., None] + jnp.arange(length)
    mask = jnp.arange(length) < jnp.sum(here, axis=-1)[..., None]
    return start, mask, jnp.minimum(slots, owner.shape[1] - 1)


def attend_tree(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S R X"],
    values: Float[Array, "B S R X"],
    layout: TreeLayout,
) -> Float[Array, "B S Y X"]:
    """What `attend` gives under the tree's mask, without the pairs that the mask hides.

    N query heads share R key/value heads, N / R each, in order. Softmax is taken in float32 or wider. Outputs at
    padding are meaningless and finite.
    """
    width, num_kv_heads = queries.shape[-1], keys.shape[2]
    scaled = queries * jnp.asarray(width**-0.5, queries.dtype)
    num_prefix = layout.prefix_mask.shape[1]
    seen = layout.prefix_mask[:, None, None, None]  # over key/value heads, blocks and their queries

    def cut(x: Array, slots: Array | None) -> Array:
        """Tokens of the prefix or of blocks, heads in front: B R blocks groups*tokens X."""
        if slots is None:
            blocks = x[:, None, :num_prefix]
        else:
            index = slots.reshape(len(x), -1)[..., None, None]
            blocks = jnp.take_along_axis(x, index, axis=1).reshape(len(x), -1, slots.shape[-1], *x.shape[2:])
        batch, number, tokens, heads, _ = blocks.shape
        grouped = blocks.reshape(batch, number, tokens, num_kv_heads, heads // num_kv_heads, width)
        return grouped.transpose(0, 3, 1, 4, 2, 5).reshape(batch, num_kv_heads, number, -1, width)

    def own(keys: Array, values: Array, mask: Array) -> Part:
        """A block's own keys under a causal mask."""
        causal = jnp.tril(jnp.ones((mask.shape[-1], mask.shape[-1]), bool))
        return keys, values, mask.reshape(len(mask), 1, -1, 1, mask.shape[-1]) & causal

    prefix = cut(keys, None), cut(values, None)
    whole = (*prefix, seen)
    outputs = [_merge(cut(scaled, None), [own(*prefix, layout.prefix_mask[:, None])])]
    _, num_questions, num_answers, _ = layout.answer_slots.shape
    if num_questions:
        question = cut(keys, layout.question_slots), cut(values, layout.question_slots)
        outputs.append(_merge(cut(scaled, layout.question_slots), [whole, own(*question, layout.question_mask)]))
        if num_answers:
            answer = cut(keys, layout.answer_slots), cut(values, layout.answer_slots)
            question_keys, question_values = (jnp.repeat(x, num_answers, axis=2) for x in question)
            question_seen = jnp.repeat(layout.question_mask, num_answers, axis=1)[:, None, :, None]  # B 1 Q*N 1 U
            before = [whole, (question_keys, question_values, question_seen)]
            outputs.append(_merge(cut(scaled, layout.answer_slots), [*before, own(*answer, layout.answer_mask)]))
    lengths = (num_prefix, layout.question_slots.shape[-1], layout.answer_slots.shape[-1])
    rows = [_tokens_first(out, tokens) for out, tokens in zip(outputs, lengths, strict=False)]
    return jnp.take_along_axis(jnp.concatenate(rows, axis=1), layout.slot[..., None, None], axis=1)


def _merge(queries: Float[Array, "B R Z _ X"], parts: Sequence[Part]) -> Array:
    """Attention of blocks of queries over several sets of keys under one softmax.

    Keys of one block (K = 1) serve the queries of all. A mask is over tokens, the same for all heads of a group.
    """
    batch, num_kv_heads, number, size, width = queries.shape
    logits = []
    for keys, _, mask in parts:
        shared = keys.shape[2] == 1 and number > 1
        rows = queries.reshape(batch, num_kv_heads, 1, -1, width) if shared else queries
        found = jnp.einsum("brkqx,brktx->brkqt", rows, keys)
        found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        tokens = mask.shape[3] if mask.shape[3] > 1 else size
        found = found.reshape(batch, num_kv_heads, number, -1, tokens, keys.shape[3])
        logits.append(jnp.where(mask[:, :, :, None], found, jnp.finfo(jnp.float32).min))
    flat = [each.reshape(batch, num_kv_heads, number, size, -1) for each in logits]
    highest = jax.lax.stop_gradient(jnp.max(jnp.stack([jnp.max(each, axis=-1) for each in flat]), axis=0))
    weights = [jnp.exp(each - highest[..., None]) for each in flat]
    total = jnp.sum(jnp.stack([jnp.sum(each, axis=-1) for each in weights]), axis=0)
    summed: Array | float = 0.0
    for weight, (_, values, _) in zip(weights, parts, strict=True):
        shared = values.shape[2] == 1 and number > 1
        rows = weight.reshape(batch, num_kv_heads, 1, number * size, -1) if shared else weight
        out = jnp.einsum("brkqt,brktx->brkqx", rows.astype(values.dtype), values)
        summed = summed + out.reshape(queries.shape).astype(total.dtype)
    return (summed / total[..., None]).astype(queries.dtype)


def _tokens_first(blocks: Float[Array, "B R Z _ X"], tokens: int) -> Float[Array, "B _ Y X"]:
    """Tokens of all blocks one after the other, heads behind them."""
    batch, num_kv_heads, number, _, width = blocks.shape
    grouped = blocks.reshape(batch, num_kv_heads, number, -1, tokens, width)
    return grouped.transpose(0, 2, 4, 1, 3, 5).reshape(batch, number * tokens, -1, width)
