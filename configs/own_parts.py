"""Own parts: photographs of one's own, of good parts alone or with some defects, trained from nothing.

Goal: from a folder of photographs to a model that tells good parts from defective ones, says what and where, and has a
threshold with a promise. Defects are drawn into the good photographs; real ones train beside them where there are any.
Data: `data.root`, one folder of images of good parts, or `good/` and a folder for each kind of defect
(docs/how-to/good-parts-alone.md). Photographs are shrunk to 128 px: a defect below 1/30 of the side is not seen.
Hardware: 2 CPU cores, about half an hour for 200 photographs.
Command: python -m sage_jax.main --config configs/own_parts.py --config.data.root=FOLDER
"""

import dataclasses

import ml_collections

from sage_jax.config import DataConfig, TrainConfig, to_config_dict
from sage_jax.config.command_line import load_config


def shorter(stage: TrainConfig) -> TrainConfig:
    """Stage 1 for some thousands of images, most of them copies."""
    return dataclasses.replace(stage, steps=2400)


def get_config() -> ml_collections.ConfigDict:
    """The experiment."""
    config = load_config("deeppcb")
    data = DataConfig(
        source="folder", root="parts", num_train=0, num_test=0, shrink_px=128, drawn_defects=16, register="rigid"
    )
    text = dataclasses.replace(config.text, vocab_size=768, buckets=())
    return to_config_dict(
        dataclasses.replace(
            config,
            run_dir="runs/own_parts",
            data=data,
            text=text,
            sfe=shorter(config.sfe),
            plain=shorter(config.plain),
        )
    )
