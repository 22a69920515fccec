"""What a plan says to change makes the stage fit, by the same prediction, and is the least costly of its kind."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.config import Config, ConfigError, MeshConfig, from_config_dict, to_config_dict
from sage_jax.plan.memory import predict_memory, usable_bytes
from sage_jax.plan.search import Change, find_changes, overrides
from tests.support.tiny_plan import CONFIG


def on_devices(number: int, gigabytes: float, config: Config = CONFIG) -> Config:
    plan = dataclasses.replace(config.plan, num_devices=number, device_memory_gb=gigabytes, usable_share=1.0)
    return dataclasses.replace(config, plan=plan)


def applied(config: Config, change: Change) -> Config:
    """The config with the change's overrides, as the command line applies them."""
    values = to_config_dict(config)
    with values.unlocked():
        for override in change.overrides:
            path, _, value = override.removeprefix("--config.").partition("=")
            values.update_from_flattened_dict({path: int(value) if value.isdigit() else value})
    return from_config_dict(values)


def test_usable_memory_is_the_devices_share() -> None:
    assert usable_bytes(CONFIG) == int(0.92 * 80e9)
    assert usable_bytes(on_devices(8, 2.5)) == 2_500_000_000


@pytest.mark.parametrize("stage", ["sfe", "edpo"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.45, 0.3])
def test_changes_fit_by_the_prediction_that_found_them(stage: str, share: float) -> None:
    remat = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat="none"))
    needed = predict_memory(on_devices(1, 1.0, remat), stage).peak
    config = on_devices(1, share * needed / 1e9, remat)
    changes = find_changes(config, stage)
    assert changes and all(change.overrides for change in changes)
    for change in changes:
        changed = applied(config, change)
        assert predict_memory(changed, stage).peak == change.peak <= usable_bytes(config)


def test_computing_again_comes_before_smaller_micro_batches_and_both_before_lora() -> None:
    none = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat="none"))
    peaks = {}
    for remat in ("none", "dots", "full"):
        model = dataclasses.replace(none.model, remat=remat)
        peaks[remat] = predict_memory(on_devices(1, 1.0, dataclasses.replace(none, model=model)), "edpo").peak
    (change,) = find_changes(on_devices(1, peaks["dots"] / 1e9, none), "edpo")
    assert change.overrides == ("--config.model.remat=dots",) and change.same_model
    (change,) = find_changes(on_devices(1, 0.9 * peaks["full"] / 1e9, none), "edpo")
    assert any("edpo.accumulate" in override for override in change.overrides) and change.same_model


def test_where_the_state_alone_is_too_much_there_are_more_devices_or_lora() -> None:
    one = dataclasses.replace(CONFIG, edpo=dataclasses.replace(CONFIG.edpo, accumulate=8), mesh=MeshConfig())
    plan = predict_memory(on_devices(1, 1.0, one), "edpo")
    config = on_devices(1, 0.97 * (plan.peak - plan.activations) / 1e9, one)
    more, other = find_changes(config, "edpo")
    assert "--config.plan.num_devices=2" in more.overrides and more.same_model
    assert any("lora.rank=16" in override for override in other.overrides) and not other.same_model


def test_nothing_is_said_where_nothing_helps() -> None:
    assert find_changes(on_devices(1, 1e-6), "sfe") == []


def test_a_batch_that_does_not_divide_gets_a_mesh_that_it_divides_over() -> None:
    config = on_devices(16, 80.0)
    with pytest.raises(ConfigError, match="does not divide"):
        predict_memory(config, "sfe")
    (change,) = find_changes(config, "sfe")
    assert predict_memory(applied(config, change), "sfe").peak == change.peak


def test_a_mesh_that_only_says_what_minus_one_stands_for_is_no_change() -> None:
    named = dataclasses.replace(CONFIG, mesh=MeshConfig(1, 8, 1))
    assert overrides(CONFIG, named, "sfe") == ()
    assert overrides(CONFIG, dataclasses.replace(CONFIG, mesh=MeshConfig(2, 4, 1)), "sfe") == (
        "--config.mesh.data=2",
        "--config.mesh.fsdp=4",
    )
