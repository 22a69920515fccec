"""The model of a run for inspection: the last trained stage unless another is named, and a message without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sage_jax.config import ConfigError
from sage_jax.stages.answering_model import inspection_model
from tests.support.tiny_export import TRAINED_HERE, make_run


def test_the_last_trained_stage_answers_unless_another_is_named(tmp_path: Path) -> None:
    run = make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run")))
    assert inspection_model(run, wanted_by="inspect").stage == "sfe"
    model = inspection_model(run, "base", wanted_by="inspect")
    assert model.stage == "base" and {*model.thresholds} == {False, True}
    with pytest.raises(ConfigError, match="stage 'inspect' needs stage 'edpo'"):
        inspection_model(run, "edpo", wanted_by="inspect")
