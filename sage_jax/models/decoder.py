"""Language decoder in the Llama layout: RMSNorm, RoPE, grouped-query attention, SwiGLU."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Bool, Float, Int
from sage_jax.config import DecoderConfig
from sage_jax.models.attention import attend, split_qkv
from sage_jax.models.layers import Linear, Remat, RmsNorm, scan_layers, stack_layers
from sage_jax.models.tree_attention import TreeLayout, attend_tree
from sage_jax.sharding import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KvCache:
    """Keys and values of every layer, written at `length` and on.

    Attributes:
      keys, values: Layers x rows x slots x key/value heads x head width.
      length: Slots written so far, the same for all rows; rows hide their padding by the mask.
    """

    keys: Float[Array, "Y B T R X"]
    values: Float[Array, "Y B T R X"]
    length: Int[Array, ""]


def rotary(x: Float[Array, "B S N X"], position_ids: Int[Array, "B S"], *, theta: float) -> Float[Array, "B S N X"]:
    """Rotary position embedding (RoFormer), pairing channel i with i + X / 2 as the Llama layout does."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = position_ids.astype(jnp.float32)[..., None, None] * frequencies  # B S 1 X/2
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class DecoderAttention(nnx.Module):
    """Grouped-query self-attention with RoPE, over this sequence or over a cache."""

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, head_dim = config.embed_dim, config.width_of_head
        columns = (config.num_heads + 2 * config.num_kv_heads) * head_dim
        self.config = config
        init = nnx.initializers.normal(width**-0.5)
        self.qkv = Linear(width, columns, use_bias=config.qkv_bias, dtype=dtype, kernel_init=init, rngs=rngs)
        inner = config.num_heads * head_dim
        init = nnx.initializers.normal(inner**-0.5)
        self.out = Linear(inner, width, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)
        if config.qk_norm:
            self.query_norm = RmsNorm(head_dim, eps=config.norm_eps, rngs=rngs)
            self.key_norm = RmsNorm(head_dim, eps=config.norm_eps, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        position_ids: Int[Array, "B S"],
        mask: Bool[Array, "B S T"] | TreeLayout,
        cache: tuple[Array, Array, Array] | None,
    ) -> tuple[Float[Array, "B S D"], tuple[Array, Array] | None]:
        """Attention output, and the layer's cache with this sequence written into it."""
        config = self.config
        queries, keys, values = split_qkv(self.qkv(x), num_heads=config.num_heads, num_kv_heads=config.num_kv_heads)
        if config.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries = rotary(queries, position_ids, theta=config.rope_theta)
        keys = rotary(keys, position_ids, theta=config.rope_theta)
        written = None
        if cache is not None:
            old_keys, old_values, length = cache
            keys = jax.lax.dynamic_update_slice_in_dim(old_keys, keys.astype(old_keys.dtype), length, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(old_values, values.astype(old_values.dtype), length, axis=1)
            written = (keys, values)
        if isinstance(mask, TreeLayout):
            out = attend_tree(queries, keys, values, mask)
        else:
            out = attend(queries, keys, values, mask)
        return self.out(out.reshape(*x.shape[:2], -1)), written


class DecoderMlp(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, hidden = config.embed_dim, config.mlp_dim
        init = nnx.initializers.normal(width**-0.5)
        self.gate = Linear(width, hidden, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)
        self.up = Linear(width, hidden, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)
        init = nnx.initializers.normal(hidden**-0.5)
        self.down = Linear(hidden, width, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """MLP output."""
        return self.down(constrain(jax.nn.silu(self.gate(x)) * self.up(x), "batch", "none", "mlp"))


class DecoderBlock(nnx.Module):
    """Attention and MLP, each normalised first."""

    def __init__(self, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention_norm = RmsNorm(config.embed_dim, eps=config.norm_eps, rngs=rngs)
        self.attention = DecoderAttention(config, dtype=dtype, rngs=rngs)
        self.mlp_norm = RmsNorm(config.embed_dim, eps=config.norm_eps, rngs=rngs)
        self.mlp = DecoderMlp(config, dtype=dtype, rngs=rngs)


class Decoder(nnx.Module):
    """Causal language model over embeddings, so that image and comparison embeddings can stand among the tokens'."""

    def __init__(
        self, config: DecoderConfig, vocab_size: int, *, dtype: jnp.dtype, remat: Remat, unroll: int, rngs: nnx.Rngs
    ):
        self.config, self.dtype, self.unroll = config, dtype, unroll
        self.vocab_size = vocab_size
        self.remat: Remat = remat
        width = config.embed_dim
        init = nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Embed(
            vocab_size, width, dtype=dtype, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.blocks = stack_layers(lambda rngs: DecoderBlock(config, dtype=dtype, rngs=rngs), config.num_layers, rngs)
        self.norm = RmsNorm(width, eps=config.norm_eps, rngs=rngs)
        if not config.tie_embeddings:
            self.output = Linear(width, vocab_size, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    def __call__(
        self,
        embeddings: Float[Array, "B S D"],
        position_ids: Int[Array, "B S"],
        mask: Bool[Array, "B S T"] | TreeLayout,
        cache: KvCache | None = None,
    ) -> tuple[Float[Array, "B S D"], KvCache | None]:
        """Normalised hidden states, and the cache with this sequence written into it.

        Args:
          position_ids: RoPE positions.
          mask: True where a token sees a key; T = S, or the cache's slots. A tree's layout in its place, without a
            cache, computes the same and leaves hidden pairs out.
          cache: Keys and values of what went before; None for one pass over a whole sequence.
        """

        def step(
            block: DecoderBlock, x: Array, layer_cache: tuple[Array, Array] | None
        ) -> tuple[Array, tuple[Array, Array] | None]:
            slots = None if layer_cache is None or cache is None else (*layer_cache, cache.length)
            attended, written = block.attention(block.attention_norm(x), position_ids, mask, slots)
            x = constrain(x + attended, "batch", "none", "none")
            return constrain(x + block.mlp(block.mlp_norm(x)), "batch", "none", "none"), written

        per_layer = None if cache is None else (cache.keys, cache.values)
        x, written = scan_layers(
            self.blocks, step, embeddings.astype(self.dtype), per_layer, remat=self.remat, unroll=self.unroll
        )
        new_cache = None
        if cache is not None:
            new_cache = KvCache(keys=written[0], values=written[1], length=cache.length + embeddings.shape[1])
        return self.norm(x), new_cache

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Next-token logits, float32."""
        if self.config.tie_embeddings:
            return self.embedding.attend(hidden).astype(jnp.float32)
        return self.output(hidden).astype(jnp.float32)

    def empty_cache(self, batch: int, slots: int) -> KvCache:
        """A cache of `slots` positions, nothing written."""
        shape = (self.config.num_layers, batch, slots, self.config.num_kv_heads, self.config.width_of_head)
        return KvCache(
            keys=jnp.zeros(shape, self.dtype), values=jnp.zeros(shape, self.dtype), length=jnp.zeros((), jnp.int32)
        )
