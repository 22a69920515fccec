"""The verdict token of an answer: its score, and its choice by a threshold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sage_jax.axes import Array, Float

VerdictIds = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids that open a positive and a negative answer."""


def verdict_score(logits: Float[Array, "B Q V"], verdict_ids: VerdictIds) -> Float[Array, "B Q"]:
    """P(yes) / (P(yes) + P(no)) from an answer's first logits, 0..1."""
    yes, no = (jax.nn.logsumexp(logits[..., jnp.asarray(ids)], axis=-1) for ids in verdict_ids)
    return jax.nn.sigmoid(yes - no)


def opened_by_score(logits: Float[Array, "B Q V"], verdict_ids: VerdictIds, threshold: float) -> Float[Array, "B Q V"]:
    """First logits with which each row's first question is answered yes from the threshold on, and no below it.

    All other tokens of that question become impossible, so that the words that follow are those of the verdict that a
    line acts on. Further questions stay as they are.
    """
    positive = verdict_score(logits[:, :1], verdict_ids) >= jnp.float32(threshold)  # B 1
    opens = np.zeros((2, logits.shape[-1]), np.bool_)
    for row, ids in zip(opens, verdict_ids, strict=True):
        row[list(ids)] = True
    allowed = jnp.where(positive[..., None], opens[0], opens[1])
    return logits.at[:, :1].set(jnp.where(allowed, logits[:, :1], -jnp.inf))
