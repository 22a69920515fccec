"""The verdict token of an answer: its score, that of an image with its map, and the token's choice by a threshold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sage_jax.axes import Array, Bool, Float
from sage_jax.verdict import JointScore

VerdictIds = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids that open a positive and a negative answer."""


def verdict_score(
    logits: Float[Array, "B Q V"],
    verdict_ids: VerdictIds,
    shift: Float[Array, " B"] | None = None,
    joint: JointScore | None = None,
    similarity: Float[Array, "B M"] | None = None,
    compared: Bool[Array, " B"] | None = None,
) -> Float[Array, "B Q"]:
    """P(yes) / (P(yes) + P(no)) from an answer's first logits, 0..1; each image's first as calibration has it.

    Args:
      shift: Added to the log-odds of the first question of a row; None = 0.
      joint: How that score joins verdict and map; None = it is the verdict's alone, and the rest is not read.
      similarity: Of each image token to the reference.
      compared: True where there is a reference: else the score is the verdict's alone.
    """
    odds = _log_odds(logits, verdict_ids)
    first = odds[:, 0]
    if joint is not None:
        assert similarity is not None and compared is not None
        joined = joint.verdict * first + joint.map * (1.0 - jnp.min(similarity, axis=-1)) + joint.offset
        first = jnp.where(compared, joined, first)
    return jax.nn.sigmoid(odds.at[:, 0].set(first if shift is None else first + shift))


def _log_odds(logits: Float[Array, "B Q V"], verdict_ids: VerdictIds) -> Float[Array, "B Q"]:
    yes, no = (jax.nn.logsumexp(logits[..., jnp.asarray(ids)], axis=-1) for ids in verdict_ids)
    return yes - no


def opened_by_score(
    logits: Float[Array, "B Q V"], scores: Float[Array, "B Q"], verdict_ids: VerdictIds, threshold: float
) -> Float[Array, "B Q V"]:
    """First logits with which each row's first question is answered yes from the threshold on, and no below it.

    All other tokens of that question become impossible, so that the words that follow are those of the verdict that a
    line acts on. Further questions stay as they are.
    """
    positive = scores[:, :1] >= jnp.float32(threshold)  # B 1
    opens = np.zeros((2, logits.shape[-1]), np.bool_)
    for row, ids in zip(opens, verdict_ids, strict=True):
        row[list(ids)] = True
    allowed = jnp.where(positive[..., None], opens[0], opens[1])
    return logits.at[:, :1].set(jnp.where(allowed, logits[:, :1], -jnp.inf))
