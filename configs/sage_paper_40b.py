"""SAGE as the paper has it, on the model that its text names, InternVL2-40B (InternViT-6B, Yi-34B), with LoRA.

Goal: the paper's recipe at the size of its text. Its experiments name InternVL2 without a size, its code the 8B model.
Numbers: those of configs/sage_paper.py; sizes are those of the checkpoint's config.json. The decoder's kernels stay in
bfloat16 with adapters of rank 16, which are the released script's: in full, parameters, gradients and Adam's moments in
float32 take 640 GB before any activation.
Hardware: 8 GPUs of 80 GB, or 64 TPU v5e with --config.mesh.data=4 --config.mesh.fsdp=8 --config.mesh.tensor=2, by the
plan in docs/plan.md.
Hours and metrics: not run yet.
Command: python -m sage_jax.main --config sage_paper_40b --config.model.weights=FOLDER --config.data.root=FILE
Sizes alone, without weights: the same with --config.stages=plan
"""

import dataclasses

import ml_collections

from sage_jax.config import DecoderConfig, LoraConfig, VitConfig, to_config_dict
from sage_jax.config.command_line import load_config


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    paper = load_config("sage_paper")
    model = dataclasses.replace(
        paper.model,
        weights="InternVL2-40B",
        vit=VitConfig(
            tile_px=448,
            patch_px=14,
            num_layers=45,
            embed_dim=3200,
            num_heads=25,
            mlp_dim=12800,
            norm="rms",
            qkv_bias=False,
            qk_norm=True,
        ),
        decoder=DecoderConfig(
            num_layers=60,
            embed_dim=7168,
            num_heads=56,
            num_kv_heads=8,
            mlp_dim=20480,
            rope_theta=5e6,
            norm_eps=1e-5,
        ),
        fusion=dataclasses.replace(paper.model.fusion, num_heads=56),
    )
    lora = LoraConfig(rank=16, alpha=32.0, base="bfloat16")
    stages = ("plain", "sfe", "base_dpo", "dpo", "edpo")
    with_lora = {name: dataclasses.replace(paper.training(name), lora=lora) for name in stages}
    return to_config_dict(
        dataclasses.replace(
            paper,
            run_dir="runs/sage_paper_40b",
            text=dataclasses.replace(paper.text, vocab_size=64007),
            model=model,
            **with_lora,
        )
    )
