"""Answers and answer likelihoods: one prefill of image and questions, then cached decoding of all questions at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.axes import Array, Float, Int
from sage_jax.batch import TreeBatch
from sage_jax.losses.log_probs import answer_logps, chunked_token_logps
from sage_jax.models.decoder import KvCache
from sage_jax.models.sage import Sage, tree_mask
from sage_jax.parameters import Params, merge
from sage_jax.sharding import MESH_AXES_OF, batch_sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """Greedy answers to the questions of a batch.

    Attributes:
      token_ids: Generated ids, the closing token included; whatever follows it has no meaning.
      verdict_score: P(yes) / (P(yes) + P(no)) at the answer's first token, 0..1.
      similarity: Of each image token to the reference; 1 without one.
    """

    token_ids: Int[Array, "B Q L"]
    verdict_score: Float[Array, "B Q"]
    similarity: Float[Array, "B M"]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are generated, and which tokens open and close them."""

    max_new_tokens: int
    end_id: int
    verdict_ids: tuple[tuple[int, ...], tuple[int, ...]]


class Responder:
    """A model on its devices, ready to answer batches; compiles once for each bucket length, whatever the weights."""

    def __init__(self, graphdef: nnx.GraphDef[Sage], params: Params, mesh: Mesh, decoding: Decoding):
        self._params, self._mesh = params, mesh
        self._answer, self._score = _compiled(graphdef, mesh, decoding)

    def answer(self, batch: TreeBatch) -> Answers:
        """Greedy answers to all questions of the batch, in host memory."""
        with jax.set_mesh(self._mesh):
            return jax.tree.map(np.asarray, self._answer(self._params, self._put(batch)))

    def answer_logps(self, batch: TreeBatch) -> Float[np.ndarray, "B Q N"]:
        """Summed log-probability of every answer of the batch, in nats."""
        with jax.set_mesh(self._mesh):
            return np.asarray(self._score(self._params, self._put(batch)))

    def rows(self, batch_size: int) -> int:
        """The batch size, raised to what the mesh divides."""
        parts = int(np.prod([self._mesh.shape[axis] for axis in MESH_AXES_OF["batch"]]))
        return -(-batch_size // parts) * parts

    def _put(self, batch: TreeBatch) -> TreeBatch:
        sharding = batch_sharding(self._mesh)

        def put(rows: Any) -> jax.Array:  # every process has the whole batch and gives its devices their rows
            rows = np.asarray(rows)
            return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

        return jax.tree.map(put, batch)


@functools.lru_cache(maxsize=2)
def _compiled(
    graphdef: nnx.GraphDef[Sage], mesh: Mesh, decoding: Decoding
) -> tuple[Callable[..., Answers], Callable[..., Array]]:
    """The jitted functions of a structure: models that differ in weights alone compile once."""
    whole = NamedSharding(mesh, PartitionSpec())
    answer = functools.partial(_answer, graphdef=graphdef, decoding=decoding)
    score = functools.partial(_score, graphdef=graphdef)
    return jax.jit(answer, out_shardings=whole), jax.jit(score, out_shardings=whole)


def _score(params: Params, batch: TreeBatch, *, graphdef: nnx.GraphDef[Sage]) -> Array:
    model = merge(graphdef, params)
    hidden, _ = model.answer_hidden(batch)
    each, _ = chunked_token_logps(hidden, batch.target_ids, model.decoder.logits, vocab_size=model.decoder.vocab_size)
    return answer_logps(each, batch.target_mask)


def _answer(params: Params, batch: TreeBatch, *, graphdef: nnx.GraphDef[Sage], decoding: Decoding) -> Answers:
    """Prefills image and all questions as one tree, then decodes one token of every question in each step.

    The tokens of a step stand side by side in the cache; each sees the prefix, its own question and its own answer.
    """
    model = merge(graphdef, params)
    rows, length = batch.token_ids.shape
    num_questions, new = batch.source_index.shape[1], decoding.max_new_tokens
    images = model.embed_images(batch)
    prompt_mask = tree_mask(batch.token_mask, batch.question_index, batch.answer_index)
    cache = model.decoder.empty_cache(rows, length + new * num_questions)
    padded = jnp.pad(prompt_mask, ((0, 0), (0, 0), (0, new * num_questions)))
    hidden, cache = model.decoder(model.embed_tokens(batch.token_ids, images), batch.position_ids, padded, cache)
    assert cache is not None

    last = batch.source_index[:, :, 0, 0]  # B Q: where the first answer token is predicted
    logits = model.decoder.logits(jnp.take_along_axis(hidden, last[..., None], axis=1))
    positions = jnp.take_along_axis(batch.position_ids, last, axis=1) + 1
    questions = jnp.arange(num_questions)
    prompt_seen = batch.token_mask[:, None] & (
        (batch.question_index[:, None] == -1) | (batch.question_index[:, None] == questions[:, None])
    )  # B Q S
    owner = jnp.tile(questions, new)  # question of each slot behind the prompt
    slot_step = jnp.repeat(jnp.arange(new), num_questions)

    def step(carry: tuple[Array, Array, Array, Array, KvCache]) -> tuple[Array, Array, Array, Array, KvCache]:
        index, token, written, ended, cache = carry
        own = (owner[None] == questions[:, None]) & (slot_step <= index)[None]
        mask = jnp.concatenate([prompt_seen, jnp.broadcast_to(own, (rows, *own.shape))], axis=-1)
        hidden, cache = model.decoder(model.decoder.embedding(token), positions + index, mask, cache)
        assert cache is not None
        token = jnp.where(ended, decoding.end_id, jnp.argmax(model.decoder.logits(hidden), axis=-1)).astype(jnp.int32)
        written = jax.lax.dynamic_update_index_in_dim(written, token, index + 1, axis=2)
        return index + 1, token, written, ended | (token == decoding.end_id), cache

    def unfinished(carry: tuple[Array, Array, Array, Array, KvCache]) -> Array:
        return (carry[0] < new - 1) & ~jnp.all(carry[3])

    first = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    written = jnp.full((rows, num_questions, new), decoding.end_id, jnp.int32).at[:, :, 0].set(first)
    unasked = ~prompt_seen.any(axis=-1) | (batch.record_index[:, None] < 0)
    ended = unasked | (first == decoding.end_id)
    carry = (jnp.zeros((), jnp.int32), first, written, ended, cache)
    _, _, written, _, _ = jax.lax.while_loop(unfinished, step, carry)
    return Answers(written, _verdict_score(logits, decoding.verdict_ids), images.compared.similarity)


def _verdict_score(
    logits: Float[Array, "B Q V"], verdict_ids: tuple[tuple[int, ...], tuple[int, ...]]
) -> Float[Array, "B Q"]:
    yes, no = (jax.nn.logsumexp(logits[..., jnp.asarray(ids)], axis=-1) for ids in verdict_ids)
    return jax.nn.sigmoid(yes - no)
