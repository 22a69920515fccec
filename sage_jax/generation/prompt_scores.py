"""Scores of prompts: what the first token of each answer would be, without an answer."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from sage_jax.axes import Array, Float
from sage_jax.batch import Scores, TreeBatch
from sage_jax.generation.options import Decoding
from sage_jax.generation.verdict_tokens import verdict_score
from sage_jax.models.sage import Sage


def prompts_of(batch: TreeBatch) -> TreeBatch:
    """The batch without answer slots, so that attention over its tree makes no blocks of answers."""
    ranked = {name: getattr(batch, name)[:, :, :0] for name in ("target_ids", "target_mask", "claim_mask")}
    return dataclasses.replace(batch, **ranked)


def prompt_scores(model: Sage, batch: TreeBatch, decoding: Decoding) -> Scores:
    """What `prefill_and_decode` gives of scores, without a cache and without an answer."""
    hidden, images = model(prompts_of(batch))
    last = batch.source_index[:, :, 0, 0]
    logits = model.decoder.logits(jnp.take_along_axis(hidden, last[..., None], axis=1))
    return first_scores(logits, batch, images.compared.similarity, decoding)


def first_scores(
    logits: Float[Array, "B Q V"], batch: TreeBatch, similarity: Float[Array, "B M"], decoding: Decoding
) -> Scores:
    """The scores of a batch's questions, from the logits of their answers' first tokens."""
    compared = batch.reference_tile_mask.any(axis=1)
    how = decoding.verdict_ids, batch.score_shift, decoding.joint_score
    return Scores(verdict_score(logits, *how, similarity, compared), similarity)
