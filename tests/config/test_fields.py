"""Paths and meanings of config fields, and the way from other programs' names to ours."""

from __future__ import annotations

import dataclasses
import operator
import typing

import pytest

from sage_jax.config import Config
from sage_jax.config import fields as fields_module
from sage_jax.config.fields import check_known, field_meanings, field_paths
from sage_jax.errors import ConfigError

PATHS = list(field_paths())


def test_every_path_leads_to_a_value_and_none_comes_twice() -> None:
    assert len(PATHS) == len(set(PATHS)) > 150
    for path in PATHS:
        operator.attrgetter(path)(Config())
        check_known(path)


def test_every_field_has_a_meaning() -> None:
    seen = [Config]
    for cls in seen:
        assert field_meanings(cls).keys() == {field.name for field in dataclasses.fields(cls)}, cls
        assert all(field_meanings(cls).values())
        hints = typing.get_type_hints(cls).values()
        seen += [hint for hint in hints if dataclasses.is_dataclass(hint) and hint not in seen]
    assert len(seen) > 12


def test_every_synonym_leads_to_a_field() -> None:
    names = {path.rpartition(".")[2] for path in PATHS}
    assert all(meant in PATHS or meant in names for meant in fields_module._SYNONYMS.values())
    assert not fields_module._SYNONYMS.keys() & set(PATHS)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("lr", "did you mean --config.base.peak_learning_rate or"),
        ("sfe.lr", r"did you mean --config.sfe.peak_learning_rate\?$"),
        ("sfe.epochs", r"did you mean --config.sfe.steps\?$"),
        ("checkpoint", r"did you mean --config.model.weights\?$"),
        ("data.train", r"did you mean --config.data.num_train\?$"),
        ("sfe.learning-rate", r"did you mean --config.sfe.peak_learning_rate\?$"),
        ("sfe.stepz", r"did you mean --config.sfe.steps\?$"),
        ("gpus", "CUDA_VISIBLE_DEVICES chooses among GPUs"),
        ("resume", "the same command goes on where a run stopped"),
        ("data.qqqqq", "there are data.source, data.root"),
        ("seed.of", "seed has no fields of its own|there are|did you mean"),
    ],
)
def test_a_wrong_name_is_told_what_it_may_mean(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_known(path)
