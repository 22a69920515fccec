"""A config whose parts are in the proportions of a real one, small enough to compile and run in seconds."""

from __future__ import annotations

from sage_jax.config import (
    Config,
    DecoderConfig,
    FusionConfig,
    MeshConfig,
    ModelConfig,
    PlanConfig,
    TextConfig,
    TrainConfig,
    VitConfig,
)

CONFIG = Config(
    text=TextConfig(max_facts=2, max_fact_tokens=8, max_answer_tokens=16, buckets=(256, 512)),
    model=ModelConfig(
        vit=VitConfig(tile_px=32, patch_px=4, num_layers=2, embed_dim=64, num_heads=4, mlp_dim=256),
        decoder=DecoderConfig(num_layers=4, embed_dim=128, num_heads=8, num_kv_heads=4, mlp_dim=384),
        fusion=FusionConfig(num_heads=4, num_distinct=4),
        weights="nowhere",
        compute_dtype="float32",
        attention="tree",  # as the simulated devices compute
        remat="full",
    ),
    mesh=MeshConfig(data=1, fsdp=-1),
    sfe=TrainConfig(batch_size=8, questions_per_image=1),
    edpo=TrainConfig(batch_size=8, answers="ranked", freeze=("vit/", "fusion/", "fact_encoder/")),
    plan=PlanConfig(
        num_devices=8, vocab_size=1024, prompt_tokens=8, question_tokens=12, num_questions=3, num_answers=3
    ),
)
