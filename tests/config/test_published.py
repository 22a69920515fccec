"""The paper's method taken out of an experiment of ours."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.config import PreferenceConfig
from sage_jax.config.command_line import load_config
from sage_jax.config.published import as_published


@pytest.mark.parametrize("name", ["quickstart", "deeppcb"])
def test_a_paper_config_has_the_papers_method_and_our_data_and_sizes(name: str) -> None:
    ours, paper = load_config(name), load_config(f"{name}_paper")
    assert paper == as_published(ours, run_dir=f"runs/{name}_paper")
    fusion = paper.model.fusion
    assert (fusion.similarity, fusion.difference, fusion.difference_places, fusion.mark_image) == (
        *("max", "none"),
        *(False, False),
    )
    assert paper.model.vit.stem == "patch"
    assert paper.edpo.preference == PreferenceConfig() and paper.edpo.preference.selection == "hard"
    for stage in ("base", "plain", "sfe", "base_dpo", "dpo", "edpo"):
        theirs, mine = getattr(paper, stage), getattr(ours, stage)
        assert theirs.claim_weight == 1.0 and theirs.similarity_weight == 0.0 and theirs.optimizer == "adamw"
        for field in ("steps", "batch_size", "peak_learning_rate", "questions_per_image", "reference_drop_rate"):
            assert getattr(theirs, field) == getattr(mine, field), (stage, field)
    assert {"vit/", "fact_encoder/"} <= set(paper.sfe.freeze)
    for stage in ("base_dpo", "dpo"):
        assert getattr(paper, stage).preference == PreferenceConfig(eta=0.0, lambda_hard=0.0)
    assert (ours.sfe.optimizer == "muon") == (name == "quickstart")
    assert (paper.data, paper.text) == (ours.data, ours.text)
    assert (ours.evaluate.decoding.map_places > 0.0) == (name == "deeppcb")
    assert paper.evaluate.decoding.map_places == 0.0
    assert (ours.evaluate.map_detail, paper.evaluate.map_detail) == ("pixels", "tokens")
    same = {"decoding": ours.evaluate.decoding, "map_detail": "pixels"}
    assert dataclasses.replace(paper.evaluate, **same) == ours.evaluate
    assert dataclasses.replace(paper.model.decoder) == ours.model.decoder
