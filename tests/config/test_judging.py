"""Config of the judge: what cannot be meant is refused, and no key or password is quoted."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.config import Config, JudgeConfig, from_config_dict, to_config_dict
from sage_jax.errors import ConfigError


@pytest.mark.parametrize(
    "address",
    ["", "http://localhost:8000/v1", "https://api.example.org/v1/", "http://[::1]:11434/v1", "http://10.0.0.1/x/v1"],
)
def test_addresses_of_endpoints_are_taken(address: str) -> None:
    assert JudgeConfig(base_url=address).base_url == address


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "localhost:8000/v1"}, "give an address such as http://localhost:8000/v1"),
        ({"base_url": "ftp://localhost/v1"}, "give an address"),
        ({"base_url": "http://"}, "give an address"),
        ({"base_url": "http://host:port/v1"}, "give an address"),
        ({"base_url": "http://[half/v1"}, "give an address"),
        ({"base_url": "http://host/v1?x=1"}, "without '\\?' and '#'"),
        ({"base_url": "http://host/v1#x"}, "without"),
        ({"base_url": "http://me:hidden@host/v1"}, "base_url has a name or password in it"),
        ({"base_url": "http://me:hidden@[half/v1"}, "base_url has a name or password in it"),
        ({"api_key_env": "sk-hidden"}, "never the key"),
        ({"api_key_env": "gsk_hidden"}, "never the key"),
        ({"stages": ("sfee",)}, "did you mean 'sfe'"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"repetitions": 0}, "repetitions = 0"),
        ({"asks": 0}, "asks = 0"),
        ({"concurrency": 0}, "concurrency = 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"retries": -1}, "retries = -1"),
        ({"max_requests": -1}, "max_requests = -1"),
        ({"max_total_tokens": -1}, "max_total_tokens = -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        JudgeConfig(**fields)
    assert "hidden" not in str(raised.value)


def test_the_section_is_part_of_a_run() -> None:
    config = Config(stages="evaluate,judge", judge=JudgeConfig(stages=("sfe",), model="m", repetitions=3))
    assert from_config_dict(to_config_dict(config)) == config
