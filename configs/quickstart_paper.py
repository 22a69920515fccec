"""Quickstart with SAGE as the paper has it, beside configs/quickstart.py, whose readings and additions are ours.

What differs is the same as in configs/deeppcb_paper.py. Data, sizes, steps and rates are those of the quickstart.
Hardware: 2 CPU cores, 6 GB of memory, about ten minutes.
Command: python -m sage_jax.main --config configs/quickstart_paper.py
"""

import ml_collections

from sage_jax.config import to_config_dict
from sage_jax.config.command_line import load_config
from sage_jax.config.published import as_published


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    return to_config_dict(as_published(load_config("quickstart"), run_dir="runs/quickstart_paper"))
