"""Quickstart: a small SAGE, trained from nothing through both stages on the built-in generator.

Goal: within ten minutes from a fresh machine, a table that shows what each stage brought on product categories that
training never saw, and a report to open. Aims there, one-shot: verdict accuracy >= 0.90, AUROC >= 0.95, pixel AUROC
>= 0.90.
Sizes and rates: chosen for two CPU cores. A model trained from nothing gives answers that it never read tens of nats
less than those it did: ranking them takes a high rate, all adjacent pairs at once (soft selection), and next-token loss
on the best answers to keep what SFE learnt. `base` stands for the public weights that a real run starts from: it learns
words and dense correspondence, not inspection. Test and reference are registered to a pixel, hence "aligned".
Defective parts are asked for what they lack as often as for what they show, and Muon learns to tell the two apart in
the time there is.
Hardware: 2 CPU cores, 6 GB of memory.
Command: python -m sage_jax.main --config configs/quickstart.py
"""

from typing import Literal

import ml_collections

from sage_jax.config import (
    Config,
    DataConfig,
    DecoderConfig,
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
        steps=1300,
        batch_size=12,
        peak_learning_rate=2e-3,
        optimizer="muon",
        freeze=("fact_encoder/",),
        reference_drop_rate=0.1,
        facts=facts,
        claim_weight=8.0,
        similarity_weight=1.0,
        naming_weight=1.0,
    )


def preference_stage(preference: PreferenceConfig) -> TrainConfig:
    """Stage 2: DPO and E-DPO differ in their objective alone."""
    return TrainConfig(
        steps=190,
        batch_size=12,
        peak_learning_rate=1e-4,
        reference_drop_rate=0.3,
        answers="ranked",
        freeze=("vit/", "fusion/", "fact_encoder/"),
        claim_weight=8.0,
        preference=preference,
    )


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    return to_config_dict(
        Config(
            run_dir="runs/quickstart",
            data=DataConfig(
                source="generator", num_train=4000, num_test=200, image_px=64, asked_present_rate=0.5, group_batches=4
            ),
            text=TextConfig(
                vocab_size=768,
                max_answer_tokens=32,
                assist_position="prefix",
            ),
            model=ModelConfig(
                vit=VitConfig(
                    tile_px=64, patch_px=8, stem="conv", num_layers=4, embed_dim=96, num_heads=4, mlp_dim=384
                ),
                decoder=DecoderConfig(num_layers=2, embed_dim=96, num_heads=4, num_kv_heads=4, mlp_dim=256),
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
                steps=290,
                batch_size=16,
                peak_learning_rate=2e-3,
                optimizer="muon",
                freeze=("fusion/", "fact_encoder/"),
                questions="description",
                questions_per_image=2,
                reference_drop_rate=0.0,
                claim_weight=4.0,
                similarity_weight=1.0,
                naming_weight=1.0,
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
            evaluate=EvaluateConfig(max_new_tokens=32),
        )
    )
