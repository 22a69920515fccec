"""Attention on TPUs: JAX's splash attention over the slots of a tree, and over tiles of an image.

In slots (`TreeLayout`) a tree's parts stand at fixed places, and what each slot sees is known when the program is
compiled, but for which slots hold a token:

    prefix slots | slots of question 0, 1, .. | slots of answer 0, 1, .. of question 0, then of question 1, ..

So one static mask serves all rows and layers, of which the kernel skips the blocks that hide everything, and padding is
a segment of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from sage_jax.axes import Array, Bool, Float
from sage_jax.models.attention.tree import TreeLayout, TreeSlots
from sage_jax.sharding import on_each_device

LANES: Final = 128
"""Lengths are padded to a multiple of it."""

_LARGEST_BLOCK: Final = 512
_HEADS: Final = ("batch", "none", "heads", "none")


@dataclasses.dataclass(frozen=True)
class TreeSlotMask(splash_attention_mask.Mask):
    """True where a slot of a tree sees another; nowhere is it stored as a whole.

    Attributes:
      num_prefix, num_questions, question_length, num_answers, answer_length: Slots of the prefix, and numbers and slots
        of questions, and of the answers of each.
      length: All slots, and what pads them: padding sees itself alone.
    """

    num_prefix: int
    num_questions: int
    question_length: int
    num_answers: int
    answer_length: int
    length: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, self.length

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        question, answer = self._owners
        rows, columns = (np.arange(self.length)[part] for part in index)
        own_question, own_answer = question[rows][:, None], answer[rows][:, None]
        other_question, other_answer = question[columns], answer[columns]
        branch = (other_question == -1) & (own_question < self.num_questions) | (other_question == own_question)
        return branch & ((other_answer == -1) | (other_answer == own_answer)) & (columns <= rows[:, None])

    @functools.cached_property
    def _owners(self) -> tuple[np.ndarray, np.ndarray]:
        """Question and answer of each slot, -1 where it has none; padding is a question behind the last."""
        questions, answers = np.arange(self.num_questions), np.arange(self.num_questions * self.num_answers)
        question = np.full(self.length, self.num_questions)
        answer = np.full(self.length, -1)
        question[: self.num_prefix] = -1
        behind = self.num_prefix + self.num_questions * self.question_length
        question[self.num_prefix : behind] = np.repeat(questions, self.question_length)
        end = behind + len(answers) * self.answer_length
        question[behind:end] = np.repeat(questions, self.num_answers * self.answer_length)
        answer[behind:end] = np.repeat(answers, self.answer_length)
        return question, answer


def attend_slots(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S R X"],
    values: Float[Array, "B S R X"],
    slots: TreeSlots,
    *,
    interpret: bool,
) -> Float[Array, "B S Y X"]:
    """What `attend` gives under the tree's mask, in the inputs' dtype; meaningless and finite at padding.

    N query heads share R key/value heads, N / R each, in order. Softmax and sums are float32. On several devices each
    computes its own rows and heads.

    Args:
      interpret: Computes without a TPU what the kernel computes on one, for tests: slowly.
    """
    compute = functools.partial(_attend_slots_on_device, interpret=interpret)
    return on_each_device(compute, (queries, keys, values, slots.layout), (_HEADS, _HEADS, _HEADS, ("batch",)), _HEADS)


def attend_dense(
    queries: Float[Array, "B S Y X"], keys: Float[Array, "B S Y X"], values: Float[Array, "B S Y X"], *, interpret: bool
) -> Float[Array, "B S Y X"]:
    """What `attend` gives without a mask, by the same kernel."""

    def compute(queries: Array, keys: Array, values: Array) -> Array:
        rows, length, _, _ = queries.shape
        more = -length % LANES
        padded = [jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (queries, keys, values)]
        real = jnp.broadcast_to(jnp.arange(length + more) < length, (rows, length + more))
        mask = splash_attention_mask.FullMask((length + more, length + more))
        return _attend(padded[0], padded[1], padded[2], real, mask, interpret)[:, :length]

    return on_each_device(compute, (queries, keys, values), (_HEADS, _HEADS, _HEADS), _HEADS)


def _attend_slots_on_device(
    queries: Array, keys: Array, values: Array, layout: TreeLayout, *, interpret: bool
) -> Array:
    rows, num_prefix = layout.prefix_mask.shape
    _, num_questions, num_answers, answer_length = layout.answer_slots.shape
    question_length = layout.question_slots.shape[-1]
    masks = layout.prefix_mask, layout.question_mask, layout.answer_mask
    real = jnp.concatenate([mask.reshape(rows, -1) for mask in masks], axis=1)
    more = -real.shape[1] % LANES
    real = jnp.pad(real, ((0, 0), (0, more)))
    prefix = jnp.broadcast_to(jnp.arange(num_prefix), (rows, num_prefix))
    source = [each.reshape(rows, -1) for each in (prefix, layout.question_slots, layout.answer_slots)]
    source = jnp.pad(jnp.concatenate(source, axis=1), ((0, 0), (0, more)))[..., None, None]
    mask = TreeSlotMask(num_prefix, num_questions, question_length, num_answers, answer_length, real.shape[1])
    in_slots = [jnp.take_along_axis(x, source, axis=1) for x in (queries, keys, values)]
    out = _attend(in_slots[0], in_slots[1], in_slots[2], real, mask, interpret)
    return jnp.take_along_axis(out, layout.slot[..., None, None], axis=1)


def _attend(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S R X"],
    values: Float[Array, "B S R X"],
    real: Bool[Array, "B S"],
    mask: splash_attention_mask.Mask,
    interpret: bool,
) -> Float[Array, "B S Y X"]:
    """Attention under a static mask, between real tokens and between those that are not."""
    rows, length, num_heads, width = queries.shape
    num_kv_heads = keys.shape[2]
    groups = num_heads // num_kv_heads
    scaled = queries * jnp.asarray(width**-0.5, queries.dtype)
    grouped = scaled.reshape(rows, length, num_kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    segments = splash_attention_kernel.SegmentIds(*(real.astype(jnp.int32),) * 2)
    kernel = _kernel(mask, groups, interpret)
    by_row = jax.vmap(jax.vmap(kernel, (0, 0, 0, None)))
    out = by_row(grouped, keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3), segments)  # B R G S X
    return out.transpose(0, 3, 1, 2, 4).reshape(queries.shape)


@functools.lru_cache(maxsize=64)
def _kernel(mask: splash_attention_mask.Mask, groups: int, interpret: bool) -> Any:
    """The kernel of `groups` query heads on one key/value head; its tables of blocks are arrays on the host."""
    size = max(size for size in range(LANES, _LARGEST_BLOCK + 1, LANES) if mask.shape[0] % size == 0)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    with jax.ensure_compile_time_eval():
        made = splash_attention_kernel.make_splash_mqa_single_device(
            splash_attention_mask.MultiHeadMask([mask] * groups), block_sizes=sizes, interpret=interpret
        )
        return jax.tree.map(np.asarray, made)
