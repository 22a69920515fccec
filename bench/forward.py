"""One forward pass over prompts and answers, with logits at every token, as transformers computes them.

python -m bench.forward --size small --rows 1 --rows 4
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from bench.measure import parser, peak_flops, peak_memory_gb, profiled, say, size_of, timed
from bench.model_flops import attention_flops, model_flops
from bench.sizes import Size, make_model, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import MeshConfig
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.parameters import Params, merge
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.sharding import batch_sharding, make_mesh


def prompts(size: Size, rows: int, seed: int) -> TreeBatch:
    """One question of the size's tokens and as many again as an answer has, each row a sequence of its own."""
    return make_tree(longer(size), rows=rows, questions=1, num_answers=0, seed=seed, round_to=1)


def longer(size: Size) -> Size:
    """The size with an answer's tokens at the end of each question."""
    return dataclasses.replace(size, question_tokens=size.question_tokens + size.new_tokens)


def main() -> None:
    """Measures and prints, for each number of rows."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, action="append", help="sequences at once; may be repeated")
    options = found.parse_args()
    size = size_of(options)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        graphdef, params = with_unstacked_layers(*make_model(size), mesh)  # as a model lies that answers

        def logits_of(params: Params, batch: TreeBatch) -> jax.Array:
            model = merge(graphdef, params)
            return model.decoder.logits(model(batch)[0])

        forward = jax.jit(logits_of)
        for rows in options.rows or [1, 4]:
            batch = prompts(size, rows, seed=1)
            placed = jax.device_put(batch, batch_sharding(mesh))
            seconds, first = timed(
                lambda _, placed=placed: forward(params, placed), warmup=options.warmup, repeats=options.repeats
            )
            memory = peak_memory_gb()
            found_kinds = profiled(
                options, lambda _, placed=placed: forward(params, placed), sum(attention_flops(size, batch))
            )
            tokens = int(np.sum(batch.token_mask))
            flops = model_flops(size, batch, answer_tokens=tokens).forward()
            say(
                "forward",
                options,
                size,
                rows=rows,
                **seconds,
                first_seconds=first,
                tokens_per_s=round(tokens / seconds["seconds"], 1),
                model_gflops=round(flops / 1e9, 1),
                mfu=round(flops / seconds["seconds"] / peak_flops(options), 3),
                peak_memory_gb=memory,
                **found_kinds,
            )


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
