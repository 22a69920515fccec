"""Replies of a form: asked again in the same chat, kept only where they could be read, and never asked twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_jax.endpoint.asking import MOST_UNANSWERED_IN_ROW, Asker, RefusedReply
from sage_jax.endpoint.budget import Budget, BudgetUsedUp
from sage_jax.endpoint.chat import ChatRequest, Message
from sage_jax.endpoint.client import Endpoint, EndpointError, Unanswered
from sage_jax.endpoint.replies import ReplyStore
from tests.support.endpoint_server import EndpointServer, Served, chat, failing, served


def number_in(text: str) -> int:
    if not text.strip().isdigit():
        raise RefusedReply(f"{text!r} is no number")
    return int(text)


def asking(count: int) -> dict[str, ChatRequest]:
    return {str(i): ChatRequest("m", (Message("user", f"What is {i} + 1?"),)) for i in range(count)}


def sum_of(body: dict[str, Any]) -> Served:
    return chat(str(int(body["messages"][0]["content"].split()[2]) + 1))


def asker(server: EndpointServer, path: Path, budget: Budget | None = None, **options: Any) -> Asker[int]:
    endpoint = Endpoint(server.url, backoff_seconds=0.01, retries=1, budget=budget, **options)
    return Asker(endpoint, ReplyStore(path), number_in, correction="Give a number.", asks=3)


def test_answers_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    path, requests = tmp_path / "replies.jsonl", asking(20)
    with served(lambda body, number: sum_of(body)) as server:
        first = asker(server, path)
        found = dict(first.ask_all(requests, threads=4))
        assert found == {str(i): i + 1 for i in range(20)} and len(server.bodies) == 20
        again = asker(server, path)
        assert {name: again.stored(request) for name, request in requests.items()} == found
    assert again.stored(asking(21)["20"]) is None


def test_a_reply_that_cannot_be_read_is_asked_for_again_with_what_was_wrong(tmp_path: Path) -> None:
    texts = ["", "one", "2"]
    with served(lambda body, number: chat(texts[number])) as server:
        ask = asker(server, tmp_path / "replies.jsonl")
        request = asking(1)["0"]
        assert ask.ask(request) == 2
    first, second, third = (body["messages"] for body in server.bodies)
    assert second == first  # an empty reply is no turn of a chat
    assert third == [
        *first,
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "'one' is no number. Give a number."},
    ]
    assert ReplyStore(tmp_path / "replies.jsonl").get(request.key()) == "2"


def test_who_never_gives_the_form_has_no_answer_and_is_not_kept(tmp_path: Path) -> None:
    with served(lambda body, number: chat("many words", finish="length")) as server:
        ask = asker(server, tmp_path / "replies.jsonl")
        ((name, found),) = ask.ask_all(asking(1), threads=3)
    assert name == "0" and isinstance(found, RefusedReply)
    assert str(found) == "'many words' is no number, cut off at the longest length of a reply (3 replies)"
    assert len(server.bodies) == 3 and not (tmp_path / "replies.jsonl").exists()


def test_one_without_any_reply_costs_itself_and_many_in_a_row_end_the_work(tmp_path: Path) -> None:
    def some(body: dict[str, Any], number: int) -> Served:
        return failing(500, "no") if "is 3 +" in body["messages"][0]["content"] else sum_of(body)

    with served(some) as server:
        found = dict(asker(server, tmp_path / "some.jsonl").ask_all(asking(8), threads=2))
    assert isinstance(found.pop("3"), Unanswered) and len(found) == 7
    with served(lambda body, number: failing(500, "out of memory")) as server:
        stream = asker(server, tmp_path / "none.jsonl").ask_all(asking(100), threads=1)
        with pytest.raises(EndpointError, match="5 requests in a row got no reply; the last: .*out of memory"):
            list(stream)
        assert 0 <= len(server.bodies) - 2 * MOST_UNANSWERED_IN_ROW <= 2  # one more may be under way


FAULTS: list[tuple[Callable[..., Served], type[Exception], str]] = [
    (lambda body, number: sum_of(body) if number < 6 else failing(401, "expired"), EndpointError, "expired"),
    (lambda body, number: sum_of(body), BudgetUsedUp, "max_requests = 6"),
]


@pytest.mark.parametrize(("respond", "kind", "said"), FAULTS)
def test_a_fault_ends_the_work_and_keeps_what_was_answered(
    respond: Callable[..., Served], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    path, found = tmp_path / "replies.jsonl", {}
    budget = Budget(max_requests=6 if kind is BudgetUsedUp else 0, section="judge")
    with served(respond) as server:
        with pytest.raises(kind, match=said):
            for name, answer in asker(server, path, budget).ask_all(asking(50), threads=3):
                found[name] = answer
        assert len(server.bodies) <= 6 + 3
    assert found == {name: int(name) + 1 for name in found} and len(found) == 6
    assert len(ReplyStore(path)) == 6
    with served(lambda body, number: sum_of(body)) as server:
        ask = asker(server, path)
        left = {name: request for name, request in asking(50).items() if ask.stored(request) is None}
        assert len(dict(ask.ask_all(left, threads=3))) == len(server.bodies) == 44


def test_a_stop_keeps_what_is_under_way_and_ends_without_an_error(tmp_path: Path) -> None:
    asked: list[str] = []
    with served(lambda body, number: sum_of(body)) as server:
        ask = asker(server, tmp_path / "replies.jsonl", stop_requested=lambda: len(server.bodies) >= 4)
        for name, _ in ask.ask_all(asking(100), threads=2):
            asked.append(name)
        assert 4 <= len(asked) == len(server.bodies) <= 6
    assert len(ReplyStore(tmp_path / "replies.jsonl")) == len(asked)
