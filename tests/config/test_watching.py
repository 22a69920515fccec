"""Config of watching and of the page: what cannot be is refused with its field."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.config import Config, ConfigError, ReviewConfig, WatchConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"poll_seconds": 0.0}, "poll_seconds"),
        ({"webhook_seconds": float("nan")}, "webhook_seconds"),
        ({"settle_seconds": -1.0}, "settle_seconds"),
        ({"patience_seconds": float("inf")}, "patience_seconds"),
        ({"webhook": "localhost:80"}, "webhook = 'localhost:80'"),
        ({"webhook": "http://user:pass@host/"}, "name or password"),
        ({"webhook": "http://a", "webhook_key_env": "sk-secret"}, "webhook_key_env"),
        ({"webhook_key_env": "KEY"}, "there is no webhook"),
    ],
)
def test_impossible_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        WatchConfig(**fields)
    assert "pass@" not in str(found.value) and "sk-secret" not in str(found.value)


def test_a_session_ends_some_time() -> None:
    with pytest.raises(ConfigError, match="session_hours"):
        ReviewConfig(session_hours=0.0)


def test_watch_runs_alone_and_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="watch.folder"):
        Config(stages="watch")
    with pytest.raises(ConfigError, match="alone"):
        Config(stages="prepare,watch", watch=WatchConfig(folder="images"))
    assert Config(stages="watch", watch=WatchConfig(folder="images")).stage_names == ("watch",)
