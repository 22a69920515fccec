"""What kernels of attention change of predicted memory: no scores, little else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sage_jax.config import Config, ConfigError
from sage_jax.plan.abstract_step import abstract_step
from sage_jax.plan.memory import planned_attention, predict_memory
from tests.support.tiny_plan import CONFIG


def with_attention(attention: Any, **model: Any) -> Config:
    return dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, attention=attention, **model))


def on(device: Any, config: Config) -> Config:
    return dataclasses.replace(config, plan=dataclasses.replace(config.plan, device=device))


def test_auto_is_planned_as_the_kernel_of_the_planned_device_and_traced_as_any_device_computes() -> None:
    config = with_attention("auto")
    assert (planned_attention(on("h200", config)), planned_attention(on("v5e", config))) == ("pallas", "splash")
    assert predict_memory(on("v5e", config), "edpo") == predict_memory(on("v5e", with_attention("splash")), "edpo")
    assert abstract_step(config, "edpo").model.attention == "tree"
    assert abstract_step(with_attention("masked"), "edpo").model.attention == "masked"
    with pytest.raises(ConfigError, match="model.attention = 'splash'"):
        predict_memory(on("h200", with_attention("splash")), "edpo")


def test_cudnn_copies_the_prefix_for_each_question_and_keeps_no_scores() -> None:
    """Against the kernel that copies nothing, in a model whose trees are long beside its width."""
    decoder = dataclasses.replace(CONFIG.model.decoder, num_heads=4, num_kv_heads=2, embed_dim=32, mlp_dim=8)
    plan = dataclasses.replace(CONFIG.plan, prompt_tokens=1000, device="h200")
    text = dataclasses.replace(CONFIG.text, buckets=(2048,))

    def backward(attention: Any, questions: int) -> int:
        config = with_attention(attention, decoder=decoder, compute_dtype="bfloat16", remat="full")
        config = dataclasses.replace(config, text=text, plan=dataclasses.replace(plan, num_questions=questions))
        edpo = dataclasses.replace(config.edpo, questions_per_image=questions)
        return predict_memory(dataclasses.replace(config, edpo=edpo), "edpo").phases["backward"]

    one, two = (backward("cudnn", questions) - backward("pallas", questions) for questions in (1, 2))
    assert 0 < one < two
    assert backward("cudnn", 2) < backward("tree", 2) < backward("masked", 2)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_kernels_take_less_than_blocks_and_blocks_less_than_a_mask(remat: Any) -> None:
    def backward(device: Any, attention: Any) -> int:
        return predict_memory(on(device, with_attention(attention, remat=remat)), "edpo").phases["backward"]

    assert max(backward("h100", "pallas"), backward("v5e", "splash")) < backward("h100", "tree")
    assert backward("h100", "tree") < backward("h100", "masked")


def test_what_kernels_take_grows_with_the_length_and_not_with_its_square() -> None:
    def attention_bytes(factor: int) -> int:
        text = dataclasses.replace(CONFIG.text, max_answer_tokens=16 * factor, buckets=(512 * factor,))
        plan = dataclasses.replace(CONFIG.plan, prompt_tokens=100 * factor, question_tokens=32 * factor)
        config = dataclasses.replace(with_attention("pallas", remat="none"), text=text, plan=plan)
        return predict_memory(config, "edpo").phases["backward"]

    one, two, four = (attention_bytes(factor) for factor in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
