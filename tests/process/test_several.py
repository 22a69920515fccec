"""Several processes as one: what tests/test_several_programs.py shows with real ones, here in its parts."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from sage_jax.errors import ConfigError, UserError
from sage_jax.process import several
from sage_jax.process.several import as_lost_process, gather_json, join_processes, leave_if_several

GLOO = "UNKNOWN: Gloo all-reduce failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:23720\nmore"


def test_a_process_alone_gathers_its_own_value_and_is_never_left() -> None:
    assert gather_json({"a": [1, "\u00fc"]}) == [{"a": [1, "\u00fc"]}]
    leave_if_several()
    assert as_lost_process(ValueError(GLOO)) is None


def test_a_lost_process_is_told_and_other_exceptions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    found = as_lost_process(ValueError(GLOO))
    assert isinstance(found, UserError)
    assert "another process has ended or cannot be reached (UNKNOWN: Gloo" in str(found) and "\n" not in str(found)
    assert as_lost_process(ValueError("shapes (2,) and (3,) do not fit")) is None


def test_a_silent_process_counts_as_lost_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: given.update(options))
    join_processes()
    assert given == dict.fromkeys(("heartbeat_timeout_seconds", "shutdown_timeout_seconds"), several.SECONDS_UNTIL_LOST)
    assert several.SECONDS_UNTIL_LOST <= 30

    def fail(**_: Any) -> None:
        raise RuntimeError("no coordinator")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConfigError, match="do not find each other: no coordinator"):
        join_processes()
