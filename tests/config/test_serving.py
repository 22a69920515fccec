"""Config of the service: what cannot be meant is refused before a model is loaded, and no key is quoted."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.config import Config, ServeConfig
from sage_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": ""}, "host is empty"),
        ({"port": 70_000}, "port = 70000"),
        ({"port": -1}, "port = -1"),
        ({"api_key_env": "sk-hidden"}, "never the key"),
        ({"rows": ()}, "rows is empty"),
        ({"rows": (4, 1)}, "ascending"),
        ({"rows": (0, 4)}, "above 0"),
        ({"rows": (4, 4)}, "ascending"),
        ({"threads": 0}, "threads = 0"),
        ({"queue_size": 0}, "queue_size = 0"),
        ({"max_pixels": 0}, "max_pixels = 0"),
        ({"max_body_mb": 0.0}, "max_body_mb"),
        ({"batch_wait_ms": -1.0}, "batch_wait_ms"),
        ({"answer_seconds": float("inf")}, "answer_seconds"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        ServeConfig(**fields)
    assert "hidden" not in str(raised.value)


def test_a_service_is_reached_from_this_machine_alone_unless_told() -> None:
    assert ServeConfig().host == "127.0.0.1" and ServeConfig().api_key_env == ""


def test_a_service_stands_alone_among_the_stages() -> None:
    assert Config(stages="serve").stage_names == ("serve",)
    with pytest.raises(ConfigError, match="give stages = 'serve' alone"):
        Config(stages="evaluate,serve")
