"""Greedy decoding of a fixed number of tokens: prefill with the first token, and each further token.

    python -m bench.generate --size small --rows 8

`--questions Q` asks Q questions of each image at once. `--facts 4` has the model write facts about each image first, on
the same prefill of the image, and answers all questions behind them. The weights may be narrower (`--weights int8`).

`--continuous IMAGES` answers so many images with answers of varied length twice, in batches of `--rows` and in as many
rows that take in the next images as they become free, and prints both rates, prefill and all, and both shares of
steps x rows that gave a token of an answer, which do not depend on the machine. Tokens are drawn, all nearly alike in
probability, and some of them close: lengths are geometric, in the mean a quarter of the size's `new_tokens`.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from bench.measure import Watch, parser, peak_memory_gb, profiled, say, size_of
from bench.sizes import COMPARISON, FIRST_FREE, IMAGE, Size, make_model, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.generation.continuous_batching import ContinuousBatching
from sage_jax.generation.options import Decoding
from sage_jax.generation.responder import Responder
from sage_jax.generation.sampling import Sampling
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.models.lora import structure_of
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.sharding import make_mesh
from sage_jax.training.lora_params import narrow

NEVER = 5
"""Id that closes no answer of random weights, so that all have the same number of tokens."""


def images_of(size: Size, *, images: int, rows: int, questions: int) -> list[tuple[TreeBatch, np.ndarray]]:
    """Images in batches of so many rows, the last one filled up, and the seeds of their draws."""
    found = []
    for start in range(0, images, rows):
        trees = [make_tree(size, rows=1, questions=questions, num_answers=0, seed=start + row) for row in range(rows)]
        index = np.arange(start, start + rows, dtype=np.int32)
        batch = jax.tree.map(lambda *each: np.concatenate(each), *trees)
        found.append((dataclasses.replace(batch, record_index=np.where(index < images, index, -1)), index))
    return found


def closing_early(size: Size) -> Decoding:
    """Tokens drawn nearly alike, of which so many close that answers have a quarter of `new_tokens` in the mean."""
    closing = size.vocab_size * 4 // size.new_tokens
    return Decoding(
        max_new_tokens=size.new_tokens,
        end_id=NEVER,
        verdict_ids=((8,), (9,)),
        stop_ids=tuple(range(FIRST_FREE, FIRST_FREE + closing)),
        sampling=Sampling(temperature=1000.0),
    )


def measure_continuous(options: argparse.Namespace, size: Size, responder: Responder, rows: int) -> None:
    """Measures and prints answers in batches and in rows that never wait for each other."""
    images, questions = options.continuous, options.questions
    batches, groups = (
        images_of(size, images=images, rows=each, questions=questions)
        for each in (rows, responder.rows(max(rows // 8, 1)))
    )

    def in_batches() -> np.ndarray:
        return np.concatenate([responder.answer(*batch).token_ids for batch in batches])[:images]

    def continuously() -> tuple[np.ndarray, int]:
        stream = ContinuousBatching(responder, num_rows=rows)
        return np.stack([answers.token_ids for _, answers in stream.answers(groups)]), stream.steps

    answers, (found, steps) = in_batches(), continuously()
    for _ in range(options.warmup - 1):
        in_batches()
        continuously()
    closed = responder.decoding.closes(answers)
    lengths = np.where(closed.any(axis=-1), closed.argmax(axis=-1) + 1, size.new_tokens)  # images Q
    longest = lengths.max(axis=1)
    together = sum(int(longest[start : start + rows].max()) - 1 for start in range(0, images, rows))
    summaries = []
    for measured in (in_batches, continuously):
        watch = Watch()
        for _ in range(options.repeats):
            measured()
            watch.mark()
        summaries.append((watch.summary(), peak_memory_gb()))
    (before, memory_before), (summary, memory) = summaries
    tokens, slots = int(lengths.sum()), rows * questions
    say(
        "generate",
        options,
        size,
        rows=rows,
        questions=questions,
        weights=options.weights,
        continuous=images,
        tokens=tokens,
        same_answers=round(float((found == answers).all(axis=(1, 2)).mean()), 3),
        **summary,
        seconds_in_batches=before["seconds"],
        tokens_per_s=round(tokens / summary["seconds"], 1),
        tokens_per_s_in_batches=round(tokens / before["seconds"], 1),
        steps=steps,
        steps_in_batches=together,
        useful=round((tokens - lengths.size) / (steps * slots), 3),
        useful_in_batches=round((tokens - lengths.size) / (together * slots), 3),
        peak_memory_gb=memory,
        peak_memory_gb_in_batches=memory_before,
    )


def measure_fixed(options: argparse.Namespace, size: Size, short: Responder, long: Responder, rows: int) -> None:
    """Measures and prints answers of a fixed number of tokens.

    Args:
      short, long: Responders that give one token and the size's `new_tokens`.
    """
    batch = make_tree(size, rows=rows, questions=options.questions, num_answers=0, seed=1)
    asking = make_tree(size, rows=rows, questions=1, num_answers=0, seed=1)

    def whole() -> None:
        if not options.facts:
            long.answer(batch)
            return
        prefix = long.encode_prefix(batch)
        long.answer_from(prefix, asking, max_new_tokens=options.facts)
        long.answer_from(prefix, batch)

    for _ in range(max(options.warmup, 1)):
        short.answer(batch)
        whole()
    firsts, differences = [], []
    watch = Watch()
    for _ in range(options.repeats):  # in turn, so that the difference is of neighbours
        short.answer(batch)
        firsts.append(watch.mark())
        whole()
        differences.append(watch.mark() - firsts[-1])
    summary, first = watch.summary(slice(1, None, 2)), float(np.median(firsts))
    answers = rows * options.questions
    about = {"rows": rows, "questions": options.questions, "facts": options.facts, "weights": options.weights}
    figures = {"first_token_seconds": round(first, 5), "new_tokens": size.new_tokens, **summary}
    figures["tokens_per_s"] = round(answers * size.new_tokens / summary["seconds"], 1)
    if not options.facts:
        each = float(np.median(differences)) / (size.new_tokens - 1)
        figures["seconds_per_decode_step"] = round(each, 5)
        figures["decode_tokens_per_s"] = round(answers / each, 1)
    memory = peak_memory_gb()
    found = profiled(options, lambda _: whole())
    say("generate", options, size, **about, **figures, peak_memory_gb=memory, **found)


def answering_model(size: Size, weights: str, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef[Any], Params]:
    """A model as it lies when it answers: layers apart, weights of the given type."""
    with jax.set_mesh(mesh):
        graphdef, params = make_model(size)
        if weights != "float32":
            params = narrow(params, weights)
            shapes = nnx.eval_shape(
                lambda: Sage(size.model, size.vocab_size, Placeholders(IMAGE, COMPARISON), nnx.Rngs(0))
            )
            graphdef = structure_of(shapes, params)
        return with_unstacked_layers(graphdef, params, mesh)


def main() -> None:
    """Measures and prints, for each number of rows."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, action="append", help="images at once; may be repeated")
    found.add_argument("--questions", type=int, default=1)
    found.add_argument("--facts", type=int, default=0, help="tokens of facts written about each image first")
    found.add_argument("--continuous", type=int, default=0, help="images that are taken in as rows become free")
    found.add_argument("--weights", choices=["float32", "bfloat16", "int8"], default="float32")
    options = found.parse_args()
    size, mesh = size_of(options), make_mesh(MeshConfig())
    graphdef, params = answering_model(size, options.weights, mesh)
    if options.continuous:
        responder = Responder(graphdef, params, mesh, closing_early(size))
        for rows in options.rows or [8]:
            measure_continuous(options, size, responder, rows)
        return
    short, long = (
        Responder(graphdef, params, mesh, Decoding(max_new_tokens=new, end_id=NEVER, verdict_ids=((8,), (9,))))
        for new in (1, size.new_tokens)
    )
    for rows in options.rows or [1, 8]:
        measure_fixed(options, size, short, long, rows)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
