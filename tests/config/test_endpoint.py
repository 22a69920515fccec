"""Config of endpoints: each section that asks one has the same fields with their meaning; and what is sent of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sage_jax.config import ConfigError, FactsConfig, JudgeConfig, field_meanings
from sage_jax.config.endpoint import EndpointConfig

SHARED = [field.name for field in dataclasses.fields(EndpointConfig)]


@pytest.mark.parametrize("section", [FactsConfig, JudgeConfig])
def test_every_section_has_the_same_fields_and_says_what_they_mean(section: type[EndpointConfig]) -> None:
    assert [field.name for field in dataclasses.fields(section)][: len(SHARED)] == SHARED
    assert set(field_meanings(section)) == {field.name for field in dataclasses.fields(section)}
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"base_url": "localhost:8000/v1"}, "give an address such as http://localhost:8000/v1"),
        ({"api_key_env": "sk-hidden"}, "never the key"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"asks": 0}, "asks = 0"),
        ({"retries": -1}, "retries = -1"),
        ({"max_total_tokens": -1}, "max_total_tokens = -1"),
    )
    for fields, said in wrong:
        with pytest.raises(ConfigError, match=said):
            section(**fields)


def test_what_is_below_zero_is_not_sent() -> None:
    sent = EndpointConfig(model="m", temperature=0.5, seed=3, reply_tokens=7).sent(2)
    assert sent == {"model": "m", "temperature": 0.5, "seed": 5, "reply_tokens": 7, "repetition": 2}
    none = EndpointConfig(model="m", temperature=-1, seed=-1, reply_tokens=0).sent()
    assert (none["temperature"], none["seed"], none["reply_tokens"]) == (None, None, 0)
