"""SAGE on InternVL2-8B with LoRA on the decoder: both stages, from published weights.

Goal: SAGE's released LoRA recipe, on one GPU.
Numbers: rank 16, alpha 32 and batches of 16 are the released ones, the rest is that of configs/sage_8b.py. Ours are the
batch of stage 2 and the decoder's kernels, which stay in bfloat16 as they are published. Adapter and fusion train whole
in stage 1, the adapter in stage 2.
Hardware: one GPU of 48 GB or more, by the plan in docs/plan.md.
Hours and metrics: not run yet.
Command: python -m sage_jax.main --config configs/sage_8b_lora.py --config.model.weights=FOLDER --config.data.root=FILE
Sizes alone, without weights: the same with --config.stages=plan
"""

import dataclasses

import ml_collections

from sage_jax.config import LoraConfig, MeshConfig, PlanConfig, to_config_dict
from sage_jax.config.command_line import load_config

ITEMS = 5683
"""Items of AD-PL."""


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    full = load_config("sage_8b")
    lora = LoraConfig(rank=16, alpha=32.0, base="bfloat16")
    steps = ITEMS // 16
    changed = {"batch_size": 16, "accumulate": 16, "steps": steps, "warmup_steps": round(0.03 * steps), "lora": lora}
    return to_config_dict(
        dataclasses.replace(
            full,
            run_dir="runs/sage_8b_lora",
            mesh=MeshConfig(data=1, fsdp=-1),
            sfe=dataclasses.replace(full.sfe, **changed),
            edpo=dataclasses.replace(full.edpo, **changed),
            plan=PlanConfig(device="h100", num_devices=1),
        )
    )
