"""What the benchmarks of training steps share: options, batches of one shape, the step as training compiles it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bench.measure import parser, peak_flops, peak_memory_gb, profiled, say, timed
from bench.model_flops import model_flops, step_attention_flops
from bench.sizes import Size, make_model, make_tree
from sage_jax.batch import TreeBatch
from sage_jax.config import LoraConfig, MeshConfig, TrainConfig
from sage_jax.models.lora import structure_of
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge
from sage_jax.sharding import batch_sharding, make_mesh
from sage_jax.training.lora_params import start_params
from sage_jax.training.optim import make_optimizer, partition
from sage_jax.training.step import CompiledStep, Objective, init_state, jit_step, state_shardings

BUCKET_STEP = 8
FROZEN = ("fusion/", "fact_encoder/")


def training_parser(doc: str | None, *, questions: int) -> argparse.ArgumentParser:
    """The options of a training step."""
    found = parser(doc)
    found.add_argument("--rows", type=int, default=1, help="images of a step")
    found.add_argument("--questions", type=int, default=questions, help="questions of an image")
    found.add_argument("--accumulate", type=int, default=1, help="micro-batches of a step")
    found.add_argument("--lora", type=int, default=0, help="rank of adapters on a bfloat16 decoder; 0 = in full")
    found.add_argument("--train-vision", action="store_true", help="the ViT trains too")
    return found


def stage(options: argparse.Namespace, **changes: Any) -> TrainConfig:
    """The stage of the options: constant rate, no decay, as the peer's."""
    return TrainConfig(
        batch_size=options.rows,
        accumulate=options.accumulate,
        peak_learning_rate=5e-6,
        schedule="constant",
        weight_decay=0.0,
        freeze=FROZEN if options.train_vision else ("vit/", *FROZEN),
        lora=LoraConfig(rank=options.lora, base="bfloat16") if options.lora else LoraConfig(),
        **changes,
    )


def batches_of(size: Size, options: argparse.Namespace, num_answers: int) -> list[TreeBatch]:
    """A fresh batch for each step, all padded to the longest, in steps of 8 tokens as buckets come in."""
    about = {"rows": options.rows, "questions": options.questions, "num_answers": num_answers}
    trees = functools.partial(make_tree, size, **about, round_to=BUCKET_STEP)
    seeds = range(100, 100 + options.warmup + options.repeats)
    longest = max(trees(seed=seed).token_ids.shape[1] for seed in seeds)
    return [trees(seed=seed, round_to=longest) for seed in seeds]


def with_adapters(graphdef: nnx.GraphDef[Sage], params: Params, lora: LoraConfig) -> tuple[nnx.GraphDef[Sage], Params]:
    """The model with adapters on its decoder, the kernels below them in bfloat16."""
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    adapted = start_params(params, lora, seed=0)
    return structure_of(merge(graphdef, shapes), adapted, scale=lora.scale), adapted


def measure_steps(
    what: str,
    size: Size,
    options: argparse.Namespace,
    train: TrainConfig,
    objective: Objective,
    batches: Sequence[TreeBatch],
    complete: Callable[[nnx.GraphDef[Sage], Params, TreeBatch], TreeBatch] | None = None,
    **about: Any,
) -> None:
    """Times and prints the steps; `complete` is a forward pass before each, with the parameters at the start."""
    with jax.set_mesh(mesh := make_mesh(MeshConfig())):
        graphdef, params = make_model(size)
        if train.lora.rank:
            graphdef, params = with_adapters(graphdef, params, train.lora)
        trainable, frozen = partition(params, train.freeze)
        start = {**frozen, **jax.tree.map(jnp.copy, trainable)} if complete is not None else {}
        optimizer = make_optimizer(train)
        init = functools.partial(init_state, optimizer=optimizer)
        shardings = state_shardings(jax.eval_shape(init, trainable), mesh)
        state = [jax.jit(init, out_shardings=shardings)(trainable)]
        del params, trainable
        step = CompiledStep(jit_step(state[0], mesh, graphdef, optimizer, objective, options.accumulate))
        placed = [jax.device_put(batch, batch_sharding(mesh)) for batch in batches]

        def once(number: int) -> jax.Array:
            batch = placed[number] if complete is None else complete(graphdef, start, placed[number])
            state[0], metrics = step(state[0], frozen, batch)
            return metrics["loss"][0]

        seconds, first = timed(once, warmup=options.warmup, repeats=options.repeats)
        found: dict[str, Any] = {"peak_memory_gb": peak_memory_gb(), "step_memory_gb": step.peak_bytes[0] / 1e9}
        attention = step_attention_flops(size, batches[0], train_vision=options.train_vision)
        found |= profiled(options, lambda number: once(number % len(placed)), attention)
    counted = batches[options.warmup :]
    flops = [model_flops(size, batch) for batch in counted]
    needed = sum(one.step(train_vision=options.train_vision, lora=bool(options.lora)) for one in flops) / len(flops)
    if complete is not None:
        needed += sum(one.forward() for one in flops) / len(flops)
    tokens = sum(int(np.sum(batch.token_mask)) for batch in counted) / len(counted)
    say(
        what,
        options,
        size,
        rows=options.rows,
        questions=options.questions,
        lora=options.lora,
        train_vision=options.train_vision,
        **about,
        **seconds,
        first_seconds=first,
        questions_per_s=round(options.rows * options.questions / seconds["seconds"], 4),
        tokens_per_s=round(tokens / seconds["seconds"], 1),
        padding=round(1 - tokens / batches[0].token_ids.size, 3),
        model_gflops=round(needed / 1e9, 1),
        mfu=round(needed / seconds["seconds"] / peak_flops(options), 3),
        **found,
    )
