"""A finished stage is used as what it was trained as, or refused by the fields and stages that differ."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import TRAINING_STAGES, Config, ConfigError
from sage_jax.config.command_line import read_config
from sage_jax.process.checksums import sealed_json
from sage_jax.stages.preflight import check_stages
from sage_jax.stages.provenance import changes_since_training
from sage_jax.stages.run import Run
from tests.support.tiny_run import CONFIG


def config_of(folder: Path, *overrides: str) -> Config:
    sizes = [f"--config.{stage}.batch_size=8" for stage in TRAINING_STAGES]
    return read_config(["--config", str(CONFIG), f"--config.run_dir={folder}", *sizes, *overrides])


def finish(
    folder: Path, stage: str, *, weights: str, starts_from: str = "", config: dict[str, Any] | None = None
) -> None:
    """Leaves the marker of a finished stage."""
    about: dict[str, Any] = {"weights": weights, "starts_from": starts_from}
    marker = folder / "stages" / stage / "DONE.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    about["config"] = json.loads(json.dumps(config or dataclasses.asdict(config_of(folder))))
    marker.write_text(json.dumps(sealed_json(about)))


@pytest.mark.parametrize(
    "override",
    [
        "--config.model.decoder.num_kv_heads=2",
        "--config.model.decoder.rope_theta=5.0",
        "--config.model.fusion.similarity=min",
        "--config.text.assist_position=question",
    ],
)
@pytest.mark.parametrize("wanted_by", ["evaluate", "inspect"])
def test_another_model_or_template_than_the_trained_one_is_refused_by_field(
    tmp_path: Path, override: str, wanted_by: str
) -> None:
    finish(tmp_path, "sfe", weights="s")
    config = config_of(tmp_path, override, f"--config.stages={wanted_by}", "--config.evaluate.stages=('sfe',)")
    field = override.removeprefix("--config.").partition("=")[0]
    with pytest.raises(ConfigError, match=rf"stage '{wanted_by}' needs stage 'sfe', which was .* {field}: "):
        changes_since_training("sfe", tmp_path / "stages" / "sfe", config, wanted_by=wanted_by)
    if wanted_by == "evaluate":  # inspect.stage is not set: the last trained one is known only then
        with pytest.raises(ConfigError, match=field):
            check_stages(Run(config), config.stage_names)


def test_how_it_computes_and_how_much_it_is_given_may_change_and_is_told(tmp_path: Path) -> None:
    finish(tmp_path, "sfe", weights="s")
    config = config_of(
        tmp_path, "--config.model.remat=full", "--config.model.attention=tree", "--config.text.buckets=(256, 2048)"
    )
    told = changes_since_training("sfe", tmp_path / "stages" / "sfe", config, wanted_by="evaluate")
    assert [change.path for change in told] == ["model.remat", "model.attention", "text.buckets"]
    assert not changes_since_training("sfe", tmp_path / "stages" / "sfe", config_of(tmp_path), wanted_by="evaluate")


def test_a_stage_that_trains_on_may_talk_otherwise_but_not_be_another_model(tmp_path: Path) -> None:
    finish(tmp_path, "base", weights="b")
    base = tmp_path / "stages" / "base"
    free = config_of(tmp_path, "--config.text.assist_position=question", "--config.model.fusion.similarity=min")
    assert len(changes_since_training("base", base, free, wanted_by="sfe")) == 2
    with pytest.raises(ConfigError, match="model.vit.norm_eps"):
        changes_since_training("base", base, config_of(tmp_path, "--config.model.vit.norm_eps=0.1"), wanted_by="sfe")


def test_an_option_younger_than_the_stage_has_its_default(tmp_path: Path) -> None:
    config = dataclasses.asdict(config_of(tmp_path))
    del config["model"]["fusion"]["difference_places"]
    finish(tmp_path, "sfe", weights="s", config=config)
    assert not changes_since_training("sfe", tmp_path / "stages" / "sfe", config_of(tmp_path), wanted_by="inspect")


def test_a_stage_whose_start_was_trained_anew_is_refused(tmp_path: Path) -> None:
    finish(tmp_path, "base", weights="b")
    finish(tmp_path, "sfe", weights="second s", starts_from="b")
    finish(tmp_path, "edpo", weights="e", starts_from="first s")
    for stages in ("edpo", "evaluate"):
        config = config_of(tmp_path, f"--config.stages={stages}")
        with pytest.raises(
            ConfigError, match="'edpo' was trained from an earlier 'sfe' .* delete .*edpo to train it again"
        ):
            check_stages(Run(config), config.stage_names)
    finish(tmp_path, "edpo", weights="e", starts_from="second s")
    check_stages(Run(config_of(tmp_path)), ("sfe", "edpo", "evaluate"))


def test_a_stage_whose_start_would_be_trained_anew_is_refused_before_the_training(tmp_path: Path) -> None:
    finish(tmp_path, "base", weights="b")
    finish(tmp_path, "edpo", weights="e", starts_from="s")
    with pytest.raises(ConfigError, match="'edpo' was trained from a 'sfe' that this run trains anew"):
        check_stages(Run(config_of(tmp_path)), ("sfe", "edpo", "evaluate"))
