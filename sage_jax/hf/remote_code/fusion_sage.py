# SPDX-License-Identifier: Apache-2.0
"""SAGE's own part in torch: how a test image differs from its reference, and what facts read of it.

Modules and parameters are named as the tensors of sage_fusion.safetensors. Letters of shapes: B rows, M image tokens,
F facts, J tokens of a fact, D width of the decoder, N heads, X width of a head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a test image differs from its reference.

    Attributes:
      similarity: Of each test token to the reference, -1..1; 1 at padding and without a reference [B, M].
      distinct_mask: True at the tokens that the facts read: those of lowest similarity, or all without a reference.
      match: Reference token that each test token was compared with.
    """

    similarity: torch.Tensor
    distinct_mask: torch.Tensor
    match: torch.Tensor


def compare(
    test: torch.Tensor,
    reference: torch.Tensor,
    test_mask: torch.Tensor,
    reference_mask: torch.Tensor,
    *,
    num_distinct: int,
    kind: str,
) -> Comparison:
    """Cosine similarity of each test token [B, M, D] to the reference [B, M, D], and the tokens where it is lowest.

        max      the best match anywhere in the reference
        min      the worst match
        aligned  the token at the same place

    Masks are True at real tokens. A row whose reference is all masked has none. Ties go to the earlier token.
    """
    test_unit, reference_unit = (
        x.float() / (torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True) + 1e-6) for x in (test, reference)
    )
    has_reference = reference_mask.any(dim=-1, keepdim=True)
    if kind == "aligned":
        similarity = (test_unit * reference_unit).sum(dim=-1)
        match = torch.arange(test.shape[1], device=test.device).expand(similarity.shape)
        compared = test_mask & reference_mask
    else:
        sign = 1.0 if kind == "max" else -1.0
        pairs = sign * torch.einsum("bmd,bnd->bmn", test_unit, reference_unit)
        best, match = pairs.masked_fill(~reference_mask[:, None], -torch.inf).max(dim=-1)
        similarity, compared = sign * best, test_mask & has_reference
    similarity = torch.where(compared, similarity, torch.ones_like(similarity))
    order = similarity.masked_fill(~test_mask, torch.inf)
    lowest = order.sort(dim=-1, stable=True).indices[:, : min(num_distinct, test.shape[1])]
    distinct = torch.zeros_like(test_mask).scatter(1, lowest, True) & test_mask
    return Comparison(similarity, torch.where(has_reference, distinct, test_mask), match)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, num_kv_heads: int
) -> torch.Tensor:
    """softmax(q k / sqrt(X)) v of [B, S, N, X] and [B, T, R, X], softmax in float32; True in `mask` [B, S, T] is seen.

    N query heads share R key and value heads, in order. A query that sees nothing attends to all alike.
    """
    groups = queries.shape[2] // num_kv_heads
    keys, values = (x.repeat_interleave(groups, dim=2) for x in (keys, values))
    logits = torch.einsum("bsnx,btnx->bnst", queries * queries.shape[-1] ** -0.5, keys).float()
    logits = logits.masked_fill(~mask[:, None], torch.finfo(torch.float32).min)
    weights = logits.softmax(dim=-1).to(values.dtype)
    return torch.einsum("bnst,btnx->bsnx", weights, values).flatten(2)


class RmsNorm(nn.Module):
    """x / rms(x) * weight, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised input."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def rotary(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary position embedding of [B, S, N, X] at positions 0, 1, ..., pairing channel i with i + X / 2."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None, None] * frequencies
    first, second = x.float().split(half, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class TextAttention(nn.Module):
    """Grouped-query self-attention; one projection, its rows grouped by key/value head: queries, key, value."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.sizes = sizes
        width, head_dim = sizes["embed_dim"], sizes["head_dim"]
        rows = (sizes["num_heads"] + 2 * sizes["num_kv_heads"]) * head_dim
        self.qkv = nn.Linear(width, rows, bias=sizes["qkv_bias"])
        self.out = nn.Linear(sizes["num_heads"] * head_dim, width, bias=False)
        if sizes["qk_norm"]:
            self.query_norm = RmsNorm(head_dim, sizes["norm_eps"])
            self.key_norm = RmsNorm(head_dim, sizes["norm_eps"])

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attention output [B, S, D]."""
        sizes, (batch, length, _) = self.sizes, x.shape
        slots = sizes["num_heads"] // sizes["num_kv_heads"] + 2
        grouped = self.qkv(x).view(batch, length, sizes["num_kv_heads"], slots, sizes["head_dim"])
        queries, keys, values = grouped[:, :, :, :-2].flatten(2, 3), grouped[:, :, :, -2], grouped[:, :, :, -1]
        if sizes["qk_norm"]:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries, keys = rotary(queries, sizes["rope_theta"]), rotary(keys, sizes["rope_theta"])
        return self.out(attend(queries, keys, values, mask, sizes["num_kv_heads"]))


class TextMlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.gate = nn.Linear(sizes["embed_dim"], sizes["mlp_dim"], bias=False)
        self.up = nn.Linear(sizes["embed_dim"], sizes["mlp_dim"], bias=False)
        self.down = nn.Linear(sizes["mlp_dim"], sizes["embed_dim"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """MLP output."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class TextBlock(nn.Module):
    """Attention and MLP, each normalised first."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(sizes["embed_dim"], sizes["norm_eps"])
        self.attention = TextAttention(sizes)
        self.mlp_norm = RmsNorm(sizes["embed_dim"], sizes["norm_eps"])
        self.mlp = TextMlp(sizes)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The residual stream after the block."""
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class TextDecoder(nn.Module):
    """The decoder as it was before stage 1, which reads the facts: hidden states without an output layer."""

    def __init__(self, sizes: dict[str, Any], vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, sizes["embed_dim"])
        self.blocks = nn.ModuleList(TextBlock(sizes) for _ in range(sizes["num_layers"]))
        self.norm = RmsNorm(sizes["embed_dim"], sizes["norm_eps"])

    def forward(self, ids: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        """Normalised hidden states [B, J, D] of token ids [B, J], padding at the end."""
        length = ids.shape[1]
        causal = torch.ones((length, length), dtype=torch.bool, device=ids.device).tril()
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, causal & token_mask[:, None])
        return self.norm(x)


class FactEncoder(nn.Module):
    """Frozen text encoder: a fact sentence to one vector, the mean over its tokens.

    `embedding_mean` takes the tokens' embeddings, `hidden_mean` the last hidden states of a decoder.
    """

    def __init__(self, kind: str, sizes: dict[str, Any], vocab_size: int) -> None:
        super().__init__()
        if kind == "hidden_mean":
            self.decoder = TextDecoder(sizes, vocab_size)
        else:
            self.embedding = nn.Embedding(vocab_size, sizes["embed_dim"])
        self.kind = kind

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Vectors [B, F, D] of facts' token ids [B, F, J]; zeros for a fact without a token."""
        if self.kind == "hidden_mean":
            states = self.decoder(ids.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, ids.shape[:2])
        else:
            states = self.embedding(ids)
        return fact_means(states, mask)


def fact_means(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean [B, F, D] over each fact's real tokens of [B, F, J, D]; zeros for a fact without any."""
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=2) / weights.sum(dim=2).clamp(min=1.0)


class FusionAttention(nn.Module):
    """Multi-head attention from facts to patches."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, facts: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What each fact [B, F, D] reads from the patches [B, M, D] that `mask` [B, M] shows it."""
        queries, keys, values = (
            project(x).unflatten(-1, (self.num_heads, -1))
            for project, x in ((self.query, facts), (self.key, patches), (self.value, patches))
        )
        seen = mask[:, None].expand(-1, facts.shape[1], -1)
        return self.out(attend(queries, keys, values, seen, self.num_heads))


class AddedHead(nn.Module):
    """x + linear(norm(x)), on image or question embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The embeddings [..., D] with the head's output added."""
        return x + self.linear(self.norm(x))


class FactFusion(nn.Module):
    """Comparison embeddings of an image: each fact's reading of the distinct patches.

    With the option `head` at `all` it also holds the heads of images and questions, `image_head` and `question_head`.
    """

    def __init__(self, options: dict[str, Any], width: int, num_places: int) -> None:
        """`options`: fields of the fusion's config; `num_places`: image tokens of a tile."""
        super().__init__()
        self.options = options
        self.attention = FusionAttention(width, options["num_heads"])
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head = nn.Linear(width, width)
        if options["difference"] != "none":
            self.difference = nn.Parameter(torch.zeros(width))
        if options["difference_places"]:
            self.places = nn.Parameter(torch.zeros(num_places, width))
        if options["difference"] == "residual":
            self.residual = nn.Linear(width, width, bias=False)
        if options["mark_image"]:
            self.mark = nn.Linear(width, width, bias=False)
        if options["head"] == "all":
            self.image_head, self.question_head = AddedHead(width), AddedHead(width)

    def forward(
        self,
        facts: torch.Tensor,
        test: torch.Tensor,
        reference: torch.Tensor,
        comparison: Comparison,
        has_reference: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Comparison embeddings [B, F, D], and the image tokens [B, M, D] that the decoder is shown.

        Without a reference the facts read the whole test image.
        """
        patches = shown = test
        if self.options["difference"] != "none":
            unlike = self.unlike(test, reference, comparison, has_reference)
            patches = test + unlike
            shown = test + self.mark(unlike) if self.options["mark_image"] else test
        read = self.attention(facts, patches, comparison.distinct_mask)
        return self.head(self.norm(read)), shown

    def unlike(
        self, test: torch.Tensor, reference: torch.Tensor, comparison: Comparison, has_reference: torch.Tensor
    ) -> torch.Tensor:
        """What is added to each token [B, M, D] for its difference from the reference."""
        share = (1.0 - comparison.similarity).to(test.dtype)[..., None]
        unlike = share * self.difference
        if self.options["difference_places"]:
            unlike = unlike + share * self.places.repeat(test.shape[1] // len(self.places), 1)
        if self.options["difference"] == "residual":
            matched = reference.gather(1, comparison.match[..., None].expand_as(test))
            unlike = unlike + self.residual((test - matched) * has_reference[:, None, None])
        return unlike


class Convolution(nn.Module):
    """2-D convolution, the picture padded as JAX pads it, then LayerNorm over channels and GELU."""

    def __init__(self, size: int, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # As it was stored: output, input, column, row.
        self.weight = nn.Parameter(torch.zeros(width_out, width_in, size, size))
        self.norm = nn.LayerNorm(width_out, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [A, D, H / stride, W / stride] of pictures [A, C, H, W]."""
        size, padding = self.weight.shape[-1], []
        for length in (x.shape[3], x.shape[2]):
            whole = max((-(-length // self.stride) - 1) * self.stride + size - length, 0)
            padding += [whole // 2, whole - whole // 2]
        out = nn.functional.conv2d(nn.functional.pad(x, padding), self.weight.transpose(2, 3), stride=self.stride)
        return nn.functional.gelu(self.norm(out.movedim(1, -1))).movedim(-1, 1)


class ConvStem(nn.Module):
    """What overlapping convolutions see of each patch, which is added to its embedding."""

    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        channels = 3 * width // 8
        layers = [Convolution(7, 3, channels, 4), Convolution(3, channels, channels, 1)]
        for _ in range(patch_px.bit_length() - 3):
            wider = min(2 * channels, width)
            layers += [Convolution(3, channels, wider, 2), Convolution(3, wider, wider, 1)]
            channels = wider
        self.convolutions = nn.ModuleList(layers)
        self.out = nn.Linear(channels, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features [A, P, D] of tiles [A, 3, H, W], row by row."""
        x = pixels
        for convolution in self.convolutions:
            x = convolution(x)
        return self.out(x.flatten(2).transpose(1, 2))
