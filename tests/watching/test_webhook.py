"""The webhook: in order, each result until it is taken, after a restart too, and nobody waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_jax.watching.journal import Done, Known, WatchJournal
from sage_jax.watching.webhook import Webhook
from tests.support.endpoint_server import EndpointServer, Served, served


def add(journal: WatchJournal, *numbers: int) -> None:
    for number in numbers:
        journal.record([Done(b"%d" % number, Known("", str(number)), json.dumps({"image": str(number)}))])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def webhook(journal: WatchJournal, address: str, said: list[str] | None = None, **options: Any) -> Webhook:
    options = {"first_wait": 0.01, "timeout_seconds": 5.0, **options}
    return Webhook(address, journal, name="line 3", say=[].append if said is None else said.append, **options)


def images(server: EndpointServer) -> list[str]:
    return [body["image"] for body in server.bodies]


def test_results_are_posted_in_order_with_key_and_number(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)
    add(journal, 1)
    with served(lambda body, number: Served(b"{}")) as server:
        hook = webhook(journal, server.url, api_key="secret-key")
        hook.start()
        add(journal, 2, 3)
        hook.wake()
        until(lambda: len(server.bodies) == 2)
        assert hook.stop() == 0
        assert images(server) == ["2", "3"], "what was there before the first use is not posted"
        assert [body["number"] for body in server.bodies] == [2, 3] and set(server.keys) == {"Bearer secret-key"}


@pytest.mark.parametrize(
    "bad", [Served(b"", 500), Served(b"", 404), Served(b"", 301, {"Location": "/other"}), Served(closed=True)]
)
def test_a_result_that_is_not_taken_is_posted_until_it_is(tmp_path: Path, bad: Served) -> None:
    journal, said = WatchJournal(tmp_path), list[str]()
    with served(lambda body, number: bad if number < 3 else Served(b"")) as server:
        hook = webhook(journal, server.url, said, api_key="secret-key")
        hook.start()
        add(journal, 1, 2)
        hook.wake()
        until(lambda: len(server.bodies) == 5)
        hook.stop()
        assert images(server) == ["1", "1", "1", "1", "2"]
    assert len(said) == 2 and "tried again after" in said[0] and "taken again" in said[1]
    assert "secret" not in "".join(said)


def test_what_is_left_is_posted_after_a_restart(tmp_path: Path) -> None:
    journal, said = WatchJournal(tmp_path), list[str]()
    hook = webhook(journal, "http://127.0.0.1:9/", said)
    hook.start()
    add(journal, 1, 2)
    until(lambda: bool(said))
    assert hook.stop() == 2 and "no reply" in said[0]
    with served(lambda body, number: Served(b"")) as server:
        again = webhook(WatchJournal(tmp_path), server.url)
        again.start()
        until(lambda: len(server.bodies) == 2)
        again.stop()
        assert images(server) == ["1", "2"]


def test_a_slow_receiver_holds_nobody_up_and_a_stop_does_not_wait_for_the_back_off(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)
    with served(lambda body, number: Served(b"", 503)) as server:
        hook = webhook(journal, server.url, first_wait=60.0)
        hook.start()
        start = time.monotonic()
        add(journal, *range(1, 20))
        hook.wake()
        until(lambda: len(server.bodies) == 1)
        assert hook.stop() == 19
        assert time.monotonic() - start < 20.0


def test_a_journal_that_breaks_ends_the_webhook_with_its_fault(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)
    hook = webhook(journal, "http://127.0.0.1:9/")
    journal.path.unlink()
    journal.path.write_bytes(b"no database" * 1000)
    hook.start()
    until(lambda: hook.error is not None)
    assert journal.path.name in str(hook.error)
