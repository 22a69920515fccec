"""Parameters of a finished stage: whole, of the model that is asked for, and as they were written."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sage_jax.config import MeshConfig
from sage_jax.errors import UserError
from sage_jax.parameters import digest
from sage_jax.sharding import make_mesh, param_shardings
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import (
    CheckpointError,
    final_config,
    final_start,
    final_weights,
    is_finished,
    load_final,
    readable,
)
from tests.campaign.mutate import damage
from tests.training.test_checkpoint import assert_same, random_params


def test_final_parameters_come_back_on_the_shardings_asked_for(tmp_path: Path):
    params = random_params(3)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with StageCheckpoints(tmp_path / "sfe", keep_last=1) as checkpoints:
        checkpoints.save_final(params, config_json='{"seed": 3}')
    shardings = param_shardings(params, mesh)
    loaded = load_final(tmp_path / "sfe", shardings)
    assert_same(loaded, params)
    assert {path: leaf.sharding for path, leaf in loaded.items()} == shardings
    whole = load_final(tmp_path / "sfe")
    assert_same(whole, params)
    assert all(leaf.is_fully_replicated for leaf in whole.values())
    assert json.loads(final_config(tmp_path / "sfe")) == {"seed": 3}


def test_final_parameters_can_be_replaced(tmp_path: Path):
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save_final(random_params(0), config_json="{}")
        checkpoints.save_final(random_params(1), config_json="{}")
    assert_same(load_final(tmp_path), random_params(1))


def test_a_replacement_that_fails_leaves_no_finished_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save_final(random_params(0), config_json="{}")
        broken = random_params(1)
        broken["adapter/linear_1/bias"].delete()
        monkeypatch.setattr(
            "sage_jax.training.checkpoint.digest", lambda params: ""
        )  # it would fail before a file is touched
        with pytest.raises(RuntimeError):
            checkpoints.save_final(broken, config_json="{}")
    assert not is_finished(tmp_path)


def test_a_stage_without_its_marker_is_not_finished(tmp_path: Path):
    assert not is_finished(tmp_path)
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save_final(random_params(0), config_json="{}")
    assert is_finished(tmp_path)
    (tmp_path / "DONE.json").unlink()
    with pytest.raises(CheckpointError, match="not finished"):
        load_final(tmp_path)


def test_final_parameters_of_another_model_are_refused_by_name(tmp_path: Path):
    params = random_params(0)
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save_final(params, config_json="{}")
    whole = NamedSharding(make_mesh(MeshConfig()), PartitionSpec())
    with pytest.raises(CheckpointError, match="fusion/head/kernel"):
        load_final(tmp_path, dict.fromkeys((*params, "fusion/head/kernel"), whole))


def test_a_stage_is_marked_with_its_weights_and_those_it_started_from(tmp_path: Path):
    params = random_params(0)
    with StageCheckpoints(tmp_path, keep_last=1, starts_from="base weights") as checkpoints:
        checkpoints.save_final(params, config_json="{}")
    assert (final_weights(tmp_path), final_start(tmp_path)) == (digest(params), "base weights")


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped", "deleted"])
def test_damaged_parameters_are_told_and_never_given(tmp_path: Path, how: str) -> None:
    """Any file of the folder and its marker: what is given is what was written, or there is one error."""
    params, rng, told = random_params(1), random.Random(how), 0
    with StageCheckpoints(tmp_path / "stages" / "sfe", keep_last=1) as checkpoints:
        checkpoints.save_final(params, config_json='{"seed": 1}')
    folder = tmp_path / "stages" / "sfe"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        before = path.read_bytes()
        content = damage(before, how, rng)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        try:
            assert_same(load_final(folder), params)
            assert json.loads(final_config(folder)) == {"seed": 1}
        except CheckpointError as error:
            told += 1
            assert "damaged" in str(error) or "not finished" in str(error)
            assert str(folder) in str(error)
        path.write_bytes(before)
    assert told >= 3
    assert_same(load_final(folder), params)


def test_parameters_of_another_training_under_a_marker_are_told(tmp_path: Path) -> None:
    """Files that are whole each for itself, such as those of a copy that mixed two runs."""
    for name, seed in (("a", 1), ("b", 2)):
        with StageCheckpoints(tmp_path / name / "stages" / "sfe", keep_last=1) as checkpoints:
            checkpoints.save_final(random_params(seed), config_json="{}")
    a, b = (tmp_path / name / "stages" / "sfe" for name in ("a", "b"))
    shutil.rmtree(a / "final")
    shutil.copytree(b / "final", a / "final")
    with pytest.raises(CheckpointError, match="its parameters are not those that were written"):
        load_final(a)
    assert_same(load_final(b), random_params(2))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "RESOURCE_EXHAUSTED"),
        (MemoryError("no room"), "no room"),
        (PermissionError(13, "Permission denied"), "Permission denied: give this user the right to it"),
        (ValueError("PERMISSION_DENIED: Error opening manifest"), "cannot be read: PERMISSION_DENIED"),
    ],
)
def test_what_is_no_damage_is_not_called_so(error: Exception, told: str, tmp_path: Path) -> None:
    """Whoever has too little memory must not be told to delete a trained stage."""
    with pytest.raises(type(error) if not isinstance(error, OSError | ValueError) else UserError) as raised:
        with readable(tmp_path):
            raise error
    assert re.search(told, str(raised.value)) and "delete" not in str(raised.value)
