"""SAGE as the paper has it: an experiment of ours with our readings and additions taken out."""

from __future__ import annotations

import dataclasses
from typing import Final

from sage_jax.config.run import Config
from sage_jax.config.training import PreferenceConfig, TrainConfig

_FROZEN: Final = ("vit/", "fact_encoder/")
_DPO: Final = PreferenceConfig(eta=0.0, lambda_hard=0.0)


def as_published(config: Config, *, run_dir: str) -> Config:
    """The config with the paper's method on the same data, sizes, steps and rates.

    | | paper | ours may differ by |
    |---|---|---|
    | similarity | `max` | `aligned` for registered pairs |
    | fusion | distinct patches alone | differences, places, marks in the image |
    | words of places | the decoder's | the decoder's and the map's |
    | map | of tokens | drawn finer by pixels, of registered pairs |
    | encoder | patches, frozen in stage 1 | a convolutional stem, trained |
    | optimizer | AdamW | Muon for the matrices of layers |
    | loss of stage 1 | next token | weights on claims, dense similarity on masks |
    | stage 2 | adjacent pair `hard`, extreme pair, nothing else | `soft`, other weights, next-token loss |
    | base model | as it comes | dense similarity on masks |
    """
    fusion = dataclasses.replace(
        config.model.fusion, similarity="max", difference="none", difference_places=False, mark_image=False
    )
    decoding = dataclasses.replace(config.evaluate.decoding, map_places=0.0)
    vit = dataclasses.replace(config.model.vit, stem="patch")
    return dataclasses.replace(
        config,
        run_dir=run_dir,
        model=dataclasses.replace(config.model, vit=vit, fusion=fusion),
        evaluate=dataclasses.replace(config.evaluate, decoding=decoding, map_detail="tokens"),
        base=_plain(config.base),
        plain=dataclasses.replace(_plain(config.plain), freeze=_FROZEN),
        sfe=dataclasses.replace(_plain(config.sfe), freeze=_FROZEN),
        base_dpo=dataclasses.replace(_plain(config.base_dpo), preference=_DPO),
        dpo=dataclasses.replace(_plain(config.dpo), preference=_DPO),
        edpo=dataclasses.replace(_plain(config.edpo), preference=PreferenceConfig()),
    )


def _plain(train: TrainConfig) -> TrainConfig:
    return dataclasses.replace(train, optimizer="adamw", claim_weight=1.0, similarity_weight=0.0, naming_weight=0.0)
