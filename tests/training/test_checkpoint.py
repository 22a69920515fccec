"""Checkpoints: whole or not there, on any mesh, with what the run needs to go on."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.config import ConfigError, MeshConfig
from sage_jax.process.checksums import damaged
from sage_jax.sharding import make_mesh, param_shardings
from sage_jax.training import checkpoint
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.finished import (
    CheckpointError,
)
from sage_jax.training.optim import TrainConfig, make_optimizer
from tests.campaign.mutate import damage
from tests.support.forked import ROOT, run_forked

SHAPES = {"adapter/linear_1/kernel": (8, 16), "adapter/linear_1/bias": (16,), "adapter/linear_2/kernel": (16, 8)}


def random_params(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SHAPES.items()}


def random_state(seed: int) -> dict[str, Any]:
    params = random_params(seed)
    optimizer = make_optimizer(TrainConfig())
    _, opt_state = optimizer.update(random_params(seed + 1), optimizer.init(params), params)
    return {"params": params, "opt_state": opt_state, "step": jnp.asarray(seed, jnp.int32)}


def abstract(state: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def save(checkpoints: StageCheckpoints, step: int, state: Any, loader_state: Any = None, **about: Any) -> None:
    checkpoints.save(step, state, loader_state=loader_state, **{"config_json": "{}", "seconds": 0.0} | about)


def assert_same(left: Any, right: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


@pytest.mark.parametrize("loader_state", [b"\x00\xff position 7", {"epoch": 1, "index": [3, 4]}])
def test_a_run_gets_back_all_it_saved(tmp_path: Path, loader_state: Any):
    state = random_state(4)
    with StageCheckpoints(tmp_path / "sfe", keep_last=1) as checkpoints:
        assert checkpoints.restore_latest(abstract(state)) is None
        save(checkpoints, 4, state, loader_state, config_json='{"sfe": {"steps": 9}}', seconds=12.5)
    with StageCheckpoints(tmp_path / "sfe", keep_last=1) as checkpoints:
        restored = checkpoints.restore_latest(abstract(state))
    assert restored is not None
    assert_same(restored.state, state)
    assert (restored.step, restored.seconds, restored.loader_state) == (4, 12.5, loader_state)
    assert json.loads(restored.config_json) == {"sfe": {"steps": 9}}


def test_a_checkpoint_of_one_mesh_restores_on_another(tmp_path: Path):
    params = random_params(0)
    one, other = make_mesh(MeshConfig(data=2, fsdp=4)), make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 1, jax.device_put(params, param_shardings(params, one)))
        wanted = param_shardings(params, other)
        target = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=wanted[path]) for path, leaf in params.items()
        }
        restored = checkpoints.restore_latest(target)
    assert restored is not None
    assert_same(restored.state, params)
    for path, leaf in restored.state.items():
        assert leaf.sharding == wanted[path]


def test_a_state_donated_right_after_the_save_is_saved_as_it_was(tmp_path: Path):
    state = {"params": jnp.arange(1_000_000, dtype=jnp.float32)}
    expected = np.array(state["params"])
    overwrite = jax.jit(lambda state: {"params": state["params"] * 0.0 - 1.0}, donate_argnums=0)
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 1, state)
        jax.block_until_ready(overwrite(state))
        restored = checkpoints.restore_latest(abstract({"params": jax.ShapeDtypeStruct((1_000_000,), jnp.float32)}))
    assert restored is not None
    np.testing.assert_array_equal(restored.state["params"], expected)


def test_newest_and_best_checkpoints_are_kept_even_over_a_restart(tmp_path: Path):
    state = random_state(0)
    with StageCheckpoints(tmp_path, keep_last=2) as checkpoints:
        for step, score in ((1, 0.5), (2, 0.9), (3, None), (4, 0.1)):
            save(checkpoints, step, state, score=score)
    with StageCheckpoints(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.best_step == 2
        for step, score in ((5, 0.2), (6, 0.3), (7, None)):
            save(checkpoints, step, state, score=score)
        checkpoints.wait()
        assert (checkpoints.best_step, checkpoints.latest_step) == (2, 7)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 6, 7]


def test_a_step_saved_twice_keeps_the_first(tmp_path: Path):
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 3, random_state(0))
        save(checkpoints, 3, random_state(9))
        restored = checkpoints.restore_latest(abstract(random_state(0)))
    assert restored is not None
    assert_same(restored.state, random_state(0))


def test_what_a_killed_save_leaves_is_not_restored(tmp_path: Path):
    child = run_forked([__file__, str(tmp_path)], environment=os.environ, cwd=ROOT)
    assert child.returncode == -signal.SIGKILL, child.stderr
    left = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert any(name.startswith("2.") for name in left), f"the kill came too late to leave a part: {left}"
    with StageCheckpoints(tmp_path, keep_last=2) as checkpoints:
        restored = checkpoints.restore_latest(abstract(large_state(1)))
        assert restored is not None and restored.step == 1
        assert_same(restored.state, large_state(1))
        save(checkpoints, 3, large_state(3))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]


def test_a_checkpoint_of_other_arrays_is_refused_by_name(tmp_path: Path):
    state = random_params(0)
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 1, state)
        wider = state | {"adapter/linear_1/bias": jnp.zeros(20), "adapter/linear_2/bias": jnp.zeros(8)}
        with pytest.raises(CheckpointError) as refused:
            checkpoints.restore_latest(abstract(wider))
    message = str(refused.value)
    assert "['adapter/linear_1/bias']: float32[16] -> float32[20]" in message
    assert "['adapter/linear_2/bias']: (none) -> float32[8]" in message
    assert "linear_1/kernel" not in message and str(tmp_path) in message


def test_a_checkpoint_of_another_version_is_refused_with_the_way_out(tmp_path: Path):
    state = random_state(0)
    with StageCheckpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 1, state | {"rng": jnp.zeros(2, jnp.uint32)})
        with pytest.raises(CheckpointError) as refused:
            checkpoints.restore_latest(abstract(state))
    message = str(refused.value)
    assert "['rng']: uint32[2] -> (none)" in message
    assert f"another version of sage_jax wrote the checkpoint: go on with that one, or delete {tmp_path}" in message


def test_keeping_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="keep_last = 0"):
        StageCheckpoints(tmp_path, keep_last=0)


def large_state(seed: int) -> dict[str, jax.Array]:
    return {"params": jax.random.normal(jax.random.key(seed), (8_000_000,))}


def test_a_checkpoint_of_another_start_is_refused(tmp_path: Path):
    state = random_state(0)
    with StageCheckpoints(tmp_path, keep_last=1, starts_from="first") as checkpoints:
        save(checkpoints, 1, state)
    with StageCheckpoints(tmp_path, keep_last=1, starts_from="first") as checkpoints:
        assert checkpoints.restore_latest(abstract(state)) is not None
    with (
        StageCheckpoints(tmp_path, keep_last=1, starts_from="second") as checkpoints,
        pytest.raises(CheckpointError, match="has been trained anew since, or model.weights has other content; delete"),
    ):
        checkpoints.restore_latest(abstract(state))


if __name__ == "__main__":
    # the process that a test has killed in the middle of its second save
    with StageCheckpoints(sys.argv[1], keep_last=2) as checkpoints:
        save(checkpoints, 1, large_state(1))
        checkpoints.wait()
        save(checkpoints, 2, large_state(2))
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_checkpoint_has_its_checksums_as_soon_as_it_is_whole(tmp_path: Path):
    """A process that is killed behind it, with no other save and no end, leaves it sealed."""
    folder = tmp_path / "sfe" / "checkpoints" / "5"
    with StageCheckpoints(tmp_path / "sfe", keep_last=1) as checkpoints:
        checkpoints.seal_written()
        save(checkpoints, 5, random_state(5))
        end = time.monotonic() + 60
        while not (folder / "checksums.json").exists() and time.monotonic() < end:
            checkpoints.seal_written()  # as each step does
        assert (folder / "checksums.json").exists() and damaged(folder) == []


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped", "deleted"])
def test_a_damaged_checkpoint_is_told_and_not_gone_on_from(tmp_path: Path, how: str):
    state, rng = random_state(4), random.Random(how)
    with StageCheckpoints(tmp_path / "sfe", keep_last=2) as checkpoints:
        save(checkpoints, 3, random_state(3))
        save(checkpoints, 4, state)
    whole = tmp_path / "sfe" / "checkpoints" / "4"
    files = sorted(path for path in whole.rglob("*") if path.is_file() and path.name != "checksums.json")
    for path in rng.sample(files, 6):
        before = path.read_bytes()
        content = damage(before, how, rng)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        if content != before:
            with pytest.raises(CheckpointError, match=rf"{re.escape(str(whole))}.*: damaged.*delete the folder"):
                with StageCheckpoints(tmp_path / "sfe", keep_last=2) as checkpoints:
                    checkpoints.restore_latest(abstract(state))
        path.write_bytes(before)
    shutil.rmtree(whole)  # what the message asks for
    with StageCheckpoints(tmp_path / "sfe", keep_last=2) as checkpoints:
        restored = checkpoints.restore_latest(abstract(state))
        assert restored is not None and restored.step == 3


def test_another_number_of_processes_goes_on_where_all_stood_at_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state(4)
    for folder, places in (("same", (8, 8)), ("apart", (8, 9))):
        monkeypatch.setattr(checkpoint, "gather_json", lambda value, places=places: [{"json": at} for at in places])
        with StageCheckpoints(tmp_path / folder, keep_last=1) as checkpoints:
            save(checkpoints, 4, state, 8)
    with StageCheckpoints(tmp_path / "same", keep_last=1) as checkpoints:
        restored = checkpoints.restore_latest(abstract(state))
    assert restored is not None and restored.loader_state == 8
    with StageCheckpoints(tmp_path / "apart", keep_last=1) as checkpoints:
        with pytest.raises(CheckpointError, match="written by 2 processes, each at a place of its own"):
            checkpoints.restore_latest(abstract(state))
