"""The client against a real server that answers well, slowly, wrongly, and not at all."""

from __future__ import annotations

import email.utils
import itertools
import socket
import threading
import time
from typing import Any

import pytest

from sage_jax.endpoint.budget import Budget, BudgetUsedUp
from sage_jax.endpoint.chat import ChatRequest, Message
from sage_jax.endpoint.client import Endpoint, EndpointError, Stopped, Unanswered
from tests.support.endpoint_server import Served, chat, failing, served

REQUEST = ChatRequest("judge-1", (Message("user", "Is it so?"),), temperature=0.0)
KEY = "sk-secret-1234"


def client(url: str, **options: Any) -> Endpoint:
    return Endpoint(url, **{"backoff_seconds": 0.01, "timeout_seconds": 5.0, "retries": 2, **options})


def in_turn(*responses: Served) -> Any:
    """Gives the responses one after the other, the last one ever after."""
    return lambda body, number: responses[min(number, len(responses) - 1)]


def test_a_reply_comes_from_the_address_with_model_messages_and_key() -> None:
    with served(in_turn(chat("It is."))) as server:
        for base_url in (server.url, f"{server.url}/", f"{server.url}/chat/completions"):
            endpoint = client(base_url, api_key=KEY)
            assert endpoint.ask(REQUEST).text == "It is."
        assert client(server.url).ask(REQUEST).total_tokens == 10
    assert set(server.paths) == {"/v1/chat/completions"}
    assert server.bodies[0] == REQUEST.body()
    assert server.keys == [f"Bearer {KEY}"] * 3 + [None]
    assert (endpoint.budget.requests, endpoint.budget.total_tokens) == (1, 10)


@pytest.mark.parametrize(
    "passing",
    [
        failing(429, "slow down"),
        failing(500, "sorry"),
        failing(503, "loading the model"),
        failing(408),
        Served(b"Bad gateway", 502),
        Served(closed=True),
        Served(b'{"choices": [{"message": {"content": "It is."}}]}', cut=True),
        Served(b"<html>a page of a proxy</html>"),
        Served(b"", 200),
        Served(chat("It is.").body, delay=1.6),
        Served(chat("It is.").body, pieces=25),
    ],
    ids=["429", "500", "503", "408", "502", "closed", "cut", "page", "empty", "late", "dripping"],
)
def test_what_may_pass_is_asked_again_and_what_stays_is_unanswered(passing: Served) -> None:
    with served(in_turn(passing, chat("It is."))) as server:
        endpoint = client(server.url, timeout_seconds=1.0)
        assert endpoint.ask(REQUEST).text == "It is."
        assert endpoint.budget.requests == len(server.bodies) == 2
    with served(in_turn(passing)) as server:
        with pytest.raises(Unanswered, match=r"\(2 times asked\)"):
            client(server.url, timeout_seconds=1.0, retries=1).ask(REQUEST)
        assert len(server.bodies) == 2


def test_nobody_at_the_address_is_told_with_the_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(Unanswered, match=r"cannot be reached: .*refused.* \(3 times asked\)"):
        client(url).ask(REQUEST)


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://127.0.0.1/a b/v1", "http://127.0.0.1/\u00fc/v1"])
def test_what_is_no_address_is_told_at_once(url: str) -> None:
    with pytest.raises(EndpointError, match="is no address"):
        client(url, retries=9, backoff_seconds=60.0).ask(REQUEST)


def test_retry_after_is_waited_for_by_all_threads() -> None:
    moments = [failing(429, Retry_After="1")]
    with served(lambda body, number: moments.pop() if moments else chat("It is.")) as server:
        endpoint = client(server.url)
        first = threading.Thread(target=endpoint.ask, args=(REQUEST,))
        first.start()
        while not server.bodies or server.at_once:
            time.sleep(0.01)
        time.sleep(0.1)
        assert endpoint.ask(REQUEST).text == "It is."
        first.join()
        assert len(server.times) == 3 and min(server.times[1:]) - server.times[0] > 0.95


def test_retry_after_may_be_a_date_or_longer_than_anyone_waits() -> None:
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    with served(in_turn(failing(503, Retry_After=date), chat("It is."))) as server:
        assert client(server.url).ask(REQUEST).text == "It is."
        assert server.times[1] - server.times[0] > 0.9
    with served(in_turn(failing(429, Retry_After="soon"), chat("It is."))) as server:
        assert client(server.url).ask(REQUEST).text == "It is."
    with served(in_turn(failing(429, Retry_After="90000"))) as server:
        with pytest.raises(EndpointError, match="asks to wait 90000 s"):
            client(server.url).ask(REQUEST)


def test_the_back_off_doubles_with_jitter() -> None:
    with served(in_turn(failing(500))) as server:
        with pytest.raises(Unanswered):
            client(server.url, retries=3, backoff_seconds=0.2).ask(REQUEST)
    waits = [after - before for before, after in itertools.pairwise(server.times)]
    for wait, longest in zip(waits, (0.2, 0.4, 0.8), strict=True):
        assert longest / 2 <= wait < longest + 2


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (failing(400, "max_tokens\nis not supported"), "refuses the request: 400 Bad Request: max_tokens is not"),
        (failing(401, f"Incorrect key {KEY}"), r"401 Unauthorized: Incorrect key \[key\] \(check the key"),
        (Served(b'{"error": "model \\"m\\" not found"}', 404), '404 Not Found: model "m" not found .*base_url'),
        (Served(b'{"detail": "unprocessable"}', 422), "422 .*: unprocessable"),
        (Served(b"\x1b[31mred" + b"x" * 5000, 403), r"\\x1b\[31mred.*characters"),
    ],
)
def test_what_would_be_refused_again_is_one_error_at_once(response: Served, said: str) -> None:
    with served(in_turn(response)) as server:
        with pytest.raises(EndpointError, match=said) as raised:
            client(server.url, api_key=KEY).ask(REQUEST)
        assert len(server.bodies) == 1
    assert KEY not in str(raised.value) and len(str(raised.value)) < 1500 and "\n" not in str(raised.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_with_or_without_the_key(status: int) -> None:
    with served(in_turn(chat("It is."))) as other:
        there = f"{other.url}/chat/completions"
        with served(in_turn(failing(status, Location=there))) as server:
            with pytest.raises(EndpointError, match=f"{status} .*a redirect to '{there}': give that address"):
                client(server.url, api_key=KEY).ask(REQUEST)
            assert (len(server.bodies), len(other.bodies)) == (1, 0)


def test_no_reply_holds_the_key_and_a_word_in_place_of_one_stays_a_word() -> None:
    with served(lambda body, number: chat(f"Was it {KEY}, or EMPTY?")) as server:
        assert client(server.url, api_key=KEY).ask(REQUEST).text == "Was it [key], or EMPTY?"
        assert client(server.url, api_key="EMPTY").ask(REQUEST).text == f"Was it {KEY}, or EMPTY?"


def test_a_reply_that_breaks_off_is_told_as_such() -> None:
    with served(in_turn(Served(chat("It is.").body, cut=True))) as server:
        with pytest.raises(Unanswered, match=r"breaks off in the middle of a reply \(1 times asked\)"):
            client(server.url, retries=0).ask(REQUEST)


def test_a_request_beyond_the_budget_is_not_sent() -> None:
    with served(in_turn(failing(500))) as server:
        with pytest.raises(BudgetUsedUp, match="judge.max_requests = 2"):
            client(server.url, budget=Budget(max_requests=2, section="judge"), retries=9).ask(REQUEST)
        assert len(server.bodies) == 2


def test_a_stop_ends_the_waiting_and_sends_nothing_more() -> None:
    with served(in_turn(failing(429, Retry_After="60"))) as server:
        endpoint = client(server.url)
        ended: list[type[Exception]] = []

        def ask() -> None:
            try:
                endpoint.ask(REQUEST)
            except Stopped:
                ended.append(Stopped)

        thread = threading.Thread(target=ask)
        thread.start()
        while not server.bodies or server.at_once:
            time.sleep(0.01)
        endpoint.halt()
        thread.join(timeout=5)
        assert ended == [Stopped] and endpoint.stopped
        with pytest.raises(Stopped):
            endpoint.ask(REQUEST)
        assert len(server.bodies) == 1


def test_no_connection_is_opened_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    client("http://somewhere.example/v1", api_key=KEY).halt()
    with pytest.raises(AssertionError, match="no network"):
        client("http://somewhere.example/v1").ask(REQUEST)


@pytest.mark.parametrize("name", ["temperature", "seed", "max_tokens"])
def test_a_field_that_a_model_takes_none_of_is_told_how_to_leave_out(name: str) -> None:
    with served(lambda body, number: failing(400, f"Unsupported parameter: '{name}'")) as server:
        with pytest.raises(EndpointError, match=r"\(temperature=-1, seed=-1 and reply_tokens=0 leave these out\)"):
            Endpoint(server.url).ask(REQUEST)
        assert len(server.bodies) == 1
