"""The model of a run without its parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.config import LoraConfig
from sage_jax.parameters import merge
from sage_jax.stages.run import Run
from sage_jax.stages.structure import Structure, shapes_without_tokenizer
from sage_jax.training.lora_params import start_params
from tests.support.tiny_export import TRAINED_HERE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path_factory.mktemp("run"))), stages=())


def test_the_table_has_a_row_for_each_token_or_as_many_as_were_stored(run: Run) -> None:
    rows = (
        {
            stored: Structure(run.config, run.chat, stored_vocab=stored).shapes["decoder/embedding/table"].shape[0]
            for stored in (0, 10, 999)
        }
        if "decoder/embedding/table" in run.weights.structure.shapes
        else {}
    )
    if not rows:
        (path,) = [path for path in run.weights.structure.shapes if "embedding" in path and path.startswith("decoder/")]
        rows = {}
    for stored in (0, 10, 999):
        shapes = Structure(run.config, run.chat, stored_vocab=stored).shapes
        rows[stored] = shapes["decoder/embedding/embedding"].shape[0]
    assert rows == {0: run.chat.vocab_size, 10: run.chat.vocab_size, 999: 999}


def test_shapes_are_those_of_the_parameters_and_the_seed_draws_them(run: Run) -> None:
    structure = run.weights.structure
    params = structure.create_params()
    assert {path: leaf.shape for path, leaf in params.items()} == {p: s.shape for p, s in structure.shapes.items()}
    again = structure.create_params()
    other = Structure(dataclasses.replace(run.config, seed=run.config.seed + 1), run.chat).create_params()
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, again[path], err_msg=path)
    assert any((params[path] != other[path]).any() for path in params)
    merge(structure.graphdef, params)


def test_one_kind_of_parameters_has_one_structure(run: Run) -> None:
    structure = run.weights.structure
    params = structure.create_params()
    assert structure.of(params) is structure.graphdef
    adapted = start_params(dict(params), LoraConfig(rank=2), 0)
    assert structure.of(adapted, scale=0.5) is structure.of(adapted, scale=0.5) is not structure.graphdef
    assert structure.of(adapted, scale=0.5) is not structure.of(adapted, scale=1.0)


def test_checks_before_there_is_a_tokenizer_know_every_path(run: Run) -> None:
    shapes = shapes_without_tokenizer(run.config)
    assert shapes.keys() == run.weights.structure.shapes.keys()
    differing = {path for path in shapes if shapes[path].shape != run.weights.structure.shapes[path].shape}
    assert differing == {path for path in shapes if "embedding/embedding" in path} | {"decoder/output/kernel"}
