"""Greedy decoding of a fixed number of tokens: prefill with the first token, and each further token.

    python -m bench.generate --size small --rows 8

`--questions Q` asks Q questions of each image at once. `--facts 4` has the model write facts about each image first, on
the same prefill of the image, and answers all questions behind them. The weights may be narrower (`--weights int8`).
"""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from bench.measure import Watch, parser, peak_memory_gb, say, size_of
from bench.sizes import COMPARISON, IMAGE, make_model, make_tree
from sage_jax.allocator import restart_with_huge_pages
from sage_jax.config import MeshConfig
from sage_jax.generate import Responder, with_layers_apart
from sage_jax.lora_params import narrow
from sage_jax.models.decoding import Decoding
from sage_jax.models.lora import structure_of
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.sharding import make_mesh

NEVER = 5
"""Id that closes no answer of random weights, so that all have the same number of tokens."""


def main() -> None:
    """Measures and prints, for each number of rows."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, action="append", help="images at once; may be repeated")
    found.add_argument("--questions", type=int, default=1)
    found.add_argument("--facts", type=int, default=0, help="tokens of facts written about each image first")
    found.add_argument("--weights", choices=["float32", "bfloat16", "int8"], default="float32")
    options = found.parse_args()
    size = size_of(options)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        graphdef, params = make_model(size)
        if options.weights != "float32":
            params = narrow(params, options.weights)
            shapes = nnx.eval_shape(
                lambda: Sage(size.model, size.vocab_size, Placeholders(IMAGE, COMPARISON), nnx.Rngs(0))
            )
            graphdef = structure_of(shapes, params)
        graphdef, params = with_layers_apart(graphdef, params, mesh)
    short, long = (
        Responder(graphdef, params, mesh, Decoding(max_new_tokens=new, end_id=NEVER, verdict_ids=((8,), (9,))))
        for new in (1, size.new_tokens)
    )
    for rows in options.rows or [1, 8]:
        batch = make_tree(size, rows=rows, questions=options.questions, num_answers=0, seed=1)
        asking = make_tree(size, rows=rows, questions=1, num_answers=0, seed=1)

        def whole(batch=batch, asking=asking) -> None:
            if not options.facts:
                long.answer(batch)
                return
            opening = long.begin(batch)
            long.go_on_from(opening, asking, max_new_tokens=options.facts)
            long.go_on_from(opening, batch)

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
        say("generate", options, size, **about, **figures, peak_memory_gb=peak_memory_gb())


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
