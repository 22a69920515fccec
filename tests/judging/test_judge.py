"""Judging: each answer as often as asked, each text once, failures never a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sage_jax.config import JudgeConfig
from sage_jax.endpoint.asking import Asker
from sage_jax.endpoint.client import Endpoint
from sage_jax.endpoint.replies import ReplyStore
from sage_jax.judging.answers import Answer
from sage_jax.judging.judge import Judging
from sage_jax.judging.marks import read_marks
from sage_jax.judging.prompt import CORRECTION
from sage_jax.metrics.mle import MleScore
from tests.support.endpoint_server import Served, chat, marks, served

OPTIONS = JudgeConfig(base_url="http://localhost/v1", model="judge-1", repetitions=2, concurrency=4, temperature=0.7)
ANSWERS = [Answer(f"{i}.png", "Is it?", "No.", f"No, text {i % 3}.", None) for i in range(6)]


def respond(body: dict[str, Any], number: int) -> Served:
    """Marks that tell answer and repetition apart; text 2 is never judged."""
    text = json.loads(body["messages"][1]["content"])["test_answer"]
    kind = int(text.split()[2].rstrip("."))
    return chat("I would rather not.") if kind == 2 else marks(kind + 1, kind + 2, 1 + body["seed"])


def asker(url: str, tmp_path: Path) -> Asker[MleScore]:
    store = ReplyStore(tmp_path / "replies.jsonl")
    return Asker(Endpoint(url, backoff_seconds=0.01), store, read_marks, correction=CORRECTION, asks=2)


def test_equal_texts_are_asked_about_once_and_every_answer_has_its_judgements(tmp_path: Path) -> None:
    judging = Judging(ANSWERS, OPTIONS)
    assert len(judging) == 3 * 2
    told: list[tuple[int, int]] = []
    with served(respond) as server:
        found = judging.ask(asker(server.url, tmp_path), {}, lambda done, failed: told.append((done, failed)))
        assert len(server.bodies) == 4 + 2 * 2
    assert found is not None and [each.repetition for each in found] == [0, 1] * 6
    assert [each.answer for each in found] == [answer for answer in ANSWERS for _ in range(2)]
    for index, each in enumerate(found):
        kind = (index // 2) % 3
        assert each.marks == (None if kind == 2 else MleScore(kind + 1.0, kind + 2.0, 1.0 + each.repetition))
        assert ("I would rather not" in each.reason) is (kind == 2)
    assert told[-1] == (6, 2) and [done for done, _ in told] == [1, 2, 3, 4, 5, 6]


def test_what_was_judged_is_found_again_and_only_the_rest_is_asked_for(tmp_path: Path) -> None:
    judging = Judging(ANSWERS, OPTIONS)
    with served(respond) as server:
        judging.ask(asker(server.url, tmp_path), {}, lambda done, failed: None)
    with served(lambda body, number: marks(1, 1, 1)) as server:
        again = asker(server.url, tmp_path)
        found = judging.stored(again)
        assert len(found) == 4
        judgements = judging.ask(again, found, lambda done, failed: None)
        assert len(server.bodies) == 2
    assert judgements is not None and judgements[4].marks == MleScore(1.0, 1.0, 1.0)
    assert judgements[0].marks == MleScore(1.0, 2.0, 1.0)


def test_a_stop_leaves_no_judgements_of_a_part(tmp_path: Path) -> None:
    with served(respond) as server:
        endpoint = Endpoint(server.url, stop_requested=lambda: len(server.bodies) > 1)
        stopping = Asker(endpoint, ReplyStore(tmp_path / "r.jsonl"), read_marks, correction=CORRECTION)
        assert Judging(ANSWERS, OPTIONS).ask(stopping, {}, lambda done, failed: None) is None


def test_the_hash_is_that_of_all_that_is_asked() -> None:
    digest = Judging(ANSWERS, OPTIONS).digest()
    assert digest == Judging([*ANSWERS], OPTIONS).digest()
    others = [Judging(ANSWERS[:5], OPTIONS), Judging(ANSWERS, JudgeConfig(model="judge-2")), Judging([], OPTIONS)]
    assert len({digest, *(other.digest() for other in others)}) == 4
