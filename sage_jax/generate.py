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

from sage_jax.axes import Array, Bool, Float, Int, UInt8
from sage_jax.batch import AnyArray, TreeBatch
from sage_jax.losses.log_probs import answer_logps, answer_token_logps
from sage_jax.models.decoder import KvCache
from sage_jax.models.sage import Sage, tree_mask
from sage_jax.models.sampling import Sampling, choose, draw_keys
from sage_jax.parameters import Params, merge
from sage_jax.sharding import MESH_AXES_OF, activation_sharding, batch_sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to the questions of a batch.

    Attributes:
      token_ids: Generated ids, the closing token included; whatever follows it has no meaning.
      verdict_score: P(yes) / (P(yes) + P(no)) at the answer's first token, 0..1, whatever was drawn.
      similarity: Of each image token to the reference; 1 without one.
    """

    token_ids: Int[Array, "B Q L"]
    verdict_score: Float[Array, "B Q"]
    similarity: Float[Array, "B M"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Talk:
    """Where the conversations about a batch stand, one for each question: what a next turn goes on from.

    The slots of a cache are shared by all questions of a row. Behind the prompt, tokens of the questions stand side by
    side: token 0 of each, then token 1 of each.

    Attributes:
      keys, values, length: Of the cache of everything said so far.
      visible: True at the slots that a question's next token sees.
      position_ids: Position of that token.
      used: True at the ids in a question's conversation; None without a repetition penalty.
      turns: Answers given so far.
    """

    keys: Float[Array, "Y B T R X"]
    values: Float[Array, "Y B T R X"]
    length: Int[Array, ""]
    visible: Bool[Array, "B Q T"]
    position_ids: Int[Array, "B Q"]
    used: Bool[Array, "B Q V"] | None
    turns: Int[Array, ""]

    @property
    def cache(self) -> KvCache:
        """The cache that the decoder goes on from."""
        return KvCache(self.keys, self.values, self.length)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are generated, and which tokens open and close them.

    Attributes:
      max_new_tokens: Longest answer, closing token included.
      end_id: Id that closes an answer, and fills up what follows.
      verdict_ids: Ids that open a positive and a negative answer.
      stop_ids: Further ids that close an answer.
      sampling: How tokens are chosen.
    """

    max_new_tokens: int
    end_id: int
    verdict_ids: tuple[tuple[int, ...], tuple[int, ...]]
    stop_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()

    def closes(self, token_ids: AnyArray) -> Bool[AnyArray, "..."]:
        """True at tokens that close an answer; of arrays on the host as well."""
        closing = np.asarray(sorted({self.end_id, *self.stop_ids}), np.int32)
        return (token_ids[..., None] == closing).any(axis=-1)


class Responder:
    """A model on its devices, ready to answer batches.

    It compiles once for each bucket length, whatever the weights; a further turn compiles once for each length of
    question (they come in powers of two) and each size of cache (one for each bucket).

    Attributes:
      decoding: How it answers.
    """

    def __init__(self, graphdef: nnx.GraphDef[Sage], params: Params, mesh: Mesh, decoding: Decoding):
        self.decoding = decoding
        self._params, self._mesh = params, mesh
        num_kv_heads = merge(graphdef, params).config.decoder.num_kv_heads
        self._functions = _compiled(graphdef, mesh, decoding, num_kv_heads)

    def answer(self, batch: TreeBatch, seeds: Int[np.ndarray, " B"] | None = None) -> Answers:
        """Answers to all questions of the batch, in host memory.

        Args:
          seeds: What tells a row's draws from those of other rows, 0 to 2^31 - 1; all 0 by default.
        """
        with jax.set_mesh(self._mesh):
            given = self._put((batch, _seeds(seeds, batch.token_ids)))
            return jax.tree.map(np.asarray, self._functions.answer(self._params, *given))

    def open(self, batch: TreeBatch, seeds: Int[np.ndarray, " B"] | None = None) -> tuple[Answers, Talk]:
        """The same answers, and what a next turn needs, on the devices."""
        with jax.set_mesh(self._mesh):
            given = self._put((batch, _seeds(seeds, batch.token_ids)))
            answers, talk = self._functions.open(self._params, *given)
            return jax.tree.map(np.asarray, answers), talk

    def go_on(
        self,
        talk: Talk,
        token_ids: Int[np.ndarray, "B Q P"],
        token_mask: Bool[np.ndarray, "B Q P"],
        *,
        slots: int,
        seeds: Int[np.ndarray, " B"] | None = None,
    ) -> tuple[Int[np.ndarray, "B Q L"], Talk]:
        """Answers to further questions of the same conversations, one each, and what the turn after needs.

        Raises ValueError where `slots` are too few.

        Args:
          talk: Where they stand; it is used up.
          token_ids: What is said next, up to where the answers begin; a token of the answer before that closes nothing
            comes first, see `Talk`.
          token_mask: True at real tokens, which come first; a question without any is left as it is.
          slots: Size of the cache for this turn: at least what is written, P and the longest answer of all questions.
        """
        written = int(talk.length) + token_ids[0].size + self.decoding.max_new_tokens * token_ids.shape[1]
        if slots < max(written, talk.visible.shape[-1]):
            raise ValueError(f"go_on: {slots} slots for {written} tokens; give as many or more")
        with jax.set_mesh(self._mesh):
            if slots > talk.visible.shape[-1]:
                talk = self._functions.widen(talk, slots)
            said = self._put((token_ids, token_mask, _seeds(seeds, token_ids)))
            answered, talk = self._functions.go_on(self._params, talk, *said)
            return np.asarray(answered), talk

    def answer_logps(self, batch: TreeBatch) -> Float[np.ndarray, "B Q N"]:
        """Summed log-probability of every answer of the batch, in nats."""
        with jax.set_mesh(self._mesh):
            return np.asarray(self._functions.score(self._params, self._put(batch)))

    def vit_features(self, tiles: UInt8[np.ndarray, "A H W 3"]) -> Float[np.ndarray, "A M E"]:
        """What the adapter reads of each tile, in the compute dtype; as many tiles as the mesh divides."""
        with jax.set_mesh(self._mesh):
            return np.asarray(self._functions.features(self._params, self._put(tiles)))

    def rows(self, batch_size: int) -> int:
        """The batch size, raised to what the mesh divides."""
        parts = int(np.prod([self._mesh.shape[axis] for axis in MESH_AXES_OF["batch"]]))
        return -(-batch_size // parts) * parts

    def _put(self, rows: Any) -> Any:
        sharding = batch_sharding(self._mesh)

        def put(rows: Any) -> jax.Array:  # every process has the whole batch and gives its devices their rows
            rows = np.asarray(rows)
            return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

        return jax.tree.map(put, rows)


def _seeds(seeds: Int[np.ndarray, " B"] | None, rows: Any) -> Int[np.ndarray, " B"]:
    return np.zeros(len(rows), np.int32) if seeds is None else np.asarray(seeds, np.int32)


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """The jitted functions of a structure."""

    answer: Callable[..., Answers]
    open: Callable[..., tuple[Answers, Talk]]
    go_on: Callable[..., tuple[Array, Talk]]
    widen: Callable[..., Talk]
    score: Callable[..., Array]
    features: Callable[..., Array]


@functools.lru_cache(maxsize=2)
def _compiled(graphdef: nnx.GraphDef[Sage], mesh: Mesh, decoding: Decoding, num_kv_heads: int) -> _Compiled:
    """The jitted functions: models that differ in weights alone compile once."""
    whole: Any = NamedSharding(mesh, PartitionSpec())
    rows: Any = batch_sharding(mesh)
    # A talk goes out of one function and into another: were its sharding left open, each would compile again.
    keys: Any = activation_sharding(mesh, ("none", "batch", "none", "heads"), {"heads": num_kv_heads})
    talk = Talk(keys, keys, whole, rows, rows, rows, whole)
    both = functools.partial(_open, graphdef=graphdef, decoding=decoding)
    further = functools.partial(_go_on, graphdef=graphdef, decoding=decoding)

    def answer(params: Params, batch: TreeBatch, seeds: Array) -> Answers:
        return both(params, batch, seeds)[0]

    return _Compiled(
        answer=jax.jit(answer, out_shardings=whole),
        open=jax.jit(both, out_shardings=(whole, talk)),
        go_on=jax.jit(further, out_shardings=(whole, talk), donate_argnums=1),
        widen=jax.jit(_widen, static_argnums=1, out_shardings=talk),
        score=jax.jit(functools.partial(_score, graphdef=graphdef), out_shardings=whole),
        features=jax.jit(lambda params, tiles: merge(graphdef, params).vit_features(tiles), out_shardings=whole),
    )


def _score(params: Params, batch: TreeBatch, *, graphdef: nnx.GraphDef[Sage]) -> Array:
    model = merge(graphdef, params)
    hidden, _ = model(batch)
    each, _ = answer_token_logps(
        hidden,
        batch.source_index,
        batch.target_ids,
        batch.target_mask,
        model.decoder.logits,
        vocab_size=model.decoder.vocab_size,
        target_slots=batch.target_slots,
    )
    return answer_logps(each, batch.target_mask)


def _open(
    params: Params, batch: TreeBatch, seeds: Int[Array, " B"], *, graphdef: nnx.GraphDef[Sage], decoding: Decoding
) -> tuple[Answers, Talk]:
    """Prefills image and all questions as one tree, then decodes one token of every question in each step."""
    model = merge(graphdef, params)
    rows, length = batch.token_ids.shape
    num_questions = batch.source_index.shape[1]
    room = decoding.max_new_tokens * num_questions
    images = model.embed_images(batch)
    prompt_mask = tree_mask(batch.token_mask, batch.question_index, batch.answer_index)
    padded = jnp.pad(prompt_mask, ((0, 0), (0, 0), (0, room)))
    cache = model.decoder.empty_cache(rows, length + room)
    hidden, cache = model.decoder(model.embed_tokens(batch.token_ids, images), batch.position_ids, padded, cache)
    assert cache is not None
    # Answers follow the longest row, not the bucket: the padding behind it would be lost to later turns.
    written = jnp.max(jnp.where(batch.token_mask, jnp.arange(1, length + 1), 0)).astype(jnp.int32)

    last = batch.source_index[:, :, 0, 0]  # B Q: where the first answer token is predicted
    logits = model.decoder.logits(jnp.take_along_axis(hidden, last[..., None], axis=1))
    questions = jnp.arange(num_questions)
    seen = batch.token_mask[:, None] & (
        (batch.question_index[:, None] == -1) | (batch.question_index[:, None] == questions[:, None])
    )  # B Q S
    used = None
    if decoding.sampling.repetition_penalty != 1.0:
        ids = jnp.broadcast_to(batch.token_ids[:, None], seen.shape)
        used = _with_used(jnp.zeros(logits.shape, bool), ids, seen)
    talk = Talk(
        keys=cache.keys,
        values=cache.values,
        length=written,
        visible=jnp.pad(seen, ((0, 0), (0, 0), (0, room))),
        position_ids=jnp.take_along_axis(batch.position_ids, last, axis=1) + 1,
        used=used,
        turns=jnp.zeros((), jnp.int32),
    )
    unasked = ~seen.any(axis=-1) | (batch.record_index[:, None] < 0)
    token_ids, talk = _decode(model, talk, logits, unasked, seeds, decoding)
    return Answers(token_ids, _verdict_score(logits, decoding.verdict_ids), images.compared.similarity), talk


def _go_on(
    params: Params,
    talk: Talk,
    token_ids: Int[Array, "B Q P"],
    token_mask: Bool[Array, "B Q P"],
    seeds: Int[Array, " B"],
    *,
    graphdef: nnx.GraphDef[Sage],
    decoding: Decoding,
) -> tuple[Int[Array, "B Q L"], Talk]:
    """Prefills the next question of each conversation behind what the cache holds, then decodes the answers."""
    model = merge(graphdef, params)
    rows, num_questions, size = token_ids.shape
    count = jnp.sum(token_mask, axis=-1)  # B Q
    start = talk.length

    def flat(x: Array) -> Array:  # B Q P -> B P*Q
        return x.swapaxes(1, 2).reshape(rows, size * num_questions)

    slot_question = jnp.tile(jnp.arange(num_questions), size)
    slot_step = jnp.repeat(jnp.arange(size), num_questions)
    own = (slot_question[:, None] == slot_question) & (slot_step[:, None] >= slot_step)
    seen = jax.lax.dynamic_update_slice_in_dim(
        jnp.tile(talk.visible, (1, size, 1)), own & flat(token_mask)[:, None], start, axis=2
    )
    positions = flat(talk.position_ids[..., None] + jnp.arange(size))
    hidden, cache = model.decoder(model.decoder.embedding(flat(token_ids)), positions, seen, talk.cache)
    assert cache is not None
    last = jnp.maximum(count - 1, 0) * num_questions + jnp.arange(num_questions)
    logits = model.decoder.logits(jnp.take_along_axis(hidden, last[..., None], axis=1))
    mine = (slot_question == jnp.arange(num_questions)[:, None]) & flat(token_mask)[:, None]  # B Q P*Q
    talk = Talk(
        keys=cache.keys,
        values=cache.values,
        length=start + jnp.max(count) * num_questions,
        visible=jax.lax.dynamic_update_slice_in_dim(talk.visible, mine, start, axis=2),
        position_ids=talk.position_ids + count,
        used=None if talk.used is None else _with_used(talk.used, token_ids, token_mask),
        turns=talk.turns,
    )
    return _decode(model, talk, logits, count == 0, seeds, decoding)


def _decode(
    model: Sage,
    talk: Talk,
    logits: Float[Array, "B Q V"],
    ended: Bool[Array, "B Q"],
    seeds: Int[Array, " B"],
    decoding: Decoding,
) -> tuple[Int[Array, "B Q L"], Talk]:
    """One token of every question in each step, until all answers are closed.

    Each token sees the prompt, its own question and its own answer. The token that a cut answer ends with is not
    written to the cache, since nothing followed from it: it opens the next turn.

    Args:
      logits: Of each answer's first token.
      ended: True where there is nothing to answer.
    """
    rows, num_questions, _ = logits.shape
    new = decoding.max_new_tokens
    keys = draw_keys(decoding.sampling.seed, seeds, num_questions, talk.turns)
    beside = jnp.eye(num_questions, dtype=bool)

    def chosen(logits: Array, used: Array | None, ended: Array, step: Array) -> tuple[Array, Array, Array | None]:
        token = jnp.where(ended, decoding.end_id, choose(logits, used, keys, step, decoding.sampling)).astype(jnp.int32)
        ended = ended | decoding.closes(token)
        if used is not None:
            used = _with_used(used, token[..., None], ~ended[..., None])
        return token, ended, used

    def step(carry: tuple[Array, Array, Array, Array, Talk]) -> tuple[Array, Array, Array, Array, Talk]:
        index, token, written, ended, talk = carry
        own = beside & ~ended[..., None]  # a closed answer shows later turns nothing of what fills it up
        visible = jax.lax.dynamic_update_slice_in_dim(talk.visible, own, talk.length, axis=2)
        hidden, cache = model.decoder(model.decoder.embedding(token), talk.position_ids, visible, talk.cache)
        assert cache is not None
        positions = talk.position_ids + ~ended
        token, ended, used = chosen(model.decoder.logits(hidden), talk.used, ended, index + 1)
        written = jax.lax.dynamic_update_index_in_dim(written, token, index + 1, axis=2)
        talk = Talk(cache.keys, cache.values, cache.length, visible, positions, used, talk.turns)
        return index + 1, token, written, ended, talk

    def unfinished(carry: tuple[Array, Array, Array, Array, Talk]) -> Array:
        return (carry[0] < new - 1) & ~jnp.all(carry[3])

    zero = jnp.zeros((), jnp.int32)
    token, ended, used = chosen(logits, talk.used, ended, zero)
    written = jnp.full((rows, num_questions, new), decoding.end_id, jnp.int32).at[:, :, 0].set(token)
    carry = (zero, token, written, ended, dataclasses.replace(talk, used=used))
    _, _, written, _, talk = jax.lax.while_loop(unfinished, step, carry)
    return written, dataclasses.replace(talk, turns=talk.turns + 1)


def _with_used(
    used: Bool[Array, "B Q V"], token_ids: Int[Array, "B Q P"], token_mask: Bool[Array, "B Q P"]
) -> Bool[Array, "B Q V"]:
    rows, questions = jnp.arange(used.shape[0])[:, None, None], jnp.arange(used.shape[1])[:, None]
    return used.at[rows, questions, token_ids].max(token_mask)


def _widen(talk: Talk, slots: int) -> Talk:
    """The same with a larger cache."""
    more = slots - talk.visible.shape[-1]
    keys, values = (jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0), (0, 0))) for x in (talk.keys, talk.values))
    visible = jnp.pad(talk.visible, ((0, 0), (0, 0), (0, more)))
    return dataclasses.replace(talk, keys=keys, values=values, visible=visible)


def _verdict_score(
    logits: Float[Array, "B Q V"], verdict_ids: tuple[tuple[int, ...], tuple[int, ...]]
) -> Float[Array, "B Q"]:
    yes, no = (jax.nn.logsumexp(logits[..., jnp.asarray(ids)], axis=-1) for ids in verdict_ids)
    return jax.nn.sigmoid(yes - no)
