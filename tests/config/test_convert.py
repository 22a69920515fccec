"""Dataclasses to a ConfigDict and back, and what is said of values that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sage_jax.config import Config, from_config_dict, to_config_dict
from sage_jax.config.command_line import load_config
from sage_jax.config.shipped import shipped_configs
from sage_jax.errors import ConfigError


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_comes_back_the_same_and_through_json_too(name: str) -> None:
    config = load_config(name)
    values = to_config_dict(config)
    assert from_config_dict(values) == config
    assert from_config_dict(json.loads(json.dumps(values.to_dict()))) == config


def test_the_config_dict_takes_no_new_field() -> None:
    with pytest.raises(AttributeError, match="locked"):
        to_config_dict(Config()).stepz = 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sed": 1}, r"^config.sed: no such field; did you mean 'seed'\?"),
        ({"sfe": {"step": 1}}, r"^config.sfe.step: no such field; did you mean 'steps'\?"),
        ({"sfe": {"steps": "9"}}, r"^config.sfe.steps = '9': expected int, got str"),
        ({"sfe": {"steps": 9.0}}, r"^config.sfe.steps = 9.0: expected int, got float"),
        ({"sfe": {"steps": True}}, r"^config.sfe.steps = True: expected int, got bool"),
        ({"sfe": {"steps": 0}}, r"^config.sfe.steps = 0: must be above 0"),
        ({"sfe": 3}, r"^config.sfe = 3: expected its fields, config.sfe.<field>"),
        ({"sfe": {"freeze": "vit/"}}, r"^config.sfe.freeze = 'vit/': expected a tuple, such as \('vit/',\)"),
        ({"sfe": {"freeze": (1,)}}, r"^config.sfe.freeze\[0\] = 1: expected str"),
        ({"sfe": {"schedule": "cosin"}}, r"^config.sfe.schedule = 'cosin' is none of cosine, constant; did you mean"),
    ],
)
def test_a_value_of_another_kind_is_told_by_its_path(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_config_dict(values)


def test_a_whole_number_serves_as_a_rate_and_a_list_as_a_tuple() -> None:
    config = from_config_dict({"sfe": {"peak_learning_rate": 1, "freeze": ["vit/", "adapter/"]}})
    assert config.sfe.peak_learning_rate == 1.0 and isinstance(config.sfe.peak_learning_rate, float)
    assert config.sfe.freeze == ("vit/", "adapter/")
