"""Model sizes of the peer and their random data. Imports numpy alone.

The numbers repeat those of `bench/sizes.py`, which needs jax: the peer's environment may be without it. A test holds
both equal, parameters and operations included.
"""

from __future__ import annotations

import dataclasses
from typing import Final, TypedDict

import numpy as np

PAD, BOS, EOS, IMAGE, FIRST_FREE = 0, 1, 2, 3, 8
"""Token ids of the data; text is drawn from FIRST_FREE on."""

PAIRS: Final = ((0, 3), (1, 2))
"""(chosen, rejected) ranks of a question's four answers: best over worst, and one adjacent pair."""


@dataclasses.dataclass(frozen=True)
class PeerSize:
    """A model and the shape of its data.

    Attributes:
      tile_px, patch_px: Sides of a tile and of a patch, px.
      tiles: Tiles of an image.
      vit_layers, vit_dim, vit_heads, vit_mlp: Layers and widths of the ViT.
      layers, dim, heads, kv_heads, mlp: Layers and widths of the decoder.
      vocab_size: Tokens of the vocabulary.
      family: Architecture of the decoder in transformers: `llama` or `qwen2`, which has biases on q, k and v.
      norm_eps: Epsilon of the decoder's norms.
      question_tokens: Tokens of a question.
      answer_tokens: Fewest and most tokens of an answer, closing token included.
      new_tokens: Tokens generated for an answer.
    """

    tile_px: int
    tiles: int
    vit_layers: int
    vit_dim: int
    vit_heads: int
    vit_mlp: int
    layers: int
    dim: int
    heads: int
    kv_heads: int
    mlp: int
    vocab_size: int
    patch_px: int = 14
    family: str = "llama"
    norm_eps: float = 1e-5
    question_tokens: int = 64
    answer_tokens: tuple[int, int] = (48, 80)
    new_tokens: int = 64

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of a tile: four patches make one."""
        return (self.tile_px // self.patch_px // 2) ** 2

    @property
    def image_tokens(self) -> int:
        """Image tokens of an image."""
        return self.tiles * self.tokens_per_tile


SIZES: Final = {
    "tiny": PeerSize(
        tile_px=112,
        tiles=1,
        vit_layers=4,
        vit_dim=128,
        vit_heads=4,
        vit_mlp=512,
        layers=4,
        dim=128,
        heads=4,
        kv_heads=2,
        mlp=448,
        vocab_size=2048,
    ),
    "small": PeerSize(
        tile_px=224,
        tiles=4,
        vit_layers=12,
        vit_dim=384,
        vit_heads=6,
        vit_mlp=1536,
        layers=12,
        dim=512,
        heads=8,
        kv_heads=4,
        mlp=1792,
        vocab_size=32000,
    ),
    "1b": PeerSize(
        tile_px=448,
        tiles=7,
        vit_layers=24,
        vit_dim=1024,
        vit_heads=16,
        vit_mlp=4096,
        layers=24,
        dim=896,
        heads=14,
        kv_heads=2,
        mlp=4864,
        vocab_size=151655,
        family="qwen2",
        norm_eps=1e-6,
        question_tokens=100,
        answer_tokens=(80, 80),
    ),
    "8b": PeerSize(
        tile_px=448,
        tiles=7,
        vit_layers=24,
        vit_dim=1024,
        vit_heads=16,
        vit_mlp=4096,
        layers=32,
        dim=4096,
        heads=32,
        kv_heads=8,
        mlp=14336,
        vocab_size=92553,
        question_tokens=100,
        answer_tokens=(80, 80),
    ),
}


class PairExample(TypedDict):
    """A prompt with its image and two answers, as a trainer of plain preference pairs takes it."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Groups:
    """Questions with their images and ranked answers.

    Attributes:
      prompt_ids: Image and question tokens, int64 (questions, tokens).
      pixels: Standardised tiles, float32 (questions, tiles, 3, height, width).
      answers: Four answers of each question as token ids, best first, closing token last.
    """

    prompt_ids: np.ndarray
    pixels: np.ndarray
    answers: list[list[list[int]]]

    def pairs(self) -> list[PairExample]:
        """Both preference pairs of each question."""
        return [
            {"prompt": ids.tolist(), "chosen": ranked[best], "rejected": ranked[worse], "image": image}
            for ids, image, ranked in zip(self.prompt_ids, self.pixels, self.answers, strict=True)
            for best, worse in PAIRS
        ]


def make_prompts(size: PeerSize, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and question tokens, int64 (count, tokens), and pixels, float32 (count, tiles, 3, height, width)."""
    random = np.random.RandomState(seed)
    text = random.randint(FIRST_FREE, size.vocab_size, (count, size.question_tokens))
    text[:, 0] = BOS
    ids = np.concatenate([np.full((count, size.image_tokens), IMAGE), text], axis=1)
    pixels = random.standard_normal((count, size.tiles, 3, size.tile_px, size.tile_px)).astype(np.float32)
    return ids.astype(np.int64), pixels


def make_groups(size: PeerSize, count: int, seed: int) -> Groups:
    """`count` questions, each with an image of its own and four answers."""
    ids, pixels = make_prompts(size, count, seed)
    random = np.random.RandomState(seed + 1_000_003)
    shortest, longest = size.answer_tokens

    def answer() -> list[int]:
        length = random.randint(shortest, longest + 1) - 1
        return [*random.randint(FIRST_FREE, size.vocab_size, length).tolist(), EOS]

    return Groups(ids, pixels, [[answer() for _ in range(4)] for _ in range(count)])
