"""Language decoder in the Llama layout: RMSNorm, RoPE, grouped-query attention, SwiGLU."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Float, Int
from sage_jax.batch import AnyArray
from sage_jax.config import DecoderConfig
from sage_jax.models.attention.masked import attend_cached, split_qkv
from sage_jax.models.attention.select import Visibility, attend_visible
from sage_jax.models.layers import Linear, Remat, RmsNorm, layers_apart, scan_layers, stack_layers
from sage_jax.sharding import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KvCache:
    """Keys and values of every layer, written at `length` and on.

    Layers are arrays of their own, so that a token is written in place: in one array of all layers, a loop over them
    copies the whole cache for each token. Slots stand where a query's products read them in order.

    Attributes:
      keys, values: Of each layer.
      length: Slots written so far, the same for all rows; rows hide their padding by the mask.

    Of arrays, or of their shardings.
    """

    keys: AnyArray  # Y times B R X T
    values: AnyArray  # Y times B R T X
    length: AnyArray

    @property
    def num_slots(self) -> int:
        """Slots, written or not."""
        return self.values[0].shape[2]

    def widened(self, more: int) -> KvCache:
        """The same with more slots."""
        return KvCache(
            keys=tuple(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more))) for x in self.keys),
            values=tuple(jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in self.values),
            length=self.length,
        )


LayerCache = tuple[Array, Array, Array]
"""Keys and values of one layer, and how many slots are written."""


Turns = tuple[Float[Array, "B S 1 H"], Float[Array, "B S 1 H"]]
"""Cosine and sine by which a head's H = X / 2 pairs of channels are turned at each position; float32."""


def turns(position_ids: Int[Array, "B S"], width: int, *, theta: float) -> Turns:
    """The turns of rotary position embedding (RoFormer), for heads of a width."""
    frequencies = theta ** (-jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angles = position_ids.astype(jnp.float32)[..., None, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


@jax.custom_vjp
def rotary(x: Float[Array, "B S Y X"], by: Turns) -> Float[Array, "B S Y X"]:
    """Rotary position embedding, pairing channel i with i + X / 2 as the Llama layout does.

    Its gradient is turned back; JAX's own rule would put it together from padded halves.
    """
    (cos, sin), half = by, x.shape[-1] // 2
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _rotary_forward(x: Array, by: Turns) -> tuple[Array, Turns]:
    return rotary(x, by), by


def _rotary_backward(by: Turns, gradient: Array) -> tuple[Array, Turns]:
    cos, sin = by
    return rotary(gradient, (cos, -sin)), (jnp.zeros_like(cos), jnp.zeros_like(sin))  # positions do not train


rotary.defvjp(_rotary_forward, _rotary_backward)


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
        by: Turns,
        visibility: Visibility,
        cache: tuple[Array, Array, Array] | None,
    ) -> tuple[Float[Array, "B S D"], tuple[Array, Array] | None]:
        """Attention output, and the layer's cache with this sequence written into it."""
        config = self.config
        queries, keys, values = split_qkv(self.qkv(x), num_heads=config.num_heads, num_kv_heads=config.num_kv_heads)
        if config.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries, keys = rotary(queries, by), rotary(keys, by)
        written = None
        if cache is not None:
            old_keys, old_values, length = cache
            new_keys = keys.transpose(0, 2, 3, 1).astype(old_keys.dtype)
            new_values = values.transpose(0, 2, 1, 3).astype(old_values.dtype)
            written = (
                jax.lax.dynamic_update_slice_in_dim(old_keys, new_keys, length, axis=3),
                jax.lax.dynamic_update_slice_in_dim(old_values, new_values, length, axis=2),
            )
        if written is not None and isinstance(visibility, jax.Array):
            out = attend_cached(queries, *written, visibility)
        else:
            out = attend_visible(queries, keys, values, visibility)
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

        @jax.checkpoint  # a backward pass keeps gate and up alone: what is made of them costs less than its memory
        def combine(gate: Array, up: Array) -> Array:
            return self.down(constrain(jax.nn.silu(gate) * up, "batch", "none", "mlp"))

        return combine(self.gate(x), self.up(x))


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
        visibility: Visibility,
        cache: KvCache | None = None,
        wanted: Int[Array, "B Q"] | None = None,
    ) -> tuple[Float[Array, "B _ D"], KvCache | None]:
        """Normalised hidden states, and the cache with this sequence written into it.

        Args:
          position_ids: RoPE positions.
          visibility: A mask, True where a token sees a key; T = S, or the cache's slots. A tree's layout, blocks or
            slots in its place compute the same and leave hidden pairs out; of a cache, they see nothing written before.
          cache: Keys and values of what went before; None for one pass over a whole sequence.
          wanted: With a cache, the tokens whose hidden states are given out, the others' being left out of the last
            MLP; None = all.
        """

        by = turns(position_ids, self.config.width_of_head, theta=self.config.rope_theta)

        def step(
            block: DecoderBlock, x: Array, slots: LayerCache | None, wanted: Array | None = None
        ) -> tuple[Array, tuple[Array, Array] | None]:
            attended, written = block.attention(block.attention_norm(x), by, visibility, slots)
            x = constrain(x + attended, "batch", "none", "none")
            if wanted is not None:
                x = jnp.take_along_axis(x, wanted[..., None], axis=1)
            return constrain(x + block.mlp(block.mlp_norm(x)), "batch", "none", "none"), written

        x = embeddings.astype(self.dtype)
        if cache is None:
            x = scan_layers(
                self.blocks, lambda block, x: step(block, x, None)[0], x, remat=self.remat, unroll=self.unroll
            )
            return self.norm(x), None
        keys, values = list(cache.keys), list(cache.values)
        for index, block in enumerate(layers_apart(self.blocks)):
            ends = wanted if index == len(keys) - 1 else None
            x, written = step(block, x, (keys[index], values[index], cache.length), ends)
            assert written is not None
            keys[index], values[index] = written
        return self.norm(x), KvCache(tuple(keys), tuple(values), cache.length + embeddings.shape[1])

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Next-token logits, float32."""
        if self.config.tie_embeddings:
            return self.embedding.attend(hidden).astype(jnp.float32)
        return self.output(hidden).astype(jnp.float32)

    def empty_cache(self, batch: int, slots: int) -> KvCache:
        """A cache of `slots` positions, nothing written."""
        layers, heads, width = self.config.num_layers, self.config.num_kv_heads, self.config.width_of_head
        return KvCache(
            keys=tuple(jnp.zeros((batch, heads, width, slots), self.dtype) for _ in range(layers)),
            values=tuple(jnp.zeros((batch, heads, slots, width), self.dtype) for _ in range(layers)),
            length=jnp.zeros((), jnp.int32),
        )
