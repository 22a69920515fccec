"""One E-DPO step: N ranked answers of Q questions on one image, as one tree.

    python -m bench.edpo_step --size small --questions 5

Trains decoder and adapter (`--lora R`: adapters of rank R on a frozen bfloat16 decoder) on the best answer over the
worst and the adjacent pair of smallest gap. The frozen ViT runs once. Reference log-probabilities are stored ones, as
in a run, which computes them once for all epochs; `--reference step` computes them in each step, as a trainer without a
store would.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bench.measure import parser, peak_flops, peak_memory_gb, say, size_of, timed
from bench.model_flops import model_flops
from bench.sizes import make_model, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import LoraConfig, MeshConfig, PreferenceConfig, TrainConfig
from sage_jax.lora_params import start_params
from sage_jax.losses.log_probs import answer_logps
from sage_jax.models.lora import structure_of
from sage_jax.models.sage import Sage
from sage_jax.objectives import PreferenceObjective, token_logps_of
from sage_jax.optim import make_optimizer, partition
from sage_jax.parameters import Params, merge
from sage_jax.sharding import batch_sharding, make_mesh
from sage_jax.step import init_state, jit_step, state_shardings


def training(options: argparse.Namespace) -> TrainConfig:
    """The stage."""
    frozen = ("fusion/", "fact_encoder/") if options.train_vision else ("vit/", "fusion/", "fact_encoder/")
    return TrainConfig(
        batch_size=options.rows,
        accumulate=options.accumulate,
        peak_learning_rate=5e-6,
        schedule="constant",
        weight_decay=0.0,
        answers="ranked",
        freeze=frozen,
        preference=PreferenceConfig(beta=0.1),
        lora=LoraConfig(rank=options.lora, base="bfloat16") if options.lora else LoraConfig(),
    )


def main() -> None:
    """Measures and prints."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, default=1, help="images of a step")
    found.add_argument("--questions", type=int, default=5)
    found.add_argument("--accumulate", type=int, default=1)
    found.add_argument("--lora", type=int, default=0, help="rank; 0 = in full")
    found.add_argument("--train-vision", action="store_true", help="the ViT trains too")
    found.add_argument("--reference", choices=["stored", "step"], default="stored")
    options = found.parse_args()
    size, train = size_of(options), training(options)
    trees = functools.partial(make_tree, size, rows=options.rows, questions=options.questions, num_answers=4)
    numbers = range(options.warmup + options.repeats)
    longest = max(trees(seed=100 + number).token_ids.shape[1] for number in numbers)
    batches = [trees(seed=100 + number, round_to=longest) for number in numbers]
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        graphdef, params = make_model(size)
        if options.lora:
            graphdef, params = with_adapters(graphdef, params, train.lora)
        trainable, frozen = partition(params, train.freeze)
        del params
        optimizer = make_optimizer(train)
        init = functools.partial(init_state, optimizer=optimizer, seed=0)
        shardings = state_shardings(jax.eval_shape(init, trainable), mesh)
        state = [jax.jit(init, out_shardings=shardings)(trainable)]
        step = jit_step(state[0], mesh, graphdef, optimizer, PreferenceObjective(train.preference), options.accumulate)
        reference = {**frozen, **jax.tree.map(jnp.copy, trainable)} if options.reference == "step" else None
        del trainable
        score = jax.jit(functools.partial(reference_logps, graphdef=graphdef))
        placed = [jax.device_put(batch, batch_sharding(mesh)) for batch in batches]

        def once(number: int) -> Any:
            batch = placed[number]
            if reference is not None:
                batch = dataclasses.replace(batch, reference_logps=score(reference, batch))
            state[0], metrics = step(state[0], frozen, batch)
            return metrics["loss"]

        seconds, first = timed(once, warmup=options.warmup, repeats=options.repeats)
    flops = [model_flops(size, batch) for batch in batches[options.warmup :]]
    needed = sum(one.step(train_vision=options.train_vision, lora=bool(options.lora)) for one in flops) / len(flops)
    if reference is not None:
        needed += sum(one.forward() for one in flops) / len(flops)
    tokens = sum(int(batch.token_mask.sum()) for batch in batches[options.warmup :]) / options.repeats
    questions = options.rows * options.questions
    say(
        "edpo_step",
        options,
        size,
        rows=options.rows,
        questions=options.questions,
        lora=options.lora,
        train_vision=options.train_vision,
        reference=options.reference,
        **seconds,
        first_seconds=first,
        questions_per_s=round(questions / seconds["seconds"], 4),
        tokens_per_s=round(tokens / seconds["seconds"], 1),
        padding=round(1 - tokens / batches[0].token_ids.size, 3),
        model_gflops=round(needed / 1e9, 1),
        mfu=round(needed / seconds["seconds"] / peak_flops(options), 3),
        peak_memory_gb=peak_memory_gb(),
    )


def with_adapters(graphdef: nnx.GraphDef[Sage], params: Params, lora: LoraConfig) -> tuple[nnx.GraphDef[Sage], Params]:
    """The model with adapters on its decoder, the kernels below them in bfloat16."""
    adapted = start_params(params, lora, seed=0)
    shapes = jax.eval_shape(lambda: adapted)
    plain = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in shapes.items()}
    model = merge(graphdef, {path: leaf for path, leaf in plain.items() if "/lora_" not in path})
    return structure_of(model, shapes, scale=lora.scale), adapted


def reference_logps(params: Params, batch: TreeBatch, *, graphdef: nnx.GraphDef[Sage]) -> jax.Array:
    """Summed log-probability of every answer, as stage 2 computes it before it trains."""
    model = merge(graphdef, params)
    hidden, _ = model(batch)
    return answer_logps(token_logps_of(model, batch, hidden)[0], batch.target_mask)


if __name__ == "__main__":
    main()
