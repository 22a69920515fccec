"""Model sizes of the benchmarks, and random data of their shapes: trees of images, questions and ranked answers.

`tiny` and `small` have the layers, widths and data of the peer's benchmarks, `1b` and `8b` the shapes of InternVL2-1B
and InternVL2-8B with AD-PL's lengths. Weights are random. Draws follow the peer's, so that both sides compute on the
same token ids, pixels and answer lengths.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import jax
import numpy as np
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import DecoderConfig, FusionConfig, MeshConfig, ModelConfig, VitConfig
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.models.vit import IMAGENET_DEVIATION, IMAGENET_MEAN
from sage_jax.parameters import Params, split
from sage_jax.sharding import make_mesh, param_shardings

BOS, EOS, IMAGE, FIRST_FREE = 1, 2, 3, 8
"""Token ids of the data; text is drawn from FIRST_FREE on."""

COMPARISON = 4
"""Id of a comparison placeholder; these prompts have none."""

SCORES: Final = (5.0, 3.6, 3.2, 1.0)
"""Judge scores of a question's answers: the first trains with the last, and the second with the third."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and the shape of its data.

    Attributes:
      model: The model.
      vocab_size: Its vocabulary.
      tiles: Tiles of an image.
      question_tokens: Tokens of a question.
      answer_tokens: Fewest and most tokens of an answer, closing token included.
      new_tokens: Tokens generated for an answer.
    """

    model: ModelConfig
    vocab_size: int
    tiles: int
    question_tokens: int = 64
    answer_tokens: tuple[int, int] = (48, 80)
    new_tokens: int = 64

    @property
    def image_tokens(self) -> int:
        """Image tokens of an image."""
        return self.tiles * self.model.tokens_per_tile


def _internvit_300m(tile_px: int = 448) -> VitConfig:
    return VitConfig(tile_px=tile_px, patch_px=14, num_layers=24, embed_dim=1024, num_heads=16, mlp_dim=4096)


SIZES: Final = {
    "tiny": Size(
        ModelConfig(
            vit=VitConfig(tile_px=112, patch_px=14, num_layers=4, embed_dim=128, num_heads=4, mlp_dim=512),
            decoder=DecoderConfig(
                num_layers=4, embed_dim=128, num_heads=4, num_kv_heads=2, mlp_dim=448, rope_theta=1e6
            ),
            fusion=FusionConfig(num_heads=4, num_distinct=32),
        ),
        vocab_size=2048,
        tiles=1,
    ),
    "small": Size(
        ModelConfig(
            vit=VitConfig(tile_px=224, patch_px=14, num_layers=12, embed_dim=384, num_heads=6, mlp_dim=1536),
            decoder=DecoderConfig(
                num_layers=12, embed_dim=512, num_heads=8, num_kv_heads=4, mlp_dim=1792, rope_theta=1e6
            ),
            fusion=FusionConfig(num_heads=8, num_distinct=32),
        ),
        vocab_size=32000,
        tiles=4,
    ),
    "1b": Size(
        ModelConfig(
            vit=_internvit_300m(),
            decoder=DecoderConfig(
                num_layers=24,
                embed_dim=896,
                num_heads=14,
                num_kv_heads=2,
                mlp_dim=4864,
                rope_theta=1e6,
                norm_eps=1e-6,
                qkv_bias=True,
            ),
            fusion=FusionConfig(num_heads=14, num_distinct=32),
        ),
        vocab_size=151655,
        tiles=7,
        question_tokens=100,
        answer_tokens=(80, 80),
    ),
    "8b": Size(
        ModelConfig(
            vit=_internvit_300m(),
            decoder=DecoderConfig(
                num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, mlp_dim=14336, rope_theta=1e6
            ),
            fusion=FusionConfig(num_heads=32, num_distinct=32),
        ),
        vocab_size=92553,
        tiles=7,
        question_tokens=100,
        answer_tokens=(80, 80),
    ),
}


def with_options(size: Size, *, tiles: int = 0, remat: str = "none", unroll: int = 1, attention: str = "") -> Size:
    """The size with other tiles an image (0 = as it is) and execution options of the model."""
    changes = {"remat": remat, "scan_unroll": unroll} | ({"attention": attention} if attention else {})
    tiles = tiles or size.tiles
    model = dataclasses.replace(size.model, max_tiles=tiles, **changes)
    return dataclasses.replace(size, model=model, tiles=tiles)


def make_model(size: Size) -> tuple[nnx.GraphDef[Sage], Params]:
    """A model of random weights, born on the devices."""
    placeholders = Placeholders(IMAGE, COMPARISON)

    def create() -> Sage:
        return Sage(size.model, size.vocab_size, placeholders, nnx.Rngs(0))

    graphdef, shapes = split(nnx.eval_shape(create))
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        return graphdef, jax.jit(lambda: split(create())[1], out_shardings=param_shardings(shapes, mesh))()


def draw_prompts(size: Size, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions, int32 (count, U), and pixels as the peer draws them, float32 (count, T, 3, H, W), standardised."""
    random = np.random.RandomState(seed)
    text = random.randint(FIRST_FREE, size.vocab_size, (count, size.question_tokens))
    text[:, 0] = BOS
    side = size.model.vit.tile_px
    pixels = random.standard_normal((count, size.tiles, 3, side, side)).astype(np.float32)
    return text.astype(np.int32), pixels


def draw_answers(size: Size, count: int, seed: int, num_answers: int = 4) -> list[list[np.ndarray]]:
    """Answers of each of `count` questions, token ids with the closing token last."""
    random = np.random.RandomState(seed + 1_000_003)
    shortest, longest = size.answer_tokens

    def answer() -> np.ndarray:
        length = random.randint(shortest, longest + 1) - 1
        return np.append(random.randint(FIRST_FREE, size.vocab_size, length), EOS).astype(np.int32)

    return [[answer() for _ in range(num_answers)] for _ in range(count)]


def as_tiles(pixels: np.ndarray) -> np.ndarray:
    """Standardised pixels (..., 3, H, W) as the nearest uint8 tiles (..., H, W, 3)."""
    last = np.moveaxis(pixels, -3, -1)
    return np.clip(np.rint((last * IMAGENET_DEVIATION + IMAGENET_MEAN) * 255.0), 0, 255).astype(np.uint8)


def make_tree(size: Size, *, rows: int, questions: int, num_answers: int, seed: int, round_to: int = 64) -> TreeBatch:
    """A batch of `rows` images with `questions` each, `num_answers` answers a question; 0 = prompts alone.

    No row has a reference or facts, as the peer's data has none. The length is that of the longest tree, rounded up.
    """
    text, pixels = draw_prompts(size, rows * questions, seed)
    drawn = draw_answers(size, rows * questions, seed, max(num_answers, 1))
    answers = [one[:num_answers] for one in drawn]
    image, asked = size.image_tokens, size.question_tokens
    lengths = [
        image + sum(asked + sum(map(len, one)) for one in answers[row * questions : (row + 1) * questions])
        for row in range(rows)
    ]
    length = -(-max(lengths) // round_to) * round_to
    batch = _empty(size, rows, questions, max(num_answers, 1), length)
    for row in range(rows):
        first = row * questions
        batch.tiles[row] = as_tiles(pixels[first])
        _write_row(batch, row, image, text[first : first + questions], answers[first : first + questions])
    return batch


def _empty(size: Size, rows: int, questions: int, answers: int, length: int) -> TreeBatch:
    side, longest = size.model.vit.tile_px, size.answer_tokens[1]
    ranked = (rows, questions, answers)
    return TreeBatch(
        tiles=np.zeros((rows, size.tiles, side, side, 3), np.uint8),
        tile_mask=np.ones((rows, size.tiles), np.bool_),
        reference_tiles=np.zeros((rows, 0, side, side, 3), np.uint8),
        reference_tile_mask=np.zeros((rows, 0), np.bool_),
        fact_ids=np.zeros((rows, 1, 1), np.int32),
        fact_mask=np.zeros((rows, 1, 1), np.bool_),
        token_ids=np.zeros((rows, length), np.int32),
        token_mask=np.zeros((rows, length), np.bool_),
        position_ids=np.zeros((rows, length), np.int32),
        question_index=np.full((rows, length), -1, np.int32),
        answer_index=np.full((rows, length), -1, np.int32),
        source_index=np.zeros((*ranked, longest), np.int32),
        target_ids=np.zeros((*ranked, longest), np.int32),
        target_mask=np.zeros((*ranked, longest), np.bool_),
        claim_mask=np.zeros((*ranked, longest), np.bool_),
        scores=np.broadcast_to(np.asarray(SCORES[:answers], np.float32), ranked).copy(),
        answer_mask=np.ones(ranked, np.bool_),
        question_ids=np.broadcast_to(np.arange(questions, dtype=np.int32), ranked[:2]).copy(),
        reference_logps=np.zeros(ranked, np.float32),
        token_labels=np.full((rows, size.image_tokens), -1, np.float32),
        token_names=np.full((rows, size.image_tokens, 1), -1, np.int32),
        record_index=np.arange(rows, dtype=np.int32),
        score_shift=np.zeros(rows, np.float32),
        prefix_slots=size.image_tokens,
        target_slots=length - size.image_tokens - questions * size.question_tokens,
        question_slots=size.question_tokens,
    )


def _write_row(batch: TreeBatch, row: int, image: int, questions: np.ndarray, answers: list[list[np.ndarray]]) -> None:
    """Lays a tree into a row: image, then each question with its answers, positions going on from the branch point."""
    ids, positions = batch.token_ids[row], batch.position_ids[row]
    ids[:image], positions[:image] = IMAGE, np.arange(image)
    at = image
    for number, (question, ranked) in enumerate(zip(questions, answers, strict=True)):
        end = at + len(question)
        ids[at:end], positions[at:end] = question, image + np.arange(len(question))
        batch.question_index[row, at : end + sum(map(len, ranked))] = number
        batch.source_index[row, number, :, 0] = end - 1
        at = end
        for rank, answer in enumerate(ranked):
            size = len(answer)
            ids[at : at + size] = answer
            positions[at : at + size] = image + len(question) + np.arange(size)
            batch.answer_index[row, at : at + size] = number * len(ranked) + rank
            batch.source_index[row, number, rank, 1:size] = at + np.arange(size - 1)
            batch.target_ids[row, number, rank, :size] = answer
            batch.target_mask[row, number, rank, :size] = True
            at += size
    batch.token_mask[row, :at] = True
