"""The decoder's positions, masks and cache. Parity with transformers is in test_sage.py."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sage_jax.config import DecoderConfig
from sage_jax.models.decoder import Decoder, DecoderMlp, KvCache, rotary, turns
from sage_jax.models.vit import VitMlp
from sage_jax.parameters import Params, merge, split
from tests.support.tiny_sage import TINY, VOCAB_SIZE, random_params

QWEN3 = dataclasses.replace(TINY.decoder, qkv_bias=True, qk_norm=True, head_dim=6, tie_embeddings=True)


def make_decoder(config: DecoderConfig, dtype: str = "float32") -> Decoder:
    def create() -> Decoder:
        return Decoder(config, VOCAB_SIZE, dtype=jnp.dtype(dtype), remat="none", unroll=1, rngs=nnx.Rngs(0))

    graphdef, shapes = split(nnx.eval_shape(create))
    params: Params = random_params(shapes)
    return merge(graphdef, params)


@jax.jit
def one_pass(
    decoder: Decoder, embeddings: jax.Array, positions: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    hidden, _ = decoder(embeddings, positions, mask)
    return hidden, decoder.logits(hidden)


def causal(rows: int, length: int) -> tuple[jax.Array, jax.Array]:
    positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
    return positions, jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (rows, length, length))


def random_embeddings(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, TINY.decoder.embed_dim)), jnp.float32)


def test_rotary_is_a_rotation_of_channel_pairs_by_position() -> None:
    rng = np.random.default_rng(1)
    x, positions = rng.normal(size=(2, 3, 2, 6)).astype(np.float32), rng.integers(0, 500, (2, 3))
    by, gradient = turns(jnp.asarray(positions), 6, theta=100.0), rng.normal(size=x.shape).astype(np.float32)
    found, backward = jax.vjp(lambda x: rotary(x, by), jnp.asarray(x))
    found, returned = np.asarray(found), np.asarray(backward(jnp.asarray(gradient))[0])
    for channel in range(3):
        turn = np.exp(1j * positions[..., None] * 100.0 ** (-channel / 3))
        for given, turned, by_angle in ((x, found, turn), (gradient, returned, turn.conj())):
            expected = (given[..., channel] + 1j * given[..., channel + 3]) * by_angle
            np.testing.assert_allclose(turned[..., channel] + 1j * turned[..., channel + 3], expected, atol=1e-4)


def test_only_differences_of_positions_matter() -> None:
    decoder = make_decoder(TINY.decoder)
    positions, mask = causal(2, 6)
    embeddings = random_embeddings(2, 6)
    hidden, _ = one_pass(decoder, embeddings, positions, mask)
    moved, _ = one_pass(decoder, embeddings, positions + 37, mask)
    np.testing.assert_allclose(moved, hidden, atol=1e-4)
    stretched, _ = one_pass(decoder, embeddings, 2 * positions, mask)
    assert not np.allclose(stretched, hidden, atol=1e-2)


@pytest.mark.parametrize("config", [TINY.decoder, QWEN3], ids=["llama", "qwen3_tied"])
def test_a_cache_written_piece_by_piece_equals_one_pass(config: DecoderConfig) -> None:
    decoder = make_decoder(config)
    embeddings, rng = random_embeddings(2, 7), np.random.default_rng(2)
    positions, mask = causal(2, 7)
    mask = mask & jnp.asarray(rng.random((2, 1, 7)) < 0.7) | jnp.eye(7, dtype=bool)
    expected, _ = one_pass(decoder, embeddings, positions, mask)

    @jax.jit
    def piece(cache: KvCache, part: jax.Array, at: jax.Array, seen: jax.Array):
        return decoder(part, at, seen, cache)

    cache, parts = decoder.empty_cache(2, 9), []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 7)):
        seen = jnp.pad(mask[:, start:stop], ((0, 0), (0, 0), (0, 2)))
        hidden, cache = piece(cache, embeddings[:, start:stop], positions[:, start:stop], seen)
        parts.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected, atol=1e-5)
    assert int(cache.length) == 7


def test_later_and_hidden_tokens_never_change_logits() -> None:
    decoder = make_decoder(TINY.decoder)
    embeddings = random_embeddings(1, 6)
    positions, mask = causal(1, 6)
    mask = mask.at[:, 2:, 1].set(False)
    _, before = one_pass(decoder, embeddings, positions, mask)
    _, after = one_pass(decoder, embeddings.at[:, 5].set(9.0).at[:, 1].add(3.0), positions, mask)
    kept = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(after[:, kept], before[:, kept])
    assert not np.allclose(after[:, 1], before[:, 1], atol=1e-3)


def test_tied_logits_are_products_with_the_token_embeddings() -> None:
    decoder = make_decoder(QWEN3)
    assert not hasattr(decoder, "output")
    hidden = random_embeddings(3)
    table = np.asarray(decoder.embedding.embedding[...])
    np.testing.assert_allclose(decoder.logits(hidden), np.asarray(hidden) @ table.T, atol=1e-5)


def test_bfloat16_compute_gives_float32_logits_near_float32_compute() -> None:
    positions, mask = causal(2, 6)
    embeddings = random_embeddings(2, 6)
    hidden, logits = one_pass(make_decoder(TINY.decoder, "bfloat16"), embeddings, positions, mask)
    _, exact = one_pass(make_decoder(TINY.decoder), embeddings, positions, mask)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(logits, exact, atol=0.15)


@pytest.mark.parametrize("part", ["decoder", "vit"])
def test_a_backward_pass_keeps_no_more_of_an_mlp_than_its_first_products(part: str) -> None:
    width, hidden, rngs = 8, 40, nnx.Rngs(0)
    if part == "decoder":
        sizes = dataclasses.replace(TINY.decoder, embed_dim=width, mlp_dim=hidden)
        mlp, products = DecoderMlp(sizes, dtype=jnp.dtype("float32"), rngs=rngs), 2
    else:
        vit = dataclasses.replace(TINY.vit, embed_dim=width, mlp_dim=hidden)
        mlp, products = VitMlp(vit, dtype=jnp.dtype("float32"), rngs=rngs), 1
    graphdef, params = split(mlp)

    def run(x: jax.Array, params: Params) -> jax.Array:
        return merge(graphdef, params)(x)

    _, backward = jax.vjp(run, jnp.ones((2, 3, width)), params)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward) if leaf.shape[-1:] == (hidden,) and leaf.ndim == 3]
    assert kept == [(2, 3, hidden)] * products
