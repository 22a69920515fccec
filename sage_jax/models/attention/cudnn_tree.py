"""Attention over a tree by cuDNN: the prefix by one causal call, all branches of all questions by a second one.

A branch is a question with its answers, T tokens. Each reads the prefix, P tokens, and itself:

    call      queries                   keys                  hidden by
    prefix    B x P                     B x P                 causality and length
    branches  B Q x T                   B Q x (P + T)         a mask of B Q x T x (P + T)

Both are one softmax each, so that nothing has to be merged. Merging a dense part over the prefix with each branch's own
part needs the logarithm of each query's sum of weights with its gradient; `jax.nn.dot_product_attention` gives it
without gradient and in the inputs' 16 bits, which moves a weight by up to 1.6 % at a sum of e^8. The price is a copy of
the prefix's keys and values for each question, whose gradients are summed, and hidden pairs inside a branch: at five
questions of 100 tokens with four answers of 80 behind 1,792 image tokens, 6.3 million pairs of which 5.6 are visible; a
causal call over the whole sequence has 7.6. No GPU has run it.
"""

from __future__ import annotations

import functools
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sage_jax.axes import Array, Bool, Float
from sage_jax.models.attention.tree import TreeBranches, TreeLayout
from sage_jax.sharding import on_each_device

STEP: Final = 8
"""Prefix and branches are padded to a multiple of it: cuDNN has a gradient for even lengths alone, and reads masks in
words of 16 bytes."""

_HEADS: Final = ("batch", "none", "heads", "none")

Implementation = Literal["cudnn", "xla"]
"""That of `jax.nn.dot_product_attention`."""


def attend_branches(
    queries: Float[Array, "B S Y X"],
    keys: Float[Array, "B S R X"],
    values: Float[Array, "B S R X"],
    branches: TreeBranches,
    *,
    implementation: Implementation,
) -> Float[Array, "B S Y X"]:
    """What `attend` gives under the tree's mask, in the inputs' dtype; meaningless and finite at padding.

    N query heads share R key/value heads, N / R each, in order. Softmax and sums are float32. On several devices each
    computes its own rows and heads.

    Args:
      implementation: `cudnn` on a GPU, 16-bit inputs; `xla` computes the same calls anywhere, for tests.
    """
    compute = functools.partial(_attend_on_device, implementation=implementation)
    arguments = queries, keys, values, branches.layout
    return on_each_device(compute, arguments, (_HEADS, _HEADS, _HEADS, ("batch",)), _HEADS)


def _attend_on_device(
    queries: Array, keys: Array, values: Array, layout: TreeLayout, *, implementation: Implementation
) -> Array:
    given = queries, keys, values
    outputs = [_attend_prefix(given, layout, implementation)]
    if layout.question_slots.shape[1]:
        outputs += _attend_questions(given, layout, implementation)
    prefix = layout.prefix_mask.shape[1]
    # Tokens of the prefix stand without the holes that its mask has, and padded.
    rank = jnp.maximum(jnp.cumsum(layout.prefix_mask, axis=1) - 1, 0)
    of_prefix = jnp.take_along_axis(rank, jnp.minimum(layout.slot, prefix - 1), axis=1)
    slot = jnp.where(layout.slot < prefix, of_prefix, layout.slot + outputs[0].shape[1] - prefix)
    return _taken(jnp.concatenate(outputs, axis=1), slot)


def _attend_prefix(given: tuple[Array, ...], layout: TreeLayout, implementation: Implementation) -> Array:
    """Outputs of the prefix's real tokens, one behind the other: B P Y X."""
    order = _padded(jnp.argsort(~layout.prefix_mask, axis=1, stable=True), 1)
    count = jnp.maximum(jnp.sum(layout.prefix_mask, axis=1, dtype=jnp.int32), 1)
    return jax.nn.dot_product_attention(
        *(_taken(x, order) for x in given),
        is_causal=True,
        query_seq_lengths=count,
        key_value_seq_lengths=count,
        implementation=implementation,
    )


def _attend_questions(given: tuple[Array, ...], layout: TreeLayout, implementation: Implementation) -> list[Array]:
    """Outputs of all question slots, then of all answer slots: B _ Y X each."""
    rows, prefix = layout.prefix_mask.shape
    _, num_questions, num_answers, answer_length = layout.answer_slots.shape
    asked, answered = layout.question_slots.shape[2], num_answers * answer_length
    of_answers = layout.answer_slots.reshape(rows, num_questions, answered)
    source = _padded(jnp.concatenate([layout.question_slots, of_answers], axis=2), 2)
    length = source.shape[2]
    in_prefix = _padded(jnp.broadcast_to(jnp.arange(prefix), (rows, prefix)), 1)

    def with_prefix(x: Array, own: Array) -> Array:
        """Keys or values of each branch behind a copy of the prefix's."""
        shared = _taken(x, in_prefix)[:, None]
        shared = jnp.broadcast_to(shared, (rows, num_questions, *shared.shape[2:]))
        return jnp.concatenate([shared.reshape(-1, *shared.shape[2:]), own], axis=1)

    queries, keys, values = (_taken(x, source.reshape(rows, -1)).reshape(-1, length, *x.shape[2:]) for x in given)
    sees = _sees(layout, length)
    out = jax.nn.dot_product_attention(
        queries,
        with_prefix(given[1], keys),
        with_prefix(given[2], values),
        mask=sees.reshape(rows * num_questions, 1, length, -1),
        implementation=implementation,
    ).reshape(rows, num_questions, length, *queries.shape[2:])
    parts = out[:, :, :asked], out[:, :, asked : asked + answered]
    return [part.reshape(rows, -1, *part.shape[3:]) for part in parts]


def _sees(layout: TreeLayout, length: int) -> Bool[Array, "B Q U _"]:
    """True where a branch's slot sees one of the prefix's or of its own; padding sees the prefix and itself alone."""
    rows, num_questions, num_answers, answer_length = layout.answer_slots.shape
    asked = layout.question_slots.shape[2]
    answer = np.full(length, -1)
    answer[asked : asked + num_answers * answer_length] = np.repeat(np.arange(num_answers), answer_length)
    branch = (answer[None] == -1) | (answer[None] == answer[:, None])
    static = jnp.asarray(branch & np.tril(np.ones((length, length), bool)))
    real = [layout.question_mask, layout.answer_mask.reshape(rows, num_questions, -1)]
    own = static & _padded(jnp.concatenate(real, axis=2), 2)[:, :, None] | jnp.eye(length, dtype=bool)
    shared = _padded(layout.prefix_mask, 1)[:, None, None]
    return jnp.concatenate([jnp.broadcast_to(shared, (*own.shape[:3], shared.shape[-1])), own], axis=3)


def _padded(x: Array, axis: int) -> Array:
    """The array with zeros behind, up to a multiple of STEP along an axis."""
    more: Any = [(0, 0)] * x.ndim
    more[axis] = (0, -x.shape[axis] % STEP)
    return jnp.pad(x, more)


def _taken(x: Float[Array, "B S Y X"], index: Array) -> Float[Array, "B _ Y X"]:
    return jnp.take_along_axis(x, index[..., None, None], axis=1)
