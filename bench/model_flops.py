"""Operations that a model needs for a batch, by formula: what MFU is a share of.

A multiplication and an addition count one each. With P the weights of a part's matrices, t its tokens, and pairs the
(query, key) pairs that a mask lets through:

    ViT             2 P t + 4 t^2 width layers            a tile
    decoder         2 P t + 4 pairs heads head_dim layers
    output layer    2 width vocabulary (answer tokens)

A backward pass costs as much again for what the gradient passes through, and once more for each weight that trains.
Padding, hidden pairs and what rematerialisation computes again count nothing: they are overhead, which MFU is to show.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.sizes import Size
from sage_jax.batch import TreeBatch


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one forward pass over a batch, by part."""

    vision: float
    adapter: float
    decoder: float
    output: float

    def forward(self) -> float:
        """One pass without gradient."""
        return self.vision + self.adapter + self.decoder + self.output

    def step(self, *, train_vision: bool = False, lora: bool = False) -> float:
        """A step that trains decoder, output layer and adapter (LoRA: gradients pass through), and the ViT if asked."""
        passes = 2.0 if lora else 3.0
        return self.vision * (3.0 if train_vision else 1.0) + passes * (self.adapter + self.decoder + self.output)


def model_flops(size: Size, batch: TreeBatch, *, answer_tokens: float | None = None) -> Flops:
    """Operations of a forward pass.

    Args:
      answer_tokens: Tokens whose logits are needed; those of the batch's answers by default.
    """
    vit, decoder, model = size.model.vit, size.model.decoder, size.model
    patches = (vit.tile_px // vit.patch_px) ** 2 + 1
    matrices = vit.num_layers * (4 * vit.embed_dim**2 + 2 * vit.embed_dim * vit.mlp_dim)
    tiles = float(np.sum(batch.tile_mask) + np.sum(batch.reference_tile_mask))
    embed = 2.0 * 3 * vit.patch_px**2 * vit.embed_dim * (patches - 1)
    of_vision, of_decoder = attention_flops(size, batch)
    vision = tiles * (2.0 * matrices * patches + embed) + of_vision
    folded = vit.embed_dim * model.downsample**2
    adapter = tiles * model.tokens_per_tile * 2.0 * (folded + decoder.embed_dim) * decoder.embed_dim
    head = decoder.width_of_head
    columns = (2 * decoder.num_heads + 2 * decoder.num_kv_heads) * head
    weights = decoder.num_layers * decoder.embed_dim * (columns + 3 * decoder.mlp_dim)
    tokens = float(np.sum(batch.token_mask))
    scored = float(np.sum(batch.target_mask)) if answer_tokens is None else answer_tokens
    output = 2.0 * decoder.embed_dim * size.vocab_size * scored
    return Flops(vision, adapter, 2.0 * weights * tokens + of_decoder, output)


def attention_flops(size: Size, batch: TreeBatch) -> tuple[float, float]:
    """Operations of attention in a forward pass, those of `model_flops` too: of the ViT, and of the decoder."""
    vit, decoder = size.model.vit, size.model.decoder
    patches = (vit.tile_px // vit.patch_px) ** 2 + 1
    tiles = float(np.sum(batch.tile_mask) + np.sum(batch.reference_tile_mask))
    heads = decoder.num_heads * decoder.width_of_head
    vision = tiles * 4.0 * patches**2 * vit.embed_dim * vit.num_layers
    return vision, 4.0 * float(visible_pairs(batch)) * heads * decoder.num_layers


def step_attention_flops(size: Size, batch: TreeBatch, *, train_vision: bool) -> float:
    """Operations of attention in a training step; its weights, which kernels compute again, count once."""
    vision, decoder = attention_flops(size, batch)
    return vision * (3.0 if train_vision else 1.0) + 3.0 * decoder


def visible_pairs(batch: TreeBatch) -> int:
    """(query, key) pairs of a batch that its trees let through.

    A prefix of p tokens has p (p + 1) / 2; a question of u tokens u p + u (u + 1) / 2; its answer of l tokens
    l (p + u) + l (l + 1) / 2.
    """
    total = 0
    for question, answer, mask in zip(batch.question_index, batch.answer_index, batch.token_mask, strict=True):
        prefix = int(np.sum(mask & (question < 0)))
        total += prefix * (prefix + 1) // 2
        for number in np.unique(question[mask & (question >= 0)]):
            own = mask & (question == number)
            asked = int(np.sum(own & (answer < 0)))
            total += asked * prefix + asked * (asked + 1) // 2
            for each in np.unique(answer[own & (answer >= 0)]):
                length = int(np.sum(own & (answer == each)))
                total += length * (prefix + asked) + length * (length + 1) // 2
    return total
