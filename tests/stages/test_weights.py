"""Parameters of a run's stages, fresh, stored and for answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sage_jax.config import ConfigError
from sage_jax.models.sage import copy_text_encoder
from sage_jax.stages.run import Run
from tests.support.tiny_export import TRAINED_HERE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path_factory.mktemp("run"))))


def test_the_first_stage_starts_fresh_and_a_later_one_from_what_was_stored(run: Run) -> None:
    fresh, base = run.weights.start("base"), run.weights.stored("base", wanted_by="test")
    assert fresh.keys() == base.keys() == run.weights.structure.shapes.keys()
    assert any((fresh[path] != base[path]).any() for path in base)
    begun, copied = run.weights.start("sfe"), copy_text_encoder(dict(base))
    for path in base:
        np.testing.assert_array_equal(begun[path], copied[path], err_msg=path)
    devices = set(run.mesh.devices.flat)
    assert all(leaf.sharding.device_set == devices for leaf in fresh.values())


def test_a_stage_that_is_not_finished_is_named_with_what_to_run(run: Run) -> None:
    for ask in (run.weights.stored, run.weights.merged, run.weights.answering):
        with pytest.raises(ConfigError, match=r"stage 'export' needs stage 'edpo', .*--config.stages=edpo,export"):
            ask("edpo", wanted_by="export")


def test_without_adapters_all_ways_give_the_same_and_answers_may_be_narrow(run: Run, tmp_path: Path) -> None:
    stored = run.weights.stored("sfe", wanted_by="test")
    for found in (run.weights.merged("sfe", wanted_by="test"), run.weights.answering("sfe", wanted_by="test")):
        for path in stored:
            np.testing.assert_array_equal(found[path], stored[path], err_msg=path)
    config = dataclasses.replace(
        run.config, evaluate=dataclasses.replace(run.config.evaluate, weights_dtype="bfloat16")
    )
    narrow = dataclasses.replace(run.weights, config=config).answering("sfe", wanted_by="test")
    kernels = [path for path in narrow if narrow[path].dtype == jnp.bfloat16]
    assert len(kernels) > 10
    for path in kernels:
        np.testing.assert_array_equal(narrow[path], stored[path].astype(jnp.bfloat16), err_msg=path)
