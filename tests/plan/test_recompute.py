"""`model.remat = auto` computes again as little as fits, for the trees that are given."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.config import Config
from sage_jax.plan.abstract_step import tree_size
from sage_jax.plan.memory import predict_memory
from sage_jax.plan.recompute import SETTINGS, Settled, fitting_remat, settled, with_remat
from sage_jax.plan.search import find_changes
from sage_jax.plan.stage_plan import plan_stage
from tests.support.tiny_plan import CONFIG

AUTO = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat="auto"))


def peak_of(setting: Settled, stage: str = "edpo") -> int:
    return predict_memory(with_remat(CONFIG, setting), stage).peak


def with_memory(config: Config, size: int) -> Config:
    """Devices of which arrays may take so many bytes."""
    return dataclasses.replace(
        config, plan=dataclasses.replace(config.plan, device_memory_gb=size / 1e9, usable_share=1.0)
    )


@pytest.mark.parametrize("stage", ["sfe", "edpo"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_least_is_computed_again_with_which_a_stage_fits(stage: str, setting: Settled) -> None:
    peaks = {each: peak_of(each, stage) for each in SETTINGS}
    assert peaks["none"] > peaks["dots"] > peaks["full"]
    found = fitting_remat(AUTO, stage, peaks[setting])
    assert found.setting == setting
    assert found.peaks == {each: peaks[each] for each in SETTINGS[: SETTINGS.index(setting) + 1]}
    found_config, found_setting = settled(with_memory(AUTO, peaks[setting]), stage)
    assert found_config.model.remat == found_setting == setting
    assert f"remat = {setting} (auto" in str(found)


def test_where_nothing_fits_everything_is_computed_again_and_other_changes_are_looked_for() -> None:
    least = peak_of("full")
    assert fitting_remat(AUTO, "edpo", least - 1).setting == "full"
    lacking = with_memory(AUTO, int(0.9 * least))
    plan = plan_stage(lacking, "edpo")
    assert not plan.fits and plan.remat == "full"
    assert not any("remat" in override for change in plan.changes[:1] for override in change.overrides)
    assert find_changes(lacking, "edpo")[0].peak <= 0.9 * least


def test_a_plan_takes_what_fits_and_a_setting_that_is_given_stays() -> None:
    tight = with_memory(AUTO, peak_of("dots"))
    plan = plan_stage(tight, "edpo")
    assert plan.fits and plan.remat == "dots" and plan.memory is not None and plan.memory.peak == peak_of("dots")
    given = with_memory(with_remat(CONFIG, "none"), peak_of("dots"))
    assert settled(given, "edpo") == (given, "none") and not plan_stage(given, "edpo").fits


def test_what_nobody_has_settled_computes_nothing_again() -> None:
    assert predict_memory(AUTO, "edpo") == predict_memory(with_remat(CONFIG, "none"), "edpo")


def test_longer_trees_need_more() -> None:
    tree = tree_size(CONFIG, "edpo")
    shape = dataclasses.replace(tree.shape, length=2 * tree.shape.length, prefix_slots=2 * tree.shape.prefix_slots)
    longer = dataclasses.replace(tree, shape=shape)
    assert fitting_remat(AUTO, "edpo", peak_of("none"), tree=tree).setting == "none"
    assert fitting_remat(AUTO, "edpo", peak_of("none"), tree=longer).setting != "none"
