"""The section of stage `learn`: a training stage with fields of its own."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from sage_jax.config import Config, ConfigError, LearnConfig, TrainConfig, field_meanings, from_config_dict


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"held_out": 0.0}, "held_out = 0.0"),
        ({"held_out": 1.0}, "held_out = 1.0"),
        ({"replay": -1.0}, "replay = -1.0"),
        ({"least": 0}, "least = 0"),
        ({"data_root": "x", "data_source": "adpl"}, "reads the corrections of its run alone"),
        ({"eval_every": 5}, "eval_every = 5"),
        ({"steps": 0}, "steps = 0"),
        ({"answers": "best"}, "preferences are learnt from 'ranked'"),
    ],
)
def test_impossible_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(learn=dataclasses.replace(LearnConfig(), **fields))


def test_a_config_of_before_there_was_the_section_has_its_defaults() -> None:
    values = json.loads(json.dumps(dataclasses.asdict(Config(learn=LearnConfig(steps=70)))))
    assert from_config_dict(values).learn == LearnConfig(steps=70)
    del values["learn"]
    assert from_config_dict(values).learn == LearnConfig()


def test_its_own_fields_are_described_where_they_are_and_the_others_in_every_training_stage() -> None:
    own = {field.name for field in dataclasses.fields(LearnConfig)} - {f.name for f in dataclasses.fields(TrainConfig)}
    assert own <= set(field_meanings(LearnConfig))
