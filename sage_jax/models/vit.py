"""Vision encoder: InternViT (pre-norm, LayerScale, class token, learned positions)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sage_jax.axes import Array, Float, UInt8
from sage_jax.config import VitConfig
from sage_jax.models.attention.masked import split_qkv
from sage_jax.models.attention.select import Attention, attend_all
from sage_jax.models.layers import LayerNorm, Linear, Remat, RmsNorm, scan_layers, stack_layers
from sage_jax.sharding import constrain

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def normalise(tiles: UInt8[Array, "A H W 3"], dtype: jnp.dtype) -> Float[Array, "A H W 3"]:
    """Pixels 0..255 as ImageNet-standardised values."""
    pixels = tiles.astype(jnp.float32) / 255.0
    return ((pixels - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_DEVIATION)).astype(dtype)


def bicubic_weights(size_in: int, size_out: int) -> np.ndarray:
    """Matrix (size_out, size_in) of bicubic interpolation with half-pixel centres, a = -0.75 and clamped borders.

    These are PyTorch's conventions, by which InternVL resizes its position embeddings.
    """
    a = -0.75
    centres = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((size_out, size_in))
    for offset in range(-1, 3):
        distance = np.abs(centres - (first + offset))
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        np.add.at(
            weights, (np.arange(size_out), np.clip(first + offset, 0, size_in - 1)), np.where(distance <= 1, near, far)
        )
    return weights.astype(np.float32)


def _norm(config: VitConfig, rngs: nnx.Rngs) -> LayerNorm | RmsNorm:
    norm = LayerNorm if config.norm == "layer" else RmsNorm
    return norm(config.embed_dim, eps=config.norm_eps, rngs=rngs)


class Convolution(nnx.Module):
    """2-D convolution with zeros around the picture, then LayerNorm over channels and GELU."""

    def __init__(self, size: int, width_in: int, width_out: int, *, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        init = nnx.initializers.normal((size * size * width_in) ** -0.5)
        self.stride, self.dtype = stride, dtype
        self.kernel = nnx.Param(init(rngs.params(), (size, size, width_in, width_out), jnp.float32))
        self.norm = LayerNorm(width_out, eps=1e-6, rngs=rngs)

    def __call__(self, x: Float[Array, "A H W C"]) -> Float[Array, "A _ _ D"]:
        """Features of every `stride`-th pixel."""
        out = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(self.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.gelu(self.norm(out), approximate=False)


class ConvStem(nnx.Module):
    """What overlapping convolutions see of each patch, added to its embedding; nothing until it is trained.

    Pixels, 7 x 7 of stride 4 and 3 x 3, then 3 x 3 of stride 2 and 3 x 3 as often as the patch asks, and a linear
    layer. Early convolutions help a small transformer that is trained from nothing to see edges (Xiao et al. 2021).
    """

    def __init__(self, config: VitConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.embed_dim
        channels = 3 * width // 8
        layers = [
            Convolution(7, 3, channels, stride=4, dtype=dtype, rngs=rngs),
            Convolution(3, channels, channels, stride=1, dtype=dtype, rngs=rngs),
        ]
        for _ in range(int(math.log2(config.patch_px)) - 2):
            wider = min(2 * channels, width)
            layers.append(Convolution(3, channels, wider, stride=2, dtype=dtype, rngs=rngs))
            layers.append(Convolution(3, wider, wider, stride=1, dtype=dtype, rngs=rngs))
            channels = wider
        self.convolutions = nnx.List(layers)
        self.out = Linear(channels, width, dtype=dtype, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, pixels: Float[Array, "A H W 3"]) -> Float[Array, "A P D"]:
        """Features of each patch, row by row."""
        x = pixels
        for convolution in self.convolutions:
            x = constrain(convolution(x), "batch", "none", "none", "none")
        return self.out(x.reshape(len(x), -1, x.shape[-1]))


class VitAttention(nnx.Module):
    """Multi-head self-attention over the patches of one tile."""

    def __init__(self, config: VitConfig, *, dtype: jnp.dtype, attention: Attention, rngs: nnx.Rngs):
        width = config.embed_dim
        init = nnx.initializers.normal(width**-0.5)
        self.kernel: Attention = attention
        self.num_heads = config.num_heads
        self.qkv = Linear(width, 3 * width, use_bias=config.qkv_bias, dtype=dtype, kernel_init=init, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, kernel_init=init, rngs=rngs)
        if config.qk_norm:
            self.query_norm = RmsNorm(width, eps=config.norm_eps, rngs=rngs)
            self.key_norm = RmsNorm(width, eps=config.norm_eps, rngs=rngs)
        self.qk_norm = config.qk_norm

    def __call__(self, x: Float[Array, "A S D"]) -> Float[Array, "A S D"]:
        """Attention output; every patch sees every patch."""
        queries, keys, values = split_qkv(self.qkv(x), num_heads=self.num_heads, num_kv_heads=self.num_heads)
        if self.qk_norm:  # InternViT-6B normalises over the width of all heads together
            queries = self.query_norm(queries.reshape(x.shape)).reshape(queries.shape)
            keys = self.key_norm(keys.reshape(x.shape)).reshape(keys.shape)
        return self.out(attend_all(queries, keys, values, self.kernel).reshape(x.shape))


class VitMlp(nnx.Module):
    """Linear, GELU, Linear."""

    def __init__(self, config: VitConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, hidden = config.embed_dim, config.mlp_dim
        self.up = Linear(width, hidden, dtype=dtype, kernel_init=nnx.initializers.normal(width**-0.5), rngs=rngs)
        self.down = Linear(hidden, width, dtype=dtype, kernel_init=nnx.initializers.normal(hidden**-0.5), rngs=rngs)

    def __call__(self, x: Float[Array, "A S D"]) -> Float[Array, "A S D"]:
        """MLP output."""

        @jax.checkpoint  # a backward pass keeps the GELU's input alone
        def activate(up: Array) -> Array:
            return self.down(constrain(jax.nn.gelu(up, approximate=False), "batch", "none", "mlp"))

        return activate(self.up(x))


class VitBlock(nnx.Module):
    """Attention and MLP, each normalised first and scaled by LayerScale."""

    def __init__(self, config: VitConfig, *, dtype: jnp.dtype, attention: Attention, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, rngs)
        self.attention = VitAttention(config, dtype=dtype, attention=attention, rngs=rngs)
        self.attention_layer_scale = nnx.Param(jnp.full(config.embed_dim, config.layer_scale, jnp.float32))
        self.mlp_norm = _norm(config, rngs)
        self.mlp = VitMlp(config, dtype=dtype, rngs=rngs)
        self.mlp_layer_scale = nnx.Param(jnp.full(config.embed_dim, config.layer_scale, jnp.float32))

    def __call__(self, x: Float[Array, "A S D"]) -> Float[Array, "A S D"]:
        """The residual stream after the block."""
        x = x + self.attention(self.attention_norm(x)) * self.attention_layer_scale[...].astype(x.dtype)
        return x + self.mlp(self.mlp_norm(x)) * self.mlp_layer_scale[...].astype(x.dtype)


class Vit(nnx.Module):
    """InternViT: tiles to patch features."""

    def __init__(
        self,
        config: VitConfig,
        *,
        dtype: jnp.dtype,
        remat: Remat,
        unroll: int,
        attention: Attention = "tree",
        rngs: nnx.Rngs,
    ):
        width, patch = config.embed_dim, config.patch_px
        self.config, self.dtype, self.unroll = config, dtype, unroll
        self.remat: Remat = remat
        self.side = config.tile_px // patch
        init = nnx.initializers.normal((3 * patch * patch) ** -0.5)
        self.patch_embed = Linear(3 * patch * patch, width, dtype=dtype, kernel_init=init, rngs=rngs)
        if config.stem == "conv":
            self.stem = ConvStem(config, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, width)))
        self.position_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1 + self.side**2, width)))

        def block(rngs: nnx.Rngs) -> VitBlock:
            return VitBlock(config, dtype=dtype, attention=attention, rngs=rngs)

        self.blocks = stack_layers(block, config.num_layers, rngs)

    def __call__(self, tiles: UInt8[Array, "A H W 3"]) -> Float[Array, "A P D"]:
        """Features of the last block at each patch, row by row, class token dropped.

        Position embeddings are resized where tiles are not `tile_px` wide; the sides must be multiples of `patch_px`.
        """
        patch = self.config.patch_px
        num, height, width, _ = tiles.shape
        rows, columns = height // patch, width // patch
        pixels = normalise(tiles, self.dtype)
        cells = pixels.reshape(num, rows, patch, columns, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        patches = cells.reshape(num, rows * columns, 3 * patch * patch)
        x = self.patch_embed(constrain(patches, "batch", "none", "none"))
        if self.config.stem == "conv":
            x = x + self.stem(pixels)
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (num, 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self._positions(rows, columns).astype(x.dtype)
        x = scan_layers(self.blocks, lambda block, x: block(x), x, remat=self.remat, unroll=self.unroll)
        return x[:, 1:]

    def _positions(self, rows: int, columns: int) -> Float[Array, "S D"]:
        table = self.position_embedding[...]
        if (rows, columns) == (self.side, self.side):
            return table
        grid = table[1:].reshape(self.side, self.side, -1)
        down, across = bicubic_weights(self.side, rows), bicubic_weights(self.side, columns)
        grid = jnp.einsum("rs,cu,sud->rcd", down, across, grid).reshape(rows * columns, -1)
        return jnp.concatenate([table[:1], grid], axis=0)
