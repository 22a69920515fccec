"""Images of a folder, each asked Q questions beside a reference: verdict scores, answers and similarities of each.

    python -m bench.inspect_throughput --size small --images 16 --rows 8 --questions 5

The model's share of an inspection, without reading files and writing pictures: batches of `--rows` images, references
that several images share kept as ViT features (`inspect`), facts compared with the reference, all questions of an image
on one prefill (as `evaluate` asks them; `inspect` asks `inspect.questions` in turns behind the first). Random weights
close no answer, so that every answer has the size's `new_tokens`. `--scores-only` decodes nothing, as for a line that
sorts by score.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np

from bench.generate import NEVER
from bench.measure import Watch, parser, peak_memory_gb, say, size_of
from bench.sizes import COMPARISON, FIRST_FREE, Size, make_model, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.data.trees.encode import feature_form
from sage_jax.features.cached import CachedFeatures
from sage_jax.generation.options import Decoding
from sage_jax.generation.responder import Responder
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.models.sage import compute_dtype
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.sharding import make_mesh

FACTS, FACT_TOKENS = 3, 16
"""Facts of an image, each with a comparison embedding in its prompt, and tokens of a fact."""

BY_SLOT = ("token_ids", "token_mask", "position_ids", "question_index", "answer_index")
KEPT_BYTES = 512 * 10**6


def with_reference(batch: TreeBatch, size: Size, reference: np.ndarray, seed: int) -> TreeBatch:
    """The batch beside one reference, uint8 (T, H, W, 3), with facts, and comparison placeholders after the image."""
    rows, random = len(batch.token_ids), np.random.RandomState(seed)
    filled = {"token_ids": COMPARISON, "token_mask": True, "question_index": -1, "answer_index": -1, "position_ids": 0}
    at = [size.image_tokens] * FACTS
    wider = {name: np.insert(getattr(batch, name), at, filled[name], axis=1) for name in BY_SLOT}
    wider["position_ids"][:, size.image_tokens :] += FACTS
    wider["position_ids"][:, size.image_tokens : size.image_tokens + FACTS] = size.image_tokens + np.arange(FACTS)
    return dataclasses.replace(
        batch,
        **wider,
        source_index=batch.source_index + FACTS,
        prefix_slots=batch.prefix_slots + FACTS,
        reference_tiles=np.broadcast_to(reference, (rows, *reference.shape)).copy(),
        reference_tile_mask=np.ones((rows, size.tiles), np.bool_),
        fact_ids=random.randint(FIRST_FREE, size.vocab_size, (rows, FACTS, FACT_TOKENS)).astype(np.int32),
        fact_mask=np.ones((rows, FACTS, FACT_TOKENS), np.bool_),
    )


def folder(size: Size, options: argparse.Namespace, seed: int) -> list[TreeBatch]:
    """The batches of a folder, one reference a batch, taken in turn."""
    side = size.model.vit.tile_px
    shown = np.random.RandomState(seed).randint(0, 256, (options.references, size.tiles, side, side, 3), np.uint8)
    rows, questions = options.rows, options.questions
    return [
        with_reference(
            make_tree(size, rows=rows, questions=questions, num_answers=0, seed=seed + number),
            size,
            shown[number % options.references],
            seed,
        )
        for number in range(options.images // rows)
    ]


def main() -> None:
    """Measures and prints."""
    found = parser(__doc__)
    found.add_argument("--images", type=int, default=16, help="images of the folder, a multiple of --rows")
    found.add_argument("--rows", type=int, default=8, help="images at once")
    found.add_argument("--questions", type=int, default=5)
    found.add_argument("--references", type=int, default=1, help="different references")
    found.add_argument("--scores-only", action="store_true")
    options = found.parse_args()
    if options.images % options.rows:
        found.error(f"--images {options.images} is no multiple of --rows {options.rows}")
    size = size_of(options)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        graphdef, params = with_unstacked_layers(*make_model(size), mesh)
    decoding = Decoding(max_new_tokens=size.new_tokens, end_id=NEVER, verdict_ids=((8,), (9,)))
    responder = Responder(graphdef, params, mesh, decoding)
    batches = folder(size, options, seed=1)

    def inspect() -> int:
        kept = CachedFeatures(
            responder.vit_features,
            form=feature_form(size.model, np.dtype(compute_dtype(size.model))),
            tiles_at_once=size.tiles,
            capacity=KEPT_BYTES,
            images=("reference_tiles",),
        )
        for batch in batches:
            shown = kept.put_into(batch)
            result = responder.scores(shown) if options.scores_only else responder.answer(shown)
            assert np.isfinite(result.verdict_score).all()
        return kept.num_computed

    for _ in range(max(options.warmup, 1)):
        inspect()
    watch, computed = Watch(), 0
    for _ in range(options.repeats):
        computed = inspect()
        watch.mark()
    summary = watch.summary()
    say(
        "inspect_throughput",
        options,
        size,
        images=options.images,
        rows=options.rows,
        questions=options.questions,
        references=options.references,
        references_computed=computed,
        new_tokens=0 if options.scores_only else size.new_tokens,
        **summary,
        images_per_s=round(options.images / summary["seconds"], 3),
        peak_memory_gb=peak_memory_gb(),
    )


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
