"""Ablation: base, facts as plain text, SFE, SFE + DPO, SFE + E-DPO on the quickstart's data, over three seeds.

Goal: the order of the paper's ablation (docs/method.md: MLE of SFE + E-DPO >= SFE + DPO >= SFE > plain facts >= base),
with intervals, on enough test images to tell small differences; the table goes to `run_dir`/ablation.md.
Hardware: 2 CPU cores, about 40 minutes a seed; a run that was stopped goes on where it stopped.
Command: python -m sage_jax.main --config configs/ablation.py
"""

import dataclasses

import ml_collections

from sage_jax.config import to_config_dict
from sage_jax.config.command_line import load_config


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = load_config("quickstart")
    data = dataclasses.replace(config.data, num_test=2000)
    return to_config_dict(dataclasses.replace(config, run_dir="runs/ablation", stages="ablate", data=data))
