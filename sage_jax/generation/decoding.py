"""Decoding: prefill of image and questions as one tree, then one token of every question in each step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int
from sage_jax.batch import Answers, AnyArray, TreeBatch
from sage_jax.generation.options import Decoding
from sage_jax.generation.place_tokens import by_evidence, place_evidence, without_named
from sage_jax.generation.prompt_scores import first_scores, prompts_of
from sage_jax.generation.sampling import choose, draw_keys
from sage_jax.generation.verdict_tokens import opened_by_score
from sage_jax.models.decoder import KvCache
from sage_jax.models.sage import Sage, tree_mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Where the conversations about a batch stand, one for each question: what a next turn goes on from.

    The slots of a cache are shared by all questions of a row. Behind the prompt, tokens of the questions stand side by
    side: token 0 of each, then token 1 of each.

    Attributes:
      cache: Of everything said so far.
      visible: True at the slots that a question's next token sees.
      position_ids: Position of that token.
      used: True at the ids in a question's conversation; None without a repetition penalty.
      places: Log-odds of each cell by the map that no answer has named yet; None where they have no weight.
      turns: Answers given so far.

    Of arrays, or of their shardings.
    """

    cache: KvCache
    visible: AnyArray  # B Q T
    position_ids: AnyArray  # B Q
    used: AnyArray | None  # B Q V
    places: AnyArray | None  # B Q 9
    turns: AnyArray

    @property
    def length(self) -> Int[Array, ""]:
        """Slots written so far."""
        return self.cache.length

    def widened(self, slots: int) -> DecodeState:
        """The same with a larger cache."""
        more = slots - self.visible.shape[-1]
        return dataclasses.replace(
            self, cache=self.cache.widened(more), visible=jnp.pad(self.visible, ((0, 0), (0, 0), (0, more)))
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImagePrefix:
    """What all conversations about the images of a batch begin with: read once, whatever is asked then.

    Attributes:
      images: The images, encoded and compared.
      cache: System message and images; nothing else.
      real: True at the slots that hold a token.

    Of arrays, or of their shardings.
    """

    images: AnyArray
    cache: KvCache
    real: AnyArray  # B A


def prefill_and_decode(
    model: Sage,
    batch: TreeBatch,
    seeds: Int[Array, " B"],
    decoding: Decoding,
    begun: Int[Array, "B Q L"] | None = None,
) -> tuple[Answers, DecodeState]:
    """Answers to a batch's questions, image and questions prefilled as one tree.

    Args:
      begun: Token ids that answers begin with, -1 from where the model goes on; None = it says all.
    """
    room = decoding.max_new_tokens * batch.source_index.shape[1]
    logits, similarity, state = prefill(model, batch, room, decoding)
    return _first_answers(model, batch, state, logits, similarity, seeds, decoding, begun)


def prefill(
    model: Sage, batch: TreeBatch, room: int, decoding: Decoding
) -> tuple[Float[Array, "B Q V"], Float[Array, "B M"], DecodeState]:
    """Logits of each answer's first token, similarities, and the conversations: image and questions as one tree.

    Args:
      room: Slots of the cache behind those of the prompt.
    """
    batch = prompts_of(batch)
    rows, length = batch.token_ids.shape
    images = model.embed_images(batch)
    visibility = model.visibility(batch)
    if isinstance(visibility, jax.Array):
        visibility = jnp.pad(visibility, ((0, 0), (0, 0), (0, room)))
    cache = model.decoder.empty_cache(rows, length + room)
    last = batch.source_index[:, :, 0, 0]  # B Q: where the first answer token is predicted
    embedded = model.embed_tokens(batch.token_ids, images)
    last_hidden, cache = model.decoder(embedded, batch.position_ids, visibility, cache, last)
    assert cache is not None
    # Answers follow the longest row, not the bucket: the padding behind it would be lost to later turns.
    written = jnp.max(jnp.where(batch.token_mask, jnp.arange(1, length + 1), 0)).astype(jnp.int32)

    seen = _seen(batch, batch.question_index, batch.token_mask)
    cache, similarity = dataclasses.replace(cache, length=written), images.compared.similarity
    logits, state = _asked(model, batch, cache, last_hidden, seen, similarity, decoding)
    return logits, similarity, state


def _seen(batch: TreeBatch, question_index: Int[Array, "B S"], token_mask: Bool[Array, "B S"]) -> Bool[Array, "B Q S"]:
    """True at the tokens that each question's answer sees."""
    questions = jnp.arange(batch.source_index.shape[1])
    return token_mask[:, None] & ((question_index[:, None] == -1) | (question_index[:, None] == questions[:, None]))


def _asked(
    model: Sage,
    batch: TreeBatch,
    cache: KvCache,
    last_hidden: Float[Array, "B Q D"],
    seen: Bool[Array, "B Q U"],
    similarity: Float[Array, "B M"],
    decoding: Decoding,
) -> tuple[Float[Array, "B Q V"], DecodeState]:
    """Logits of each answer's first token, and where the conversations stand, of questions that are in the cache.

    Args:
      last_hidden: Of each question's last token.
      seen: True at the first slots of the cache that a question's answer sees; it sees none of the others.
    """
    logits = model.decoder.logits(last_hidden)
    used = None
    if decoding.sampling.repetition_penalty != 1.0:
        each = _seen(batch, batch.question_index, batch.token_mask)
        ids = jnp.broadcast_to(batch.token_ids[:, None], each.shape)
        used = _with_used(jnp.zeros(logits.shape, bool), ids, each)
    last = batch.source_index[:, :, 0, 0]
    return logits, DecodeState(
        cache=cache,
        visible=jnp.pad(seen, ((0, 0), (0, 0), (0, cache.num_slots - seen.shape[-1]))),
        position_ids=jnp.take_along_axis(batch.position_ids, last, axis=1) + 1,
        used=used,
        places=_places(similarity, model, last.shape[1]) if decoding.map_places else None,
        turns=jnp.zeros((), jnp.int32),
    )


def _places(similarity: Float[Array, "B M"], model: Sage, num_questions: int) -> Float[Array, "B Q 9"]:
    found = place_evidence(similarity, model.config.tokens_per_tile)
    return jnp.broadcast_to(found[:, None], (len(found), num_questions, 9))


def unasked(batch: TreeBatch) -> Bool[Array, "B Q"]:
    """True where there is no question to answer."""
    return (batch.question_ids < 0) | (batch.record_index[:, None] < 0)


def _first_answers(
    model: Sage,
    batch: TreeBatch,
    state: DecodeState,
    logits: Float[Array, "B Q V"],
    similarity: Float[Array, "B M"],
    seeds: Int[Array, " B"],
    decoding: Decoding,
    begun: Int[Array, "B Q L"] | None,
) -> tuple[Answers, DecodeState]:
    """Answers to the questions of a batch, from the logits of their first tokens."""
    scores = first_scores(logits, batch, similarity, decoding)
    first = first_logits(logits, scores.verdict_score, decoding)
    token_ids, state = _decode(model, state, first, unasked(batch), seeds, decoding, begun)
    return Answers(token_ids, scores.verdict_score, similarity), state


def first_logits(
    logits: Float[Array, "B Q V"], scores: Float[Array, "B Q"], decoding: Decoding
) -> Float[Array, "B Q V"]:
    """What the first tokens of the answers are chosen by, under `verdict_threshold`."""
    if decoding.verdict_threshold is None:
        return logits
    return opened_by_score(logits, scores, decoding.verdict_ids, decoding.verdict_threshold)


def encode_prefix(model: Sage, batch: TreeBatch, size: int) -> ImagePrefix:
    """Encodes the images of a batch and prefills its tokens up to the last of an image: what any state begins with.

    Args:
      size: Slots for these tokens.
    """
    images = model.encode_images(batch)
    real = jnp.arange(size) < _image_end(model, batch)[:, None]
    ids = jnp.where(real, batch.token_ids[:, :size], 0)
    no_question = jnp.zeros(real.shape, bool)
    embedded = model.embed_tokens(ids, model.embed_facts(images, batch.fact_ids, batch.fact_mask, no_question))
    cache = model.decoder.empty_cache(len(ids), size)
    _, cache = model.decoder(embedded, batch.position_ids[:, :size], model.prefix_visibility(real), cache)
    assert cache is not None
    return ImagePrefix(images, cache, real)


def _image_end(model: Sage, batch: TreeBatch) -> Int[Array, " B"]:
    """Tokens of each row up to its last image token, that one included."""
    here = batch.token_ids == model.placeholders.image
    return jnp.max(jnp.where(here, jnp.arange(1, here.shape[1] + 1), 0), axis=1)


def decode_from_prefix(
    model: Sage,
    batch: TreeBatch,
    prefix: ImagePrefix,
    seeds: Int[Array, " B"],
    size: int,
    decoding: Decoding,
    begun: Int[Array, "B Q L"] | None = None,
) -> tuple[Answers, DecodeState]:
    """What `prefill_and_decode` gives, from images that are encoded and prefilled; the prefix stays as it is.

    Args:
      size: Slots for the tokens that follow the images.
      begun: Token ids that answers begin with, as there.
    """
    num_questions, held = batch.source_index.shape[1], prefix.real.shape[1]
    end = _image_end(model, batch)
    index = end[:, None] + jnp.arange(size)

    def behind(x: Array) -> Array:  # B S -> B size
        return jnp.take_along_axis(x, jnp.minimum(index, x.shape[1] - 1), axis=1)

    real = behind(batch.token_mask) & (index < batch.token_ids.shape[1])
    question = behind(batch.question_index)
    images = model.embed_facts(prefix.images, batch.fact_ids, batch.fact_mask, real & (question >= 0))
    embedded = model.embed_tokens(behind(batch.token_ids), images)
    none = jnp.full(question.shape, -1)
    before = jnp.broadcast_to(prefix.real[:, None], (len(real), size, held))
    room = decoding.max_new_tokens * num_questions
    mask = jnp.concatenate([before, tree_mask(real, question, none)], axis=2)
    cache = prefix.cache.widened(size + room)
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, room)))
    last = jnp.maximum(batch.source_index[:, :, 0, 0] - end[:, None], 0)
    last_hidden, cache = model.decoder(embedded, behind(batch.position_ids), mask, cache, last)
    assert cache is not None
    asked = _seen(batch, question, real)
    shown = jnp.broadcast_to(prefix.real[:, None], (*asked.shape[:2], held)) & asked.any(axis=-1, keepdims=True)
    seen = jnp.concatenate([shown, asked], axis=2)
    similarity = images.compared.similarity
    logits, state = _asked(model, batch, cache, last_hidden, seen, similarity, decoding)
    return _first_answers(model, batch, state, logits, similarity, seeds, decoding, begun)


def next_turn(
    model: Sage,
    state: DecodeState,
    token_ids: Int[Array, "B Q U"],
    token_mask: Bool[Array, "B Q U"],
    seeds: Int[Array, " B"],
    decoding: Decoding,
) -> tuple[Int[Array, "B Q L"], DecodeState]:
    """Prefills the next question of each conversation behind what the cache holds, then decodes the answers."""
    rows, num_questions, size = token_ids.shape
    count = jnp.sum(token_mask, axis=-1)  # B Q
    start = state.length

    def flat(x: Array) -> Array:  # B Q P -> B P*Q
        return x.swapaxes(1, 2).reshape(rows, size * num_questions)

    slot_question = jnp.tile(jnp.arange(num_questions), size)
    slot_step = jnp.repeat(jnp.arange(size), num_questions)
    own = (slot_question[:, None] == slot_question) & (slot_step[:, None] >= slot_step)
    seen = jax.lax.dynamic_update_slice_in_dim(
        jnp.tile(state.visible, (1, size, 1)), own & flat(token_mask)[:, None], start, axis=2
    )
    positions = flat(state.position_ids[..., None] + jnp.arange(size))
    last = jnp.maximum(count - 1, 0) * num_questions + jnp.arange(num_questions)
    last_hidden, cache = model.decoder(model.decoder.embedding(flat(token_ids)), positions, seen, state.cache, last)
    assert cache is not None
    logits = model.decoder.logits(last_hidden)
    mine = (slot_question == jnp.arange(num_questions)[:, None]) & flat(token_mask)[:, None]  # B Q P*Q
    state = DecodeState(
        cache=dataclasses.replace(cache, length=start + jnp.max(count) * num_questions),
        visible=jax.lax.dynamic_update_slice_in_dim(state.visible, mine, start, axis=2),
        position_ids=state.position_ids + count,
        used=None if state.used is None else _with_used(state.used, token_ids, token_mask),
        places=state.places,
        turns=state.turns,
    )
    return _decode(model, state, logits, count == 0, seeds, decoding)


def _decode(
    model: Sage,
    state: DecodeState,
    logits: Float[Array, "B Q V"],
    ended: Bool[Array, "B Q"],
    seeds: Int[Array, " B"],
    decoding: Decoding,
    begun: Int[Array, "B Q L"] | None = None,
) -> tuple[Int[Array, "B Q L"], DecodeState]:
    """One token of every question in each step, until all answers are closed.

    Each token sees the prompt, its own question and its own answer. The token that a cut answer ends with is not
    written to the cache, since nothing followed from it: it opens the next turn.

    Args:
      logits: Of each answer's first token.
      ended: True where there is nothing to answer.
      begun: Token ids that answers begin with, -1 from where the model goes on; None = it says all.
    """
    rows, num_questions, _ = logits.shape
    new = decoding.max_new_tokens
    keys = draw_keys(decoding.sampling.seed, seeds, num_questions, state.turns)

    def step(carry: tuple[Array, Array, Array, Array, DecodeState]) -> tuple[Array, Array, Array, Array, DecodeState]:
        index, token, written, ended, state = carry
        given = None if begun is None else begun[:, :, index + 1]
        token, ended, state = next_token(model, state, token, ended, keys, index + 1, decoding, given)
        written = jax.lax.dynamic_update_index_in_dim(written, token, index + 1, axis=2)
        return index + 1, token, written, ended, state

    def unfinished(carry: tuple[Array, Array, Array, Array, DecodeState]) -> Array:
        return (carry[0] < new - 1) & ~jnp.all(carry[3])

    zero = jnp.zeros((), jnp.int32)
    given = None if begun is None else begun[:, :, 0]
    token, ended, state = chosen_token(state, logits, ended, keys, zero, decoding, given=given)
    written = jnp.full((rows, num_questions, new), decoding.end_id, jnp.int32).at[:, :, 0].set(token)
    carry = (zero, token, written, ended, state)
    _, _, written, _, state = jax.lax.while_loop(unfinished, step, carry)
    return written, dataclasses.replace(state, turns=state.turns + 1)


def next_token(
    model: Sage,
    state: DecodeState,
    token: Int[Array, "B Q"],
    ended: Bool[Array, "B Q"],
    keys: Array,
    step: Int[Array, ""] | Int[Array, "B 1"],
    decoding: Decoding,
    given: Int[Array, "B Q"] | None = None,
) -> tuple[Int[Array, "B Q"], Bool[Array, "B Q"], DecodeState]:
    """Each question's next token, which answers have ended with it, and where the conversations then stand.

    Args:
      token: The last one of each answer: it is read, and written to the cache.
      ended: True where there is nothing more to answer.
      keys: Those of `draw_keys`.
      step: Number of the next token in its answer.
      given: The next token where it is not the model's to choose, else -1; None = it never is.
    """
    own = jnp.eye(token.shape[1], dtype=bool) & ~ended[..., None]  # what fills up a closed answer is never seen
    visible = jax.lax.dynamic_update_slice_in_dim(state.visible, own, state.length, axis=2)
    hidden, cache = model.decoder(model.decoder.embedding(token), state.position_ids, visible, state.cache)
    assert cache is not None
    state = dataclasses.replace(state, cache=cache, visible=visible, position_ids=state.position_ids + ~ended)
    return chosen_token(state, model.decoder.logits(hidden), ended, keys, step, decoding, before=token, given=given)


def chosen_token(
    state: DecodeState,
    logits: Float[Array, "B Q V"],
    ended: Bool[Array, "B Q"],
    keys: Array,
    step: Int[Array, ""] | Int[Array, "B 1"],
    decoding: Decoding,
    before: Int[Array, "B Q"] | None = None,
    given: Int[Array, "B Q"] | None = None,
) -> tuple[Int[Array, "B Q"], Bool[Array, "B Q"], DecodeState]:
    """The token that each question's logits give, and the map where a place is named; else as `next_token`."""
    if state.places is not None:
        logits = by_evidence(logits, before, state.places, decoding.place_ids, decoding.map_places)
    found = choose(logits, state.used, keys, step, decoding.sampling)
    found = found if given is None else jnp.where(given >= 0, given, found)
    token = jnp.where(ended, decoding.end_id, found).astype(jnp.int32)
    ended = ended | decoding.closes(token)
    if state.places is not None:
        places = without_named(state.places, before, token, decoding.place_ids)
        state = dataclasses.replace(state, places=places)
    if state.used is not None:
        state = dataclasses.replace(state, used=_with_used(state.used, token[..., None], ~ended[..., None]))
    return token, ended, state


def _with_used(
    used: Bool[Array, "B Q V"], token_ids: Int[Array, "B Q U"], token_mask: Bool[Array, "B Q U"]
) -> Bool[Array, "B Q V"]:
    rows, questions = jnp.arange(used.shape[0])[:, None, None], jnp.arange(used.shape[1])[:, None]
    return used.at[rows, questions, token_ids].max(token_mask)
