"""Self-Guided Fact Enhancement: distinct patches, and the attention by which facts read them (SAGE, section 3.2)."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Bool, Float, Int
from sage_jax.config import DecoderConfig, FusionConfig
from sage_jax.models.attention.masked import attend
from sage_jax.models.decoder import Decoder
from sage_jax.models.layers import LayerNorm, Linear

NUM_WAVES: Final = 3
"""Cosines along a side that place vectors are made of: with three, thirds of a side are told apart."""

PLACE_SCALE: Final = 4.0
"""Deviation of new place vectors: at 1, a small model trained briefly never comes to name a place."""


MATCH_BLOCK: Final = 1024
"""Reference tokens that a test token is compared with at once."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a test image differs from its reference.

    Attributes:
      similarity: Of each test token to the reference, -1..1; 1 at padding and without a reference.
      distinct_mask: True at the tokens that the fusion reads: the K of lowest similarity, or all without a reference.
      match: Token of the references, of all in a row, that each test token was compared with.
    """

    similarity: Float[Array, "B M"]
    distinct_mask: Bool[Array, "B M"]
    match: Int[Array, "B M"]


def compare(
    test: Float[Array, "B M D"],
    reference: Float[Array, "B N D"],
    test_mask: Bool[Array, "B M"],
    reference_mask: Bool[Array, "B N"],
    *,
    num_distinct: int,
    kind: str,
) -> Comparison:
    """Cosine similarity of each test token to the references, and the `num_distinct` tokens where it is lowest.

        max      the best match anywhere in any reference (text of the paper)
        min      the worst match (formula of the paper)
        aligned  the best match among the tokens at the same place, one of each reference, for registered images

    References stand one after the other; with `aligned` each takes as much room as the test image. Of many, matches are
    sought in blocks, so that memory does not grow with their number.
    A row whose reference is all masked has no reference: all its tokens are distinct. Ties go to the earlier token.
    An image with fewer tokens than `num_distinct` gives all it has.
    """
    test_unit, reference_unit = (
        x / (jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True) + 1e-6) for x in (test, reference)
    )
    if kind == "aligned":
        similarity, match = _best_at_place(test_unit, reference_unit, reference_mask)
        at_place = reference_mask.reshape(test.shape[0], -1, test.shape[1])
        compared = test_mask & at_place.any(axis=1)
    else:
        similarity, match = _best_anywhere(
            test_unit, reference_unit, reference_mask, sign=1.0 if kind == "max" else -1.0
        )
        compared = test_mask & reference_mask.any(axis=-1, keepdims=True)
    similarity = jnp.where(compared, similarity, 1.0)
    order = jnp.where(test_mask, similarity, jnp.inf)
    _, lowest = jax.lax.top_k(-jax.lax.stop_gradient(order), min(num_distinct, test.shape[1]))
    rows = jnp.arange(test.shape[0])[:, None]
    distinct = jnp.zeros(test_mask.shape, bool).at[rows, lowest].set(True) & test_mask
    has_reference = reference_mask.any(axis=-1, keepdims=True)
    return Comparison(similarity=similarity, distinct_mask=jnp.where(has_reference, distinct, test_mask), match=match)


def _best_at_place(
    test: Float[Array, "B M D"], reference: Float[Array, "B N D"], mask: Bool[Array, "B N"]
) -> tuple[Float[Array, "B M"], Int[Array, "B M"]]:
    """Highest product with a reference's token at the same place, and the number of that token."""
    batch, size, width = test.shape
    if reference.shape[1] == size:  # one reference: nothing to choose
        return jnp.sum(test * reference, axis=-1), jnp.broadcast_to(jnp.arange(size), (batch, size))
    products = jnp.sum(test[:, None] * reference.reshape(batch, -1, size, width), axis=-1)
    products = jnp.where(mask.reshape(batch, -1, size), products, -jnp.inf)
    which = jnp.argmax(products, axis=1)
    best = jnp.take_along_axis(products, which[:, None], axis=1)[:, 0]
    return best, which * size + jnp.arange(size)


def _best_anywhere(
    test: Float[Array, "B M D"], reference: Float[Array, "B N D"], mask: Bool[Array, "B N"], *, sign: float
) -> tuple[Float[Array, "B M"], Int[Array, "B M"]]:
    """Product of largest `sign` x value with any reference token, and the number of that token."""

    def best_of(block: Float[Array, "B N D"], real: Bool[Array, "B N"]) -> tuple[Array, Array]:
        pairs = jnp.where(real[:, None], sign * jnp.einsum("bmd,bnd->bmn", test, block), -jnp.inf)
        match = jnp.argmax(pairs, axis=-1)
        return jnp.take_along_axis(pairs, match[..., None], axis=-1)[..., 0], match

    batch, size = mask.shape
    if size <= MATCH_BLOCK:
        value, match = best_of(reference, mask)
        return sign * value, match
    short = -size % MATCH_BLOCK
    blocks = jnp.pad(reference, ((0, 0), (0, short), (0, 0))).reshape(batch, -1, MATCH_BLOCK, reference.shape[2])
    real = jnp.pad(mask, ((0, 0), (0, short))).reshape(batch, -1, MATCH_BLOCK)

    def one_more(best: tuple[Array, Array], block: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        value, match = best_of(block[0], block[1])
        better = value > best[0]
        return (jnp.where(better, value, best[0]), jnp.where(better, match + block[2], best[1])), None

    none = jnp.full(test.shape[:2], -jnp.inf, test.dtype), jnp.zeros(test.shape[:2], jnp.int32)
    firsts = jnp.arange(blocks.shape[1], dtype=jnp.int32) * MATCH_BLOCK
    (value, match), _ = jax.lax.scan(one_more, none, (blocks.swapaxes(0, 1), real.swapaxes(0, 1), firsts))
    return sign * value, match


def without_reference(test_mask: Bool[Array, "B M"]) -> Comparison:
    """The comparison of images without a reference, as `compare` gives it for a reference that is all masked."""
    return Comparison(
        similarity=jnp.ones(test_mask.shape, jnp.float32),
        distinct_mask=test_mask,
        match=jnp.zeros(test_mask.shape, jnp.int32),
    )


def place_vectors(side: int, width: int, key: Array) -> Float[Array, "M D"]:
    """A vector for each token of a square tile, row by row, alike for tokens that lie near each other.

    Random mixtures of the slowest cosines of row and column, of unit variance. What is learnt of one place then holds
    near it, and the mean over the tokens of a defect is about the vector of its middle; with vectors drawn each for
    itself, every token of the tile has to be learnt anew.
    """
    at = (jnp.arange(side) + 0.5) / side
    waves = jnp.stack([math.sqrt(2.0) * jnp.cos(math.pi * count * at) for count in range(1, NUM_WAVES + 1)], axis=1)
    rows, columns = jnp.repeat(waves, side, axis=0), jnp.tile(waves, (side, 1))
    features = jnp.concatenate([rows, columns], axis=1)
    return features @ jax.random.normal(key, (2 * NUM_WAVES, width)) / math.sqrt(2 * NUM_WAVES)


class FactEncoder(nnx.Module):
    """Frozen text encoder: a fact sentence to one vector.

    `embedding_mean` averages its token embeddings (as released); `hidden_mean` averages the last hidden states of a
    frozen decoder. Both are copies of the decoder that stage 1 starts from (`sage.copy_text_encoder`).
    """

    def __init__(self, config: DecoderConfig, kind: str, vocab_size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.kind = kind
        if kind == "hidden_mean":
            untied = dataclasses.replace(config, tie_embeddings=True)  # it never computes logits
            self.decoder = Decoder(untied, vocab_size, dtype=dtype, remat="none", unroll=1, rngs=rngs)
        else:
            init = nnx.initializers.normal(0.02)
            self.embedding = nnx.Embed(vocab_size, config.embed_dim, dtype=dtype, embedding_init=init, rngs=rngs)

    def __call__(self, fact_ids: Int[Array, "B F J"], fact_mask: Bool[Array, "B F J"]) -> Float[Array, "B F D"]:
        """Mean over each fact's real tokens; zeros for a fact without any."""
        batch, num_facts, length = fact_ids.shape
        if self.kind == "hidden_mean":
            ids, real = (x.reshape(batch * num_facts, length) for x in (fact_ids, fact_mask))
            mask = jnp.tril(jnp.ones((length, length), bool)) & real[:, None]
            positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
            states, _ = self.decoder(self.decoder.embedding(ids), positions, mask)
            states = states.reshape(batch, num_facts, length, -1)
        else:
            states = self.embedding(fact_ids)
        weights = fact_mask.astype(states.dtype)[..., None]
        return jnp.sum(states * weights, axis=2) / jnp.maximum(jnp.sum(weights, axis=2), 1.0)


class FusionAttention(nnx.Module):
    """Multi-head attention from facts to patches; its output projection starts at zero."""

    def __init__(self, width: int, num_heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads
        init = nnx.initializers.normal(width**-0.5)
        self.query = Linear(width, width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.key = Linear(width, width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(
        self, facts: Float[Array, "B F D"], patches: Float[Array, "B M D"], mask: Bool[Array, "B M"]
    ) -> Float[Array, "B F D"]:
        """What each fact reads from the patches it may see."""

        def heads(x: Array) -> Array:
            return x.reshape(*x.shape[:2], self.num_heads, -1)

        seen = jnp.broadcast_to(mask[:, None], (mask.shape[0], facts.shape[1], mask.shape[1]))
        out = attend(heads(self.query(facts)), heads(self.key(patches)), heads(self.value(patches)), seen)
        return self.out(out.reshape(facts.shape))


class AddedHead(nnx.Module):
    """x + linear(norm(x)): the paper's head, added to what it reads, with a linear layer that starts at zero."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, eps=1e-5, rngs=rngs)
        self.linear = Linear(width, width, dtype=dtype, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """The embeddings with the head's output added; unchanged until it is trained."""
        return x + self.linear(self.norm(x)).astype(x.dtype)


class FactFusion(nnx.Module):
    """Comparison embeddings of an image: each fact's reading of the distinct patches.

    An untrained fusion gives zeros whatever the images and facts are. With `head = "all"` it also holds the heads of
    the two other parts that the decoder reads, `image_head` and `question_head`.
    """

    def __init__(self, config: FusionConfig, width: int, *, num_places: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        """`num_places`: image tokens of a tile."""
        self.config = config
        self.attention = FusionAttention(width, config.num_heads, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, eps=1e-5, rngs=rngs)
        self.head = Linear(width, width, dtype=dtype, kernel_init=nnx.initializers.normal(width**-0.5), rngs=rngs)
        if config.difference != "none":
            self.difference = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        if config.difference_places:
            self.places = nnx.Param(PLACE_SCALE * place_vectors(math.isqrt(num_places), width, rngs.params()))
        if config.difference == "residual":
            init = nnx.initializers.normal(width**-0.5)
            self.residual = Linear(width, width, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)
        if config.mark_image:
            init = nnx.initializers.zeros
            self.mark = Linear(width, width, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)
        if config.head == "all":
            self.image_head = AddedHead(width, dtype=dtype, rngs=rngs)
            self.question_head = AddedHead(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        facts: Float[Array, "B F D"],
        test: Float[Array, "B M D"],
        reference: Float[Array, "B N D"] | None,
        comparison: Comparison,
        has_reference: Bool[Array, " B"],
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B M D"]]:
        """Comparison embeddings, and the image tokens that the decoder is shown.

        Without a reference (None = in no row) the facts read the whole test image. With `mark_image` the decoder is
        shown the test image's tokens with the difference that keys and values hold, through a linear layer that starts
        at zero; without, as they are.
        """
        unlike = self._unlike(test, reference, comparison, has_reference)
        patches = test if unlike is None else test + unlike
        shown = test if unlike is None or not self.config.mark_image else test + self.mark(unlike)
        return self.head(self.norm(self.attention(facts, patches, comparison.distinct_mask))), shown

    def _unlike(
        self,
        test: Float[Array, "B M D"],
        reference: Float[Array, "B N D"] | None,
        comparison: Comparison,
        has_reference: Bool[Array, " B"],
    ) -> Float[Array, "B M D"] | None:
        """What is added to each token for its difference from the reference; None for nothing."""
        if self.config.difference == "none":
            return None
        share = (1.0 - comparison.similarity).astype(test.dtype)[..., None]
        unlike = share * self.difference[...].astype(test.dtype)
        if self.config.difference_places:
            tiled = jnp.tile(self.places[...].astype(test.dtype), (test.shape[1] // self.places.shape[0], 1))
            unlike = unlike + share * tiled
        if self.config.difference == "residual" and reference is not None:
            matched = jnp.take_along_axis(reference, comparison.match[..., None], axis=1)
            residual = jnp.where(has_reference[:, None, None], test - matched, jnp.zeros((), test.dtype))
            unlike = unlike + self.residual(residual)
        return unlike
