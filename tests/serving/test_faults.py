"""Faults of requests."""

from __future__ import annotations

from sage_jax.serving.faults import KINDS, RequestFault


def test_every_status_has_a_word_of_its_own() -> None:
    assert len({*KINDS.values()}) == len(KINDS)
    assert RequestFault(429, "full", 3).kind == "queue_full" and RequestFault(418, "?").kind == "error"


def test_what_a_message_quotes_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in str(RequestFault(422, "name \x1b[2J"))
