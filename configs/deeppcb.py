"""DeepPCB: real photographs of circuit boards beside their defect-free templates, trained from nothing.

Goal: on crops of boards that training never saw, say one-shot whether there is a defect (accuracy >= 0.985), and to
open questions which kind (>= 0.85), where (>= 0.85) and both (>= 0.75); docs/results.md says how far that is reached.
Data: the authors' own layout and split (Tang et al. 2019), `data.root`; 128 px crops of the 640 px boards.
Sizes and rates: chosen for two CPU cores; templates are registered, hence `similarity = "aligned"`.
Hardware: 2 CPU cores, at most 45 minutes.
Command: python -m sage_jax.main --config configs/deeppcb.py --config.data.root=FOLDER
"""

from typing import Literal

import ml_collections

from sage_jax.config import (
    Config,
    DataConfig,
    DecoderConfig,
    DecodingConfig,
    EvaluateConfig,
    FusionConfig,
    ModelConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
    VitConfig,
    to_config_dict,
)


def sfe_stage(facts: Literal["fusion", "text"]) -> TrainConfig:
    """Stage 1, and its ablation with facts as plain text."""
    return TrainConfig(
        steps=4800,
        batch_size=12,
        peak_learning_rate=1.5e-3,
        warmup_steps=50,
        freeze=("fact_encoder/",),
        reference_drop_rate=0.1,
        questions_per_image=3,
        facts=facts,
        claim_weight=8.0,
        similarity_weight=1.0,
        naming_weight=1.0,
        log_every=20,
        checkpoint_every=500,
    )


def preference_stage(preference: PreferenceConfig) -> TrainConfig:
    """Stage 2: DPO and E-DPO differ in their objective alone."""
    return TrainConfig(
        steps=200,
        batch_size=12,
        peak_learning_rate=1e-4,
        reference_drop_rate=0.3,
        answers="ranked",
        freeze=("vit/", "fusion/", "fact_encoder/"),
        claim_weight=8.0,
        preference=preference,
        checkpoint_every=100,
    )


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    return to_config_dict(
        Config(
            run_dir="runs/deeppcb",
            data=DataConfig(
                source="deeppcb", root="../shared/data/deeppcb", num_train=8000, num_test=600, image_px=128
            ),
            text=TextConfig(
                vocab_size=640,
                max_answer_tokens=32,
                buckets=(176, 224, 248, 544, 608),
                assist_position="prefix",
            ),
            model=ModelConfig(
                vit=VitConfig(
                    tile_px=128, patch_px=16, stem="conv", num_layers=4, embed_dim=128, num_heads=4, mlp_dim=512
                ),
                decoder=DecoderConfig(num_layers=2, embed_dim=128, num_heads=4, num_kv_heads=4, mlp_dim=320),
                fusion=FusionConfig(
                    num_heads=4,
                    num_distinct=8,
                    similarity="aligned",
                    difference="residual",
                    difference_places=True,
                    mark_image=True,
                ),
                downsample=1,
                scan_unroll=4,
            ),
            base=TrainConfig(
                steps=600,
                batch_size=16,
                peak_learning_rate=1.5e-3,
                warmup_steps=50,
                freeze=("fusion/", "fact_encoder/"),
                questions="description",
                questions_per_image=2,
                reference_drop_rate=0.0,
                claim_weight=4.0,
                similarity_weight=1.0,
                naming_weight=1.0,
                log_every=20,
                checkpoint_every=400,
            ),
            plain=sfe_stage("text"),
            sfe=sfe_stage("fusion"),
            base_dpo=preference_stage(PreferenceConfig(eta=0.0, lambda_hard=0.0, lambda_easy=2.0, sft_weight=32.0)),
            dpo=preference_stage(PreferenceConfig(eta=0.0, lambda_hard=0.0, lambda_easy=2.0, sft_weight=32.0)),
            edpo=preference_stage(
                PreferenceConfig(
                    lambda_hard=4.0, lambda_easy=2.0, selection="soft", soft_temperature=1.0, sft_weight=32.0
                )
            ),
            evaluate=EvaluateConfig(max_new_tokens=32, decoding=DecodingConfig(map_places=1.0)),
        )
    )
