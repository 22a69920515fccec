"""Config of the model: vision transformer, decoder, fact fusion, device mesh."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sage_jax.config.checks import require, require_above_zero, require_divides, require_not_negative


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Vision transformer (InternViT).

    Attributes:
      tile_px: Side of a tile.
      patch_px: Side of a patch.
      stem: How a patch's pixels become its feature: `patch`, one linear map of the patch alone (InternViT), or `conv`,
        which adds what overlapping convolutions see: a small encoder trained from nothing needs them to see edges.
        Ours; they start at nothing, so that they leave a checkpoint's encoder as it is.
      num_layers: Transformer blocks.
      embed_dim: Width of a token.
      num_heads: Attention heads of a block.
      mlp_dim: Hidden width of a block's MLP.
      norm: `layer` (InternViT-300M) or `rms` (InternViT-6B).
      norm_eps: Epsilon of the norms.
      qkv_bias: Biases on queries, keys and values.
      qk_norm: RMSNorm over all heads' queries and keys (InternViT-6B).
      layer_scale: Start value of LayerScale.
    """

    tile_px: int = 64
    patch_px: int = 8
    stem: Literal["patch", "conv"] = "patch"
    num_layers: int = 4
    embed_dim: int = 96
    num_heads: int = 4
    mlp_dim: int = 384
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float = 0.1

    def __post_init__(self) -> None:
        require_above_zero(self, "tile_px", "patch_px", "num_layers", "embed_dim", "mlp_dim", "norm_eps")
        require_not_negative(self, "layer_scale")
        require_divides("patch_px", self.patch_px, "tile_px", self.tile_px)
        require_divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)
        power = self.patch_px & (self.patch_px - 1) == 0 and self.patch_px >= 4
        require(
            self.stem == "patch" or power,
            f"patch_px = {self.patch_px}: with stem = 'conv' each layer halves the picture; give 4, 8, 16 or 32",
        )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Causal decoder in the Llama layout (InternLM2, Llama, Qwen2, Qwen3).

    Attributes:
      num_layers: Transformer blocks.
      embed_dim: Width of a token.
      num_heads: Query heads of a block.
      num_kv_heads: Key and value heads of a block; each serves num_heads / num_kv_heads query heads.
      head_dim: Width of a head; 0 = embed_dim / num_heads.
      mlp_dim: Hidden width of a block's MLP.
      rope_theta: Base of the rotary position angles.
      norm_eps: Epsilon of the norms.
      qkv_bias: Biases on queries, keys and values (Qwen2).
      qk_norm: RMSNorm on each head's queries and keys (Qwen3).
      tie_embeddings: The output layer is the transposed token embedding.
    """

    num_layers: int = 3
    embed_dim: int = 96
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 0
    mlp_dim: int = 256
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_above_zero(self, "num_layers", "embed_dim", "num_heads", "mlp_dim", "rope_theta", "norm_eps")
        require_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        if not self.head_dim:
            require_divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)
        width = self.width_of_head
        require(width > 0 and width % 2 == 0, f"head_dim: a head is {width} wide; RoPE needs an even width")

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """Fact fusion (SFE).

    Attributes:
      num_heads: Heads of the fusion attention.
      num_distinct: Distinct patches (K); an image with fewer tokens gives all it has.
      similarity: Of a test token to the reference: `max` over reference tokens of the cosine (text of the paper), `min`
        (its formula), `aligned` (the token at the same place, for registered pairs).
      fact_encoder: `embedding_mean` (as released) or `hidden_mean` (mean of the frozen decoder's last hidden states).
      difference: What keys and values hold beside the distinct patch: `none` (the paper); `similarity` adds a learned
        direction, scaled by 1 - similarity; `residual` also adds a learned map of the patch minus its reference
        match. Both are ours, not the paper's.
      difference_places: Whether `difference` also adds a learned vector of the patch's place in its tile, scaled by
        1 - similarity, so that the facts read where the test image is unlike its reference. Ours too.
      mark_image: Whether the image tokens that the decoder sees get what `difference` adds too, through a linear layer
        that starts at zero; of rows with facts alone, so that facts as plain text have no part in it. Ours too.
      head: What passes a LayerNorm and a linear layer on its way to the decoder: `comparison` embeddings alone, so that
        the base model is kept, or `all` three parts (the paper), image embeddings and the questions' tokens too, each
        with a head of its own whose output is added to what it reads and starts at zero: nothing else would keep the
        base model, whose embeddings a LayerNorm does not give back.
    """

    num_heads: int = 4
    num_distinct: int = 8
    similarity: Literal["max", "min", "aligned"] = "max"
    fact_encoder: Literal["embedding_mean", "hidden_mean"] = "embedding_mean"
    difference: Literal["none", "similarity", "residual"] = "none"
    difference_places: bool = False
    mark_image: bool = False
    head: Literal["comparison", "all"] = "comparison"

    def __post_init__(self) -> None:
        require_above_zero(self, "num_heads", "num_distinct")
        require(
            self.difference != "none" or not self.difference_places,
            "difference_places = True adds to a difference: set difference to similarity or residual",
        )
        require(
            self.difference != "none" or not self.mark_image,
            "mark_image = True shows a difference: set difference to similarity or residual",
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """SAGE.

    Attributes:
      vit: Vision encoder.
      decoder: Language decoder.
      fusion: Fact fusion.
      weights: Folder of an InternVL checkpoint (safetensors, in transformers' or OpenGVLab's layout) that stands in for
        a `base` model trained here; "" = none. Its config.json gives the sizes of `vit` and `decoder`.
      downsample: Side of the square of patches that pixel shuffle folds into one token.
      max_tiles: Most tiles of an image, thumbnail not counted.
      compute_dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on GPU and TPU. Parameters are float32.
      remat: What the backward pass computes again: `none`; `dots` keeps matrix products; `full` keeps layer inputs.
        `auto` is the first of them with which a training stage fits into the memory of its devices, by the plan's
        prediction for the stage's longest trees; on a CPU, `none`.
      scan_unroll: Layers unrolled in one step of the layer scan; with `remat`, of at most half of them.
      attention: Of the decoder over a tree, in training, scoring and prefill. `tree` computes what a token sees alone,
        as products of blocks that any device computes; `pallas` is a block-sparse kernel for GPUs, `cudnn` two calls of
        cuDNN's on GPUs (bfloat16 alone), `splash` a kernel for TPUs; all three bring one for the ViT too. `masked`
        computes every pair of tokens and hides the others (the plain form, for comparison). `auto` is `pallas` on GPUs
        from H100 on, `splash` on TPU, else `tree`.
    """

    vit: VitConfig = VitConfig()
    decoder: DecoderConfig = DecoderConfig()
    fusion: FusionConfig = FusionConfig()
    weights: str = ""
    downsample: int = 2
    max_tiles: int = 1
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["auto", "none", "dots", "full"] = "auto"
    scan_unroll: int = 1
    attention: Literal["auto", "tree", "masked", "pallas", "cudnn", "splash"] = "auto"

    def __post_init__(self) -> None:
        require_above_zero(self, "max_tiles", "scan_unroll")
        require_divides(
            "downsample", self.downsample, "a tile's side in patches", self.vit.tile_px // self.vit.patch_px
        )
        require_divides("fusion.num_heads", self.fusion.num_heads, "decoder.embed_dim", self.decoder.embed_dim)

    @property
    def tokens_per_tile(self) -> int:
        return (self.vit.tile_px // self.vit.patch_px // self.downsample) ** 2


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Device mesh; one axis may be -1 and takes what the others leave.

    Attributes:
      data: Devices over which the rows of a batch are split and parameters are copied.
      fsdp: Devices over which both the rows of a batch and the parameters are split.
      tensor: Devices over which each layer's parameters are split, with the rows copied.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            require(size == -1 or size > 0, f"{name} = {size}: give 1 or more, or -1 for the devices left")
        require(list(sizes.values()).count(-1) <= 1, f"data, fsdp, tensor = {(*sizes.values(),)}: only one may be -1")
