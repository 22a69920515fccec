"""SAGE on InternVL2-8B, as released: both stages in full, from published weights.

Goal: SAGE's released recipe on its base model, InternViT-300M with InternLM2-chat-7B.
Numbers: of the released scripts are stage 1's rate (4e-5, cosine, 3 % warm-up), weight decay 0.05, batch of 128 rows, one
epoch, 6 tiles and a thumbnail; stage 2's rate 5e-6, beta 0.1, and its loss, 0.8 sigmoid + 0.2 BCO + 1 next-token. Ours are
the batch of stage 2 (64 images with all their questions) and the number of steps, 128 and 64 rows over the 5,683 items of
AD-PL; the release has other data. Sizes are the checkpoint's config.json, vocabulary 92,553; the answer and fact lengths
hold those of AD-PL. The reference image counts as many tiles as the test image.
Hardware: 64 TPU v5e, 16 v5p or 8 H200; what fits where, and why one GPU does not do: docs/plan.md.
Hours and metrics: not run yet.
Command: python -m sage_jax.main --config configs/sage_8b.py --config.model.weights=FOLDER --config.data.root=AD-PL.json
Sizes alone, with no weights: the same with --config.stages=plan --config.plan.device=v5e --config.plan.num_devices=64
"""

import ml_collections

from sage_jax.config import (
    DataConfig,
    DecoderConfig,
    FusionConfig,
    MeshConfig,
    ModelConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
    VitConfig,
)
from sage_jax.run_config import Config, EvaluateConfig, PlanConfig, to_config_dict

ITEMS = 5683


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    steps = ITEMS // 128
    return to_config_dict(
        Config(
            run_dir="runs/sage_8b",
            stages="prepare,sfe,edpo,evaluate",
            data=DataConfig(source="adpl", root="AD-PL.json", num_train=0, num_test=0),
            text=TextConfig(
                vocab_size=92553,
                max_facts=8,
                max_fact_tokens=64,
                max_answer_tokens=80,
                buckets=(2176, 2816, 4096),
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
                remat="full",
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
                reference_drop_rate=0.5,
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
            evaluate=EvaluateConfig(max_new_tokens=80, batch_size=16, stages=("sfe", "edpo")),
            plan=PlanConfig(device="h100", num_devices=8),
        )
    )
