"""SAGE on InternVL2-1B, for a single small GPU: both stages in full, from published weights.

Goal: the whole method on InternViT-300M with Qwen2-0.5B, in 24 GB. InternVL2.5-1B (Qwen2.5-0.5B) has the same sizes.
Numbers: rates, losses and lengths of configs/sage_8b.py; batches of 32 images in stage 1 and of 16 in stage 2, computed
one image at a time, are ours. Sizes are those of the checkpoint's config.json, vocabulary 151,655.
Hardware: one GPU of 24 GB, by the plan in docs/plan.md.
Hours and metrics: not run yet.
Command: python -m sage_jax.main --config configs/sage_1b.py --config.model.weights=FOLDER --config.data.root=FILE
Sizes alone, without weights: the same with --config.stages=plan
"""

import dataclasses

import ml_collections

from sage_jax.config import (
    DecoderConfig,
    FusionConfig,
    MeshConfig,
    PlanConfig,
    TrainConfig,
    to_config_dict,
)
from sage_jax.config.command_line import load_config


def resized(train: TrainConfig, batch_size: int) -> TrainConfig:
    """A stage with smaller batches, an image at a time."""
    steps = ITEMS // batch_size
    warmup = round(0.03 * steps)
    return dataclasses.replace(train, batch_size=batch_size, accumulate=batch_size, steps=steps, warmup_steps=warmup)


ITEMS = 5683
"""Items of AD-PL."""


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    large = load_config("sage_8b")
    decoder = DecoderConfig(
        num_layers=24,
        embed_dim=896,
        num_heads=14,
        num_kv_heads=2,
        mlp_dim=4864,
        rope_theta=1e6,
        norm_eps=1e-6,
        qkv_bias=True,
    )
    model = dataclasses.replace(
        large.model, weights="InternVL2-1B", decoder=decoder, fusion=FusionConfig(num_heads=14, num_distinct=32)
    )
    return to_config_dict(
        dataclasses.replace(
            large,
            run_dir="runs/sage_1b",
            model=model,
            mesh=MeshConfig(data=1, fsdp=-1),
            sfe=resized(large.sfe, 32),
            edpo=resized(large.edpo, 16),
            plan=PlanConfig(device="rtx4090", num_devices=1, vocab_size=151655),
        )
    )
