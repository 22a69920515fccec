"""A config that goes through every stage in seconds: one layer, 32 px, a few dozen records, a handful of steps."""

import ml_collections

from sage_jax.config import (
    LEARN,
    TRAINING_STAGES,
    AblateConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EvaluateConfig,
    FusionConfig,
    InspectConfig,
    ModelConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
    VitConfig,
    to_config_dict,
)

SFE = TrainConfig(
    steps=20,
    batch_size=4,
    warmup_steps=1,
    peak_learning_rate=1e-2,  # enough to open answers with a verdict, which the base model does not
    questions_per_image=2,
    log_every=1,
)
PREFERENCE = TrainConfig(
    steps=4,
    batch_size=4,
    warmup_steps=1,
    peak_learning_rate=1e-3,
    questions_per_image=2,
    answers="ranked",
    freeze=("vit/", "fusion/", "fact_encoder/"),
    log_every=1,
)


DPO = TrainConfig(
    steps=2,
    batch_size=4,
    warmup_steps=1,
    questions_per_image=1,
    answers="ranked",
    freeze=("vit/", "fusion/", "fact_encoder/"),
    preference=PreferenceConfig(eta=0.0, lambda_hard=0.0),
    log_every=1,
)


def get_config() -> ml_collections.ConfigDict:
    """The run."""
    return to_config_dict(
        Config(
            stages="check,prepare,base,plain,sfe,base_dpo,dpo,edpo,evaluate,inspect",
            data=DataConfig(num_train=24, num_test=10, image_px=32),
            text=TextConfig(
                vocab_size=768, max_fact_tokens=64, max_answer_tokens=96, buckets=(512, 1024), assist_position="prefix"
            ),
            model=ModelConfig(
                vit=VitConfig(tile_px=32, patch_px=8, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=64),
                decoder=DecoderConfig(num_layers=1, embed_dim=32, num_heads=2, num_kv_heads=1, mlp_dim=64),
                fusion=FusionConfig(num_heads=2, num_distinct=2),
            ),
            base=TrainConfig(
                steps=10,
                batch_size=4,
                warmup_steps=1,
                freeze=("fusion/", "fact_encoder/"),
                questions="description",
                questions_per_image=2,
                similarity_weight=1.0,
                log_every=1,
            ),
            plain=TrainConfig(steps=2, batch_size=4, warmup_steps=1, questions_per_image=1, facts="text", log_every=1),
            sfe=SFE,
            base_dpo=DPO,
            dpo=DPO,
            edpo=PREFERENCE,
            evaluate=EvaluateConfig(
                batch_size=10,
                max_new_tokens=8,
                bootstrap_samples=50,
                stages=tuple(name for name in TRAINING_STAGES if name != LEARN),
            ),
            inspect=InspectConfig(max_images=4),
            ablate=AblateConfig(stages=("base",)),
        )
    )
