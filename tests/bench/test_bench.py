"""Benchmarks: the formula of operations against a traced step, and the lines that they print."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from bench.model_flops import model_flops, visible_pairs
from bench.sizes import SIZES, make_model, make_tree, with_options
from sage_jax.models.sage import tree_mask
from sage_jax.parameters import merge
from sage_jax.plan.flops import matmul_flops
from tests.support.forked import run_forked
from tests.support.tiny_run import PROGRAM
from tests.support.tiny_sage import on_device

ROOT = Path(__file__).parents[2]


def test_pairs_of_the_formula_are_those_of_the_mask() -> None:
    batch = make_tree(SIZES["tiny"], rows=2, questions=3, num_answers=4, seed=5)
    placed = on_device(batch)
    mask = np.asarray(tree_mask(placed.token_mask, placed.question_index, placed.answer_index))
    assert visible_pairs(batch) == int((mask & batch.token_mask[:, :, None]).sum())


def test_the_formula_counts_the_products_of_a_forward_pass() -> None:
    """Against those of the traced one over a row without padding: all but attention is the same to the operation."""
    size = with_options(SIZES["tiny"], attention="masked")
    batch = make_tree(size, rows=1, questions=2, num_answers=4, seed=3, round_to=1)
    graphdef, params = make_model(size)
    traced = jax.make_jaxpr(lambda params, batch: merge(graphdef, params)(batch)[0])(params, on_device(batch))
    tokens, decoder = batch.token_ids.shape[1], size.model.decoder
    heads = decoder.num_heads * decoder.width_of_head
    hidden_pairs = 4.0 * (tokens**2 - visible_pairs(batch)) * heads * decoder.num_layers
    flops = model_flops(size, batch)
    expected = flops.vision + flops.adapter + flops.decoder + hidden_pairs
    assert math.isclose(matmul_flops(traced), expected, rel_tol=5e-3)  # the fusion of facts is no part of it
    assert math.isclose(flops.output, 2.0 * decoder.embed_dim * size.vocab_size * batch.target_mask.sum())
    assert flops.step() == flops.vision + 3 * (flops.adapter + flops.decoder + flops.output)


def test_the_input_pipeline_is_set_beside_a_step() -> None:
    """A long step never waits for its batch, one that takes no time always does."""
    found = []
    for seconds in ("0.5", "0"):
        given = ["--steps", "3", "--num-images", "8", "--step-seconds", seconds]
        done = run_forked(["bench.input_pipeline", *given], environment=os.environ, cwd=ROOT, timeout=500)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    slow, fast = found
    assert slow["what"] == "input_pipeline" and 0.0 < slow["padding"] < 1.0
    assert slow["input_wait"] < 0.5 < fast["input_wait"] and fast["images_per_s"] > slow["images_per_s"] > 0.0


@pytest.mark.parametrize(
    ("command", "figures"),
    [
        (["edpo_step", "--questions", "2", "--unroll", "1"], ("questions_per_s", "mfu", "peak_memory_gb", "padding")),
        (["generate", "--rows", "1", "--questions", "2", "--unroll", "1"], ("decode_tokens_per_s", "tokens_per_s")),
        (
            ["generate", "--continuous", "5", "--rows", "2", "--unroll", "1"],
            ("tokens_per_s", "tokens_per_s_in_batches", "useful", "useful_in_batches", "same_answers"),
        ),
        (
            ["inspect_throughput", "--images", "2", "--rows", "1", "--unroll", "1"],
            ("images_per_s", "references_computed"),
        ),
    ],
)
def test_a_benchmark_prints_a_line_with_its_figures(command: list[str], figures: tuple[str, ...]) -> None:
    measured = [f"bench.{command[0]}", *command[1:], "--repeats", "1", "--warmup", "1"]
    done = run_forked(measured, environment=os.environ | PROGRAM, cwd=ROOT, timeout=500)  # one device, as they are run
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert line["what"] == command[0] and line["size"] == "tiny" and line["n"] == 1
    assert all(line[name] > 0 for name in ("seconds", *figures) if name != "padding")
