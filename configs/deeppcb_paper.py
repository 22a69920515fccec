"""DeepPCB with SAGE as the paper has it, beside configs/deeppcb.py, whose readings and additions are ours.

Similarity to the best match anywhere, distinct patches alone in the fusion, a frozen ViT in stage 1, one weight for
all words, hard selection of the adjacent pair and E-DPO alone in stage 2; the base model learns no dense similarity.
Data, sizes, steps and rates are those of configs/deeppcb.py.
Hardware: 2 CPU cores, at most 45 minutes.
Command: python -m sage_jax.main --config configs/deeppcb_paper.py --config.data.root=FOLDER
"""

import ml_collections

from sage_jax.config import to_config_dict
from sage_jax.config.command_line import load_config
from sage_jax.config.published import as_published


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    return to_config_dict(as_published(load_config("deeppcb"), run_dir="runs/deeppcb_paper"))
