"""One E-DPO step: four ranked answers of Q questions on one image, as one tree.

    python -m bench.edpo_step --size small --questions 5

Trains decoder and adapter (`--lora R`: adapters of rank R on a frozen bfloat16 decoder) on the best answer over the
worst and the adjacent pair of smallest gap. The frozen ViT runs once. Reference log-probabilities are stored ones, as
in a run, which computes them once for all epochs; `--reference step` computes them in each step, as a trainer without a
store would.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx

from bench.measure import size_of
from bench.training import batches_of, measure_steps, stage, training_parser
from sage_jax.batch import TreeBatch
from sage_jax.config import PreferenceConfig
from sage_jax.losses.log_probs import answer_logps
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.training.objectives import PreferenceObjective, token_logps_of


@functools.partial(jax.jit, static_argnums=0)
def with_reference(graphdef: nnx.GraphDef[Sage], params: Params, batch: TreeBatch) -> TreeBatch:
    """The batch with the log-probabilities of its answers under these parameters."""
    model = merge(graphdef, params)
    hidden, _ = model(batch)
    logps = answer_logps(token_logps_of(model, batch, hidden)[0], batch.target_mask)
    return dataclasses.replace(batch, reference_logps=logps)


def main() -> None:
    """Measures and prints."""
    found = training_parser(__doc__, questions=5)
    found.add_argument("--reference", choices=["stored", "step"], default="stored")
    options = found.parse_args()
    size = size_of(options)
    train = stage(options, answers="ranked", preference=PreferenceConfig(beta=0.1))
    complete: Any = with_reference if options.reference == "step" else None
    objective, batches = PreferenceObjective(train.preference), batches_of(size, options, num_answers=4)
    about = {"reference": options.reference}
    measure_steps("edpo_step", size, options, train, objective, batches, complete, **about)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
