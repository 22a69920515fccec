"""SAGE as the paper has it, on InternVL2-8B: stage 1 on MVTec's questions, stage 2 on VisA's, tested on others.

Goal: the paper's recipe, each stage with its own data, facts by the base model itself, and its ablation's rows (`base`,
`plain`, `sfe`, `base_dpo`, `dpo`, `edpo`) under --config.stages=ablate.
Numbers: of the paper are the rate 2e-6, 1,000 warm-up steps, batches of 32 and the norm that gradients are clipped at,
1.0. It names no number of steps: 3,000 of one question a row are ours, three times the warm-up, and so is the cosine's
end at 0. Similarity, fusion, losses and pairs are those of `sage_jax/config/published.py`.
Data: three files in AD-PL's form, MVTec_QA.json and VisA_QA.json to train on, and data.root, all of which tests (the
paper: MANTA and MPDD; MANTA's own JSON has no ranked answers, and is for the stage `benchmark`).
Hardware: 8 GPUs of 80 GB, or 64 TPU v5e with --config.mesh.data=4 --config.mesh.fsdp=8 --config.mesh.tensor=2, by the
plan in docs/plan.md.
Hours and metrics: not run yet.
Command: python -m sage_jax.main --config configs/sage_paper.py --config.model.weights=FOLDER --config.data.root=FILE
Sizes alone, without weights: the same with --config.stages=plan
"""

import dataclasses

import ml_collections

from sage_jax.config import DataConfig, FactsConfig, TrainConfig, to_config_dict
from sage_jax.config.command_line import load_config
from sage_jax.config.published import as_published

STEPS = 3000


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    full = load_config("sage_8b")
    data = DataConfig(
        source="adpl", root="MPDD_QA.json", facts="model", num_train=0, num_test=0, test_fraction=1.0, group_batches=4
    )

    def trained(stage: TrainConfig, root: str) -> TrainConfig:
        return dataclasses.replace(
            stage,
            data_root=root,
            steps=STEPS,
            batch_size=32,
            peak_learning_rate=2e-6,
            warmup_steps=1000,
            end_ratio=0.0,
            clip_norm=1.0,
            questions_per_image=1,
        )

    paper = as_published(full, run_dir="runs/sage_paper")
    first, second = "MVTec_QA.json", "VisA_QA.json"
    return to_config_dict(
        dataclasses.replace(
            paper,
            stages="prepare,facts,sfe,edpo,evaluate",
            data=data,
            facts=FactsConfig(max_tokens=256),
            plain=trained(paper.plain, first),
            sfe=trained(paper.sfe, first),
            base_dpo=trained(paper.base_dpo, second),
            dpo=trained(paper.dpo, second),
            edpo=trained(paper.edpo, second),
            evaluate=dataclasses.replace(paper.evaluate, stages=("base", "sfe", "edpo")),
        )
    )
