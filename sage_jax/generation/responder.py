"""Answers and answer likelihoods: one prefill of image and questions, then cached decoding of all questions at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sage_jax.axes import Array, Bool, Float, Int, UInt8
from sage_jax.batch import Answers, Scores, TreeBatch
from sage_jax.data.trees.encode import TreeError
from sage_jax.generation.arguments import Begun, begun_of, draws_of, lean
from sage_jax.generation.continuous_decode import (
    DecodeRows,
    RowStates,
    decode_rows,
    free_rows,
    prefill_rows,
    put_rows,
    ring_slots,
    row_bytes,
    widen_rows,
)
from sage_jax.generation.decoding import (
    DecodeState,
    Decoding,
    ImagePrefix,
    decode_from_prefix,
    encode_prefix,
    next_turn,
    prefill_and_decode,
)
from sage_jax.generation.prompt_scores import prompt_scores
from sage_jax.losses.log_probs import answer_logps, answer_token_logps
from sage_jax.models.decoder import KvCache
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge
from sage_jax.process.device_memory import smallest_free
from sage_jax.sharding import MESH_AXES_OF, activation_sharding, batch_sharding

_SHORTEST: Final = 16
_SHARE_FOR_ROWS: Final = 0.4
"""Of free memory: rows are there twice while they are widened, beside a group that is prefilled."""


class Responder:
    """A model on its devices, ready to answer batches.

    It compiles once for each length that batches are padded to, with and without references, whatever the weights; a
    further turn compiles once for each length of question (`compiled_size`) and each size of cache (one for each
    length).

    Args:
      max_positions: Tokens of a sequence up to which the model's RoPE is right; 0 = any. Longer ones are a TreeError.

    Attributes:
      decoding: How it answers.
    """

    def __init__(
        self, graphdef: nnx.GraphDef[Sage], params: Params, mesh: Mesh, decoding: Decoding, max_positions: int = 0
    ):
        self.decoding, self._max_positions = decoding, max_positions
        self._params, self._mesh, self._graphdef = params, mesh, graphdef
        model = merge(graphdef, params)
        self._image_id = model.placeholders.image
        self._functions = _compiled(graphdef, mesh, decoding, model.config.decoder.num_kv_heads)

    def decoding_with(self, **fields: Any) -> Responder:
        """The same model with other values in some fields of `Decoding`."""
        decoding = dataclasses.replace(self.decoding, **fields)
        return Responder(self._graphdef, self._params, self._mesh, decoding, self._max_positions)

    def encode_prefix(self, batch: TreeBatch) -> ImagePrefix:
        """The batch's images, encoded and prefilled on the devices: what several batches about them can go on from."""
        self._require_positions(batch.token_mask)
        size = min(compiled_size(int(self._image_end(batch).max())), batch.token_ids.shape[1])
        with jax.set_mesh(self._mesh):
            return self._functions.encode_prefix(self._params, self._put(lean(batch)), size)

    def answer_from(
        self,
        prefix: ImagePrefix,
        batch: TreeBatch,
        seeds: Int[np.ndarray, " B"] | None = None,
        begun: Begun | None = None,
        *,
        max_new_tokens: int = 0,
    ) -> tuple[Answers, DecodeState]:
        """What `first_turn` gives for a batch of the same images in the same order, which are not read again.

        Args:
          prefix: Of the images; it stays as it is, for other batches.
          begun: As in `answer`.
          max_new_tokens: Longest answer; 0 = that of `decoding`.
        """
        longest = max_new_tokens or self.decoding.max_new_tokens
        self._require_positions(batch.token_mask, longest=longest)
        behind = np.where(batch.token_mask, np.arange(1, batch.token_ids.shape[1] + 1), 0).max(axis=1)
        size = compiled_size(int(np.max(behind - self._image_end(batch), initial=1)))
        bare = dataclasses.replace(batch, tiles=batch.tiles[:, :0], reference_tiles=batch.reference_tiles[:, :0])
        with jax.set_mesh(self._mesh):
            given = self._put((bare, draws_of(seeds, batch.token_ids), self._begun(begun, batch, longest)))
            answers, state = self._functions.answer_from(self._params, prefix, *given, size, longest)
            return jax.tree.map(np.asarray, answers), state

    def _begun(self, begun: Begun | None, batch: TreeBatch, longest: int = 0) -> Begun:
        return begun_of(begun, batch.source_index.shape[:2], longest or self.decoding.max_new_tokens)

    def _image_end(self, batch: TreeBatch) -> Int[np.ndarray, " B"]:
        here = np.asarray(batch.token_ids) == self._image_id
        return np.where(here, np.arange(1, here.shape[1] + 1), 0).max(axis=1)

    def answer(
        self, batch: TreeBatch, seeds: Int[np.ndarray, " B"] | None = None, begun: Begun | None = None
    ) -> Answers:
        """Answers to all questions of the batch, in host memory.

        Args:
          seeds: What tells a row's draws from those of other rows, 0 to 2^31 - 1; all 0 by default.
          begun: Token ids that answers begin with, -1 from where the model goes on; None = it says all.
        """
        self._require_positions(batch.token_mask)
        with jax.set_mesh(self._mesh):
            given = self._put((lean(batch), draws_of(seeds, batch.token_ids), self._begun(begun, batch)))
            return jax.tree.map(np.asarray, self._functions.answer(self._params, *given))

    def scores(self, batch: TreeBatch) -> Scores:
        """The answers' scores alone, in host memory: one pass over the tree, nothing is decoded."""
        self._require_positions(batch.token_mask)
        with jax.set_mesh(self._mesh):
            return jax.tree.map(np.asarray, self._functions.scores(self._params, self._put(lean(batch))))

    def first_turn(
        self, batch: TreeBatch, seeds: Int[np.ndarray, " B"] | None = None, begun: Begun | None = None
    ) -> tuple[Answers, DecodeState]:
        """The same answers, and what a next turn needs, on the devices."""
        self._require_positions(batch.token_mask)
        with jax.set_mesh(self._mesh):
            given = self._put((lean(batch), draws_of(seeds, batch.token_ids), self._begun(begun, batch)))
            answers, state = self._functions.first_turn(self._params, *given)
            return jax.tree.map(np.asarray, answers), state

    def next_turn(
        self,
        state: DecodeState,
        token_ids: Int[np.ndarray, "B Q U"],
        token_mask: Bool[np.ndarray, "B Q U"],
        *,
        slots: int,
        seeds: Int[np.ndarray, " B"] | None = None,
    ) -> tuple[Int[np.ndarray, "B Q L"], DecodeState]:
        """Answers to further questions of the same conversations, one each, and what the turn after needs.

        Raises ValueError where `slots` are too few.

        Args:
          state: Where they stand; it is used up.
          token_ids: What is said next, up to where the answers begin; a token of the answer before that closes nothing
            comes first, see `DecodeState`.
          token_mask: True at real tokens, which come first; a question without any is left as it is.
          slots: Size of the cache for this turn: at least what is written, P and the longest answer of all questions.
        """
        written = int(state.length) + token_ids[0].size + self.decoding.max_new_tokens * token_ids.shape[1]
        if slots < max(written, state.visible.shape[-1]):
            raise ValueError(f"next_turn: {slots} slots for {written} tokens; give as many or more")
        self._require_positions(token_mask, written)
        with jax.set_mesh(self._mesh):
            if slots > state.visible.shape[-1]:
                state = self._functions.widen(state, slots)
            said = self._put((token_ids, token_mask, draws_of(seeds, token_ids)))
            answered, state = self._functions.next_turn(self._params, state, *said)
            return np.asarray(answered), state

    def prefill_rows(self, batch: TreeBatch, seeds: Int[np.ndarray, " B"] | None = None) -> tuple[Scores, DecodeRows]:
        """Scores of the batch, and its images with the first token of each answer; both on the devices."""
        self._require_positions(batch.token_mask)
        with jax.set_mesh(self._mesh):
            return self._functions.prefill_rows(
                self._params, *self._put((lean(batch), draws_of(seeds, batch.token_ids)))
            )

    def rows_that_fit(self, group: DecodeRows, most: int) -> int:
        """So many rows, or as many as the devices have memory for beside what they hold now, in all processes alike.

        Args:
          group: Of `prefill_rows`; there are at least as many rows as it has.
          most: Where the devices do not tell their memory, so many.
        """
        free = smallest_free(self._mesh.local_devices)
        if free is None:
            return most
        local = int(_SHARE_FOR_ROWS * free / row_bytes(group, self.decoding))
        return min(most, max(len(group.token), local * self._parts))

    def put_rows(
        self, rows: DecodeRows | None, group: DecodeRows, into: Int[np.ndarray, " C"], *, num_rows: int
    ) -> DecodeRows:
        """The rows with a group's images in these of them, see `ContinuousBatching`.

        Args:
          rows: They are used up; None = `num_rows` free ones.
          group: Of `prefill_rows`.
          into: Row of each image of the group; `num_rows` leaves it out.
        """
        slots = group.num_slots + ring_slots(group.token.shape[1], self.decoding)
        with jax.set_mesh(self._mesh):
            if rows is None:
                rows = self._functions.free_rows(self._params, group, num_rows)
            if rows.num_slots < slots:
                rows = self._functions.widen_rows(rows, slots)
            return self._functions.put_rows(rows, group, into)

    def decode_rows(self, rows: DecodeRows, *, wanted: int) -> tuple[DecodeRows, RowStates]:
        """The rows, used up, decoded until so many of them are free; and how far they are, in host memory."""
        with jax.set_mesh(self._mesh):
            rows, states = self._functions.decode_rows(self._params, rows, np.int32(wanted))
            return rows, jax.tree.map(np.asarray, states)

    def answer_logps(self, batch: TreeBatch) -> Float[np.ndarray, "B Q N"]:
        """Summed log-probability of every answer of the batch, in nats."""
        self._require_positions(batch.token_mask)
        with jax.set_mesh(self._mesh):
            return np.asarray(self._functions.logps(self._params, self._put(lean(batch))))

    def vit_features(self, tiles: UInt8[np.ndarray, "A H W 3"]) -> Float[np.ndarray, "A M E"]:
        """What the adapter reads of each tile, in the compute dtype; as many tiles as the mesh divides."""
        with jax.set_mesh(self._mesh):
            return np.asarray(self._functions.features(self._params, self._put(tiles)))

    @property
    def num_devices(self) -> int:
        """Devices that it computes on."""
        return self._mesh.size

    def rows(self, batch_size: int) -> int:
        """The batch size, raised to what the mesh divides."""
        return -(-batch_size // self._parts) * self._parts

    @property
    def _parts(self) -> int:
        """Parts that the mesh divides rows into."""
        return int(np.prod([self._mesh.shape[axis] for axis in MESH_AXES_OF["batch"]]))

    def _require_positions(self, token_mask: Any, said: int = 0, longest: int = 0) -> None:
        """Checks that the longest row of a batch, with an answer of `longest` tokens, is within the model's positions.

        Args:
          longest: 0 = that of `decoding`.
        """
        tokens = said or int(np.sum(token_mask, axis=1).max()) + (longest or self.decoding.max_new_tokens)
        if 0 < self._max_positions < tokens:
            raise TreeError(
                f"a sequence has {tokens} tokens, its answer included, and the RoPE of model.weights is the plain one "
                f"up to {self._max_positions}: ask less, or lower model.max_tiles, evaluate.max_new_tokens or "
                "inspect.fact_tokens"
            )

    def _put(self, rows: Any) -> Any:
        sharding = batch_sharding(self._mesh)
        if jax.process_count() == 1:
            return jax.device_put(rows, sharding)

        def put(rows: Any) -> jax.Array:  # every process has the whole batch and gives its devices their rows
            rows = np.asarray(rows)
            return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

        return jax.tree.map(put, rows)


def compiled_size(size: int) -> int:
    """A size that holds so many tokens, of the few that are compiled: a power of two, or one and a half."""
    found = _SHORTEST
    while found < size:
        found = found * 3 // 2 if found * 3 // 2 >= size else found * 2
    return found


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """The jitted functions of a structure."""

    answer: Callable[..., Answers]
    first_turn: Callable[..., tuple[Answers, DecodeState]]
    encode_prefix: Callable[..., ImagePrefix]
    answer_from: Callable[..., tuple[Answers, DecodeState]]
    next_turn: Callable[..., tuple[Array, DecodeState]]
    widen: Callable[..., DecodeState]
    prefill_rows: Callable[..., tuple[Scores, DecodeRows]]
    free_rows: Callable[..., DecodeRows]
    widen_rows: Callable[..., DecodeRows]
    put_rows: Callable[..., DecodeRows]
    decode_rows: Callable[..., tuple[DecodeRows, RowStates]]
    scores: Callable[..., Scores]
    logps: Callable[..., Array]
    features: Callable[..., Array]


class _Traced:
    """The functions to compile, of parameters: the structure and the decoding are constants of the programs."""

    def __init__(self, graphdef: nnx.GraphDef[Sage], decoding: Decoding) -> None:
        self._graphdef, self._decoding = graphdef, decoding

    def _model(self, params: Params) -> Sage:
        return merge(self._graphdef, params)

    def first_turn(self, params: Params, batch: TreeBatch, seeds: Array, begun: Array) -> tuple[Answers, DecodeState]:
        return prefill_and_decode(self._model(params), batch, seeds, self._decoding, begun)

    def answer(self, params: Params, batch: TreeBatch, seeds: Array, begun: Array) -> Answers:
        return self.first_turn(params, batch, seeds, begun)[0]

    def encode_prefix(self, params: Params, batch: TreeBatch, size: int) -> ImagePrefix:
        return encode_prefix(self._model(params), batch, size)

    def answer_from(
        self, params: Params, prefix: ImagePrefix, batch: TreeBatch, seeds: Array, begun: Array, size: int, longest: int
    ) -> tuple[Answers, DecodeState]:
        decoding = dataclasses.replace(self._decoding, max_new_tokens=longest)
        return decode_from_prefix(self._model(params), batch, prefix, seeds, size, decoding, begun)

    def next_turn(
        self, params: Params, state: DecodeState, token_ids: Array, token_mask: Array, seeds: Array
    ) -> tuple[Array, DecodeState]:
        return next_turn(self._model(params), state, token_ids, token_mask, seeds, self._decoding)

    def prefill_rows(self, params: Params, batch: TreeBatch, seeds: Array) -> tuple[Scores, DecodeRows]:
        return prefill_rows(self._model(params), batch, seeds, self._decoding)

    def free_rows(self, params: Params, group: DecodeRows, num_rows: int) -> DecodeRows:
        return free_rows(self._model(params), group, num_rows, self._decoding)

    def put_rows(self, rows: DecodeRows, group: DecodeRows, chosen: Array) -> DecodeRows:
        return put_rows(rows, group, chosen, self._decoding)

    def decode_rows(self, params: Params, rows: DecodeRows, wanted: Array) -> tuple[DecodeRows, RowStates]:
        return decode_rows(self._model(params), rows, wanted, self._decoding)

    def scores(self, params: Params, batch: TreeBatch) -> Scores:
        return prompt_scores(self._model(params), batch, self._decoding)

    def logps(self, params: Params, batch: TreeBatch) -> Array:
        return _answer_logps(self._model(params), batch)

    def features(self, params: Params, tiles: Array) -> Array:
        return self._model(params).vit_features(tiles)


@functools.lru_cache(maxsize=4)
def _compiled(graphdef: nnx.GraphDef[Sage], mesh: Mesh, decoding: Decoding, num_kv_heads: int) -> _Compiled:
    """The jitted functions, kept since JAX forgets programs with their function: other weights compile nothing."""
    whole: Any = NamedSharding(mesh, PartitionSpec())
    rows: Any = batch_sharding(mesh)
    # A state goes out of one function and into another: were its sharding left open, each would compile again.
    slots: Any = activation_sharding(mesh, ("batch", "heads"), {"heads": num_kv_heads})
    state = DecodeState(KvCache(slots, slots, whole), rows, rows, rows, rows, whole)
    held = DecodeRows(state, rows, rows, rows, rows, rows)
    traced = _Traced(graphdef, decoding)
    prefix = ImagePrefix(rows, state.cache, rows)
    return _Compiled(
        answer=jax.jit(traced.answer, out_shardings=whole),
        first_turn=jax.jit(traced.first_turn, out_shardings=(whole, state)),
        encode_prefix=jax.jit(traced.encode_prefix, static_argnums=2, out_shardings=prefix),
        answer_from=jax.jit(traced.answer_from, static_argnums=(5, 6), out_shardings=(whole, state)),
        next_turn=jax.jit(traced.next_turn, out_shardings=(whole, state), donate_argnums=1),
        widen=jax.jit(DecodeState.widened, static_argnums=1, out_shardings=state),
        prefill_rows=jax.jit(traced.prefill_rows, out_shardings=(whole, held)),
        free_rows=jax.jit(traced.free_rows, static_argnums=2, out_shardings=held),
        widen_rows=jax.jit(widen_rows, static_argnums=1, out_shardings=held),
        put_rows=jax.jit(traced.put_rows, out_shardings=held, donate_argnums=0),
        decode_rows=jax.jit(traced.decode_rows, out_shardings=(held, whole), donate_argnums=1),
        scores=jax.jit(traced.scores, out_shardings=whole),
        logps=jax.jit(traced.logps, out_shardings=whole),
        features=jax.jit(traced.features, out_shardings=whole),
    )


def _answer_logps(model: Sage, batch: TreeBatch) -> Array:
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
