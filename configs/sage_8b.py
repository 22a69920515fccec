"""SAGE on InternVL2-8B, as released: both stages in full, from published weights.

Goal: SAGE's released recipe on its base model, InternViT-300M with InternLM2-chat-7B.
Numbers: of the released scripts are, in stage 1, rate 4e-5, cosine, 3 % warm-up, weight decay 0.05, 128 rows of one
question a step, one epoch, 6 tiles and a thumbnail; in stage 2, rate 5e-6, beta 0.1 and the loss, 0.8 sigmoid + 0.2 BCO
+ 1 next-token. Ours are the batch of stage 2, 64 images with all their questions, and its schedule; the epochs are over
the 5,683 items of AD-PL. Sizes are those of the checkpoint's config.json, vocabulary 92,553; trees have room for
questions of 100 and answers of 80 tokens.
Hardware: 8 GPUs of 80 GB, or 64 TPU v5e, by the plan in docs/plan.md.
Hours and metrics: not run yet.
Command: python -m sage_jax.main --config configs/sage_8b.py --config.model.weights=FOLDER --config.data.root=FILE
Sizes alone, without weights: the same with --config.stages=plan
"""

import ml_collections

from sage_jax.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EvaluateConfig,
    FusionConfig,
    MeshConfig,
    ModelConfig,
    PlanConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
    VitConfig,
    to_config_dict,
)

ITEMS = 5683


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    steps = ITEMS // 128
    return to_config_dict(
        Config(
            run_dir="runs/sage_8b",
            stages="prepare,sfe,edpo,evaluate",
            data=DataConfig(source="adpl", root="AD-PL.json", num_train=0, num_test=0, group_batches=4),
            text=TextConfig(
                vocab_size=92553,
                max_facts=8,
                max_fact_tokens=64,
                max_answer_tokens=80,
            ),
            model=ModelConfig(
                weights="InternVL2-8B",
                vit=VitConfig(tile_px=448, patch_px=14, num_layers=24, embed_dim=1024, num_heads=16, mlp_dim=4096),
                decoder=DecoderConfig(
                    num_layers=32,
                    embed_dim=4096,
                    num_heads=32,
                    num_kv_heads=8,
                    mlp_dim=14336,
                    rope_theta=1e6,
                    norm_eps=1e-5,
                ),
                fusion=FusionConfig(num_heads=32, num_distinct=32),
                max_tiles=6,
            ),
            mesh=MeshConfig(data=1, fsdp=-1),
            sfe=TrainConfig(
                steps=steps,
                batch_size=128,
                peak_learning_rate=4e-5,
                warmup_steps=round(0.03 * steps),
                end_ratio=0.0,
                weight_decay=0.05,
                questions_per_image=1,
            ),
            edpo=TrainConfig(
                steps=ITEMS // 64,
                batch_size=64,
                peak_learning_rate=5e-6,
                warmup_steps=round(0.03 * (ITEMS // 64)),
                end_ratio=0.0,
                weight_decay=0.05,
                answers="ranked",
                freeze=("vit/", "fusion/", "fact_encoder/"),
                preference=PreferenceConfig(beta=0.1, sigmoid_weight=0.8, bco_weight=0.2, sft_weight=1.0),
            ),
            evaluate=EvaluateConfig(max_new_tokens=80, stages=("sfe", "edpo")),
            plan=PlanConfig(device="h100", num_devices=8),
        )
    )
