"""Matrix products are counted as they run: in loops, computed again, and by the closed form of a transformer."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from sage_jax.config import Config
from sage_jax.plan.abstract_step import abstract_step, tree_size
from sage_jax.plan.flops import matmul_flops
from sage_jax.training.step import train_step
from tests.support.tiny_plan import CONFIG


def test_a_product_counts_twice_its_size_times_what_is_summed_over() -> None:
    a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 7))
    assert matmul_flops(jax.make_jaxpr(lambda a, b: jnp.einsum("nij,njk->nik", a, b))(a, b)) == 2 * 3 * 4 * 5 * 7


def test_loops_count_their_rounds_and_branches_the_larger_side() -> None:
    x = jnp.zeros((6, 6))
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (jax.jit(jnp.dot)(c, c), None), x, length=9))(x)
    assert matmul_flops(looped) == 9 * 2 * 6**3
    chosen = jax.make_jaxpr(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x))(x)
    assert matmul_flops(chosen) == 2 * 2 * 6**3


def step_flops(config: Config, stage: str) -> int:
    step = abstract_step(config, stage)
    traced = functools.partial(
        train_step,
        graphdef=step.graphdef,
        optimizer=step.optimizer,
        objective=step.objective,
        accumulate=step.train.accumulate,
    )
    return matmul_flops(jax.make_jaxpr(traced)(step.state, step.frozen, step.batch))


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("attention", ["tree", "masked"])
@pytest.mark.parametrize("stage", ["sfe", "edpo"])
def test_a_step_has_the_flops_of_the_closed_form(stage: str, attention: str, remat: str) -> None:
    """2 x parameters x tokens a pass and attention: one pass forward, two backward, and what is computed again."""
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, attention=attention, remat=remat))
    decoder, vit, train = config.model.decoder, config.model.vit, config.training(stage)
    tree, rows = tree_size(config, stage), train.batch_size
    width = decoder.embed_dim
    heads = decoder.num_heads * decoder.width_of_head
    by_layer = width * (2 * heads + 2 * decoder.num_kv_heads * decoder.width_of_head + 3 * decoder.mlp_dim)
    shape, answer = tree.shape, config.text.max_answer_tokens
    pairs = shape.length**2
    if attention == "tree":
        seen = shape.prefix_slots + shape.question_slots
        of_answers = tree.num_answers * answer * (seen + answer)
        pairs = shape.prefix_slots**2 + tree.num_questions * (shape.question_slots * seen + of_answers)
    layers = 2 * rows * decoder.num_layers * (shape.length * by_layer + 2 * pairs * heads)
    answers = rows * tree.num_questions * tree.num_answers * config.text.max_answer_tokens
    logits = 2 * answers * width * config.plan.vocab_size
    patches, tiles = (vit.tile_px // vit.patch_px) ** 2 + 1, 2 * rows
    of_vit = vit.num_layers * (4 * vit.embed_dim**2 + 2 * vit.embed_dim * vit.mlp_dim + 2 * patches * vit.embed_dim)
    adapter = config.model.tokens_per_tile * width * (4 * vit.embed_dim + width)
    vision = 2 * tiles * (patches * of_vit + 3 * adapter)
    # Of a layer computed again its last product is left out: no gradient needs it.
    again = layers - 2 * rows * tree.shape.length * decoder.num_layers * width * decoder.mlp_dim
    expected = 3 * layers + (again if remat == "full" else 0) + 3 * logits + vision
    assert math.isclose(step_flops(config, stage), expected, rel_tol=0.02)


def test_micro_batches_add_up_to_the_same_flops() -> None:
    cut = dataclasses.replace(CONFIG, sfe=dataclasses.replace(CONFIG.sfe, accumulate=4))
    assert math.isclose(step_flops(cut, "sfe"), step_flops(CONFIG, "sfe"), rel_tol=1e-3)
