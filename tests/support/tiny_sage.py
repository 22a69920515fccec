"""A Sage of a few thousand random weights, none of them at zero or one, and random trees for it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import DecoderConfig, FusionConfig, ModelConfig, VitConfig
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params, split

VOCAB_SIZE = 48
PLACEHOLDERS = Placeholders(image=3, comparison=4)
FIRST_WORD = 8
TOKENS_PER_TILE = 4

TINY = ModelConfig(
    vit=VitConfig(tile_px=8, patch_px=2, num_layers=2, embed_dim=8, num_heads=2, mlp_dim=16),
    decoder=DecoderConfig(num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24),
    fusion=FusionConfig(num_heads=2, num_distinct=2, difference="residual", difference_places=True),
    compute_dtype="float32",
)


@functools.cache
def structure(config: ModelConfig = TINY) -> tuple[nnx.GraphDef[Sage], Params]:
    """The structure of a Sage and the shapes of its parameters; nothing is computed."""
    return split(nnx.eval_shape(lambda: Sage(config, VOCAB_SIZE, PLACEHOLDERS, nnx.Rngs(0))))


def random_params(shapes: Mapping[str, Any], seed: int = 0) -> Params:
    """Random values: scales around one, matrices that keep a vector's size, everything else around zero."""
    rng = np.random.default_rng(seed)
    params = {}
    for path, leaf in sorted(shapes.items()):
        noise = rng.standard_normal(leaf.shape)
        kind = path.rsplit("/", 1)[-1]
        values = 1.0 + 0.1 * noise if kind == "scale" else 0.3 * noise
        if kind == "kernel":
            values = noise * leaf.shape[-2] ** -0.5
        params[path] = jnp.asarray(values, jnp.float32)
    return params


@dataclasses.dataclass(frozen=True)
class Tree:
    """One row before it is laid out: word ids, and for each question its ids and its answers' ids."""

    num_tiles: int
    num_facts: int
    has_reference: bool
    words: list[int]
    questions: list[tuple[list[int], list[list[int]]]]


def random_tree(rng: np.random.Generator, *, num_questions: int, num_answers: int, longest: int = 4) -> Tree:
    """A tree of up to so many questions and answers, with at least one of each."""

    def words() -> list[int]:
        return rng.integers(FIRST_WORD, VOCAB_SIZE, int(rng.integers(1, longest + 1))).tolist()

    asked = [
        (words(), [words() for _ in range(int(rng.integers(1, num_answers + 1)))])
        for _ in range(int(rng.integers(1, num_questions + 1)))
    ]
    return Tree(int(rng.integers(1, 3)), int(rng.integers(0, 3)), bool(rng.random() < 0.5), words(), asked)


def batch_of(
    trees: list[Tree | None],
    rng: np.random.Generator,
    *,
    length: int = 56,
    num_questions: int = 2,
    num_answers: int = 3,
    answer_length: int = 4,
) -> TreeBatch:
    """Trees side by side, pixels and facts drawn at random; None is a padding row."""
    rows, slots = len(trees), (len(trees), num_questions, num_answers)
    real = np.array([tree is not None for tree in trees])
    tiles = np.array([0 if tree is None else tree.num_tiles for tree in trees])
    facts = np.array([0 if tree is None else tree.num_facts for tree in trees])
    shown = np.array([0 if tree is None or not tree.has_reference else tree.num_tiles for tree in trees])
    fact_mask = (np.arange(2) < facts[:, None])[..., None] & (np.arange(3) < rng.integers(1, 4, (rows, 2, 1)))
    batch = TreeBatch(
        tiles=rng.integers(0, 256, (rows, 2, 8, 8, 3), np.uint8),
        tile_mask=np.arange(2) < tiles[:, None],
        reference_tiles=rng.integers(0, 256, (rows, 2, 8, 8, 3), np.uint8),
        reference_tile_mask=np.arange(2) < shown[:, None],
        fact_ids=rng.integers(FIRST_WORD, VOCAB_SIZE, (rows, 2, 3)).astype(np.int32),
        fact_mask=fact_mask,
        token_ids=np.zeros((rows, length), np.int32),
        token_mask=np.zeros((rows, length), np.bool_),
        position_ids=np.zeros((rows, length), np.int32),
        question_index=np.full((rows, length), -1, np.int32),
        answer_index=np.full((rows, length), -1, np.int32),
        source_index=np.zeros((*slots, answer_length), np.int32),
        target_ids=np.zeros((*slots, answer_length), np.int32),
        target_mask=np.zeros((*slots, answer_length), np.bool_),
        claim_mask=np.zeros((*slots, answer_length), np.bool_),
        scores=np.zeros(slots, np.float32),
        answer_mask=np.zeros(slots, np.bool_),
        question_ids=np.full((rows, num_questions), -1, np.int32),
        reference_logps=np.zeros(slots, np.float32),
        token_labels=rng.choice(np.array([-1.0, 0.0, 0.05, 0.4], np.float32), (rows, 2 * TOKENS_PER_TILE)),
        token_names=np.random.default_rng(rows).integers(-1, VOCAB_SIZE, (rows, 2 * TOKENS_PER_TILE, 2), np.int32),
        record_index=np.where(real, np.arange(rows), -1).astype(np.int32),
        score_shift=np.zeros(rows, np.float32),
        prefix_slots=_room(_prefix_length(tree) for tree in trees if tree is not None),
        question_slots=_room(len(ids) for tree in trees if tree is not None for ids, _ in tree.questions),
    )
    for index, tree in enumerate(trees):
        if tree is not None:
            _write(batch, index, tree, rng)
    return batch


def _room(lengths: Iterable[int]) -> int:
    """More than the longest, in steps: batches with other numbers of slots compile anew."""
    return max(lengths, default=0) // 4 * 4 + 4


def _prefix_length(tree: Tree) -> int:
    """Tokens before the first question, the placeholders of two facts among them."""
    return TOKENS_PER_TILE * tree.num_tiles + 2 + len(tree.words)


def _write(batch: TreeBatch, index: int, tree: Tree, rng: np.random.Generator) -> None:
    written = 0

    def put(ids: list[int], position: int, question: int, answer: int) -> range:
        nonlocal written
        here = slice(written, written + len(ids))
        batch.token_ids[index, here] = ids
        batch.token_mask[index, here] = True
        batch.position_ids[index, here] = np.arange(position, position + len(ids))
        batch.question_index[index, here] = question
        batch.answer_index[index, here] = answer
        written += len(ids)
        return range(written - len(ids), written)

    num_image = TOKENS_PER_TILE * tree.num_tiles
    put([PLACEHOLDERS.image] * num_image + [PLACEHOLDERS.comparison] * tree.num_facts, 0, -1, -1)
    batch.token_ids[index, written : written + 2 - tree.num_facts] = PLACEHOLDERS.comparison  # of facts there are not
    written += 2 - tree.num_facts
    branch = num_image + tree.num_facts + len(tree.words)
    put(tree.words, branch - len(tree.words), -1, -1)
    for q, (question, answers) in enumerate(tree.questions):
        last = put(question, branch, q, -1)[-1]
        batch.question_ids[index, q] = q
        batch.source_index[index, q, :, 0] = last
        scores = np.sort(rng.choice(np.arange(1.0, 5.5, 0.5), len(answers)))[::-1]
        for a, answer in enumerate(answers):
            at = put(answer, branch + len(question), q, q * batch.answer_mask.shape[2] + a)
            size = len(answer)
            batch.source_index[index, q, a, 1:size] = at[:-1]
            batch.target_ids[index, q, a, :size] = answer
            batch.target_mask[index, q, a, :size] = True
            batch.claim_mask[index, q, a, :size] = np.arange(size) % 3 == 0
            batch.answer_mask[index, q, a] = True
            batch.scores[index, q, a] = scores[a]
            batch.reference_logps[index, q, a] = rng.normal(-8.0, 2.0)


def random_batch(seed: int, *, rows: int = 3, padding_rows: int = 0, **sizes: Any) -> TreeBatch:
    """Random trees of random shapes, the first with a reference and two tiles, the second without."""
    rng = np.random.default_rng(seed)
    most = {"num_questions": sizes.get("num_questions", 2), "num_answers": sizes.get("num_answers", 3)}
    trees: list[Tree | None] = []
    for row in range(rows):
        tree = random_tree(rng, **most)
        trees.append(dataclasses.replace(tree, num_tiles=2 - row % 2, has_reference=row % 2 == 0))
    return batch_of([*trees, *[None] * padding_rows], rng, **sizes)


def on_device(batch: TreeBatch) -> TreeBatch:
    """The batch as JAX arrays."""
    return jax.tree.map(jnp.asarray, batch)
