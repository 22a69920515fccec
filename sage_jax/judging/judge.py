"""Judgement of answers by a language model: each answer as often as asked, each text once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from sage_jax.config import JudgeConfig
from sage_jax.endpoint.asking import Asker
from sage_jax.endpoint.chat import ChatRequest
from sage_jax.endpoint.client import NoAnswer
from sage_jax.judging.answers import Answer, Judgement
from sage_jax.judging.prompt import judgement_request
from sage_jax.metrics.mle import MleScore


class Judging:
    """The judgements that answers are to get.

    Args:
      answers: The answers; equal texts are asked about once.
      options: The judge.
    """

    def __init__(self, answers: Sequence[Answer], options: JudgeConfig) -> None:
        self._options = options
        self._wanted: list[tuple[Answer, int, str]] = []
        self._requests: dict[str, ChatRequest] = {}
        for answer in answers:
            for repetition in range(options.repetitions):
                request = judgement_request(answer, repetition, options)
                key = request.key()
                self._wanted.append((answer, repetition, key))
                self._requests[key] = request

    def __len__(self) -> int:
        """Judgements to ask for."""
        return len(self._requests)

    def digest(self) -> str:
        """Hash of all that is asked."""
        return hashlib.sha256("\n".join(key for *_, key in self._wanted).encode()).hexdigest()[:24]

    def stored(self, asker: Asker[MleScore]) -> dict[str, MleScore | NoAnswer]:
        """The judgements that were given before, by the key of their request."""
        found = ((key, asker.stored(request)) for key, request in self._requests.items())
        return {key: marks for key, marks in found if marks is not None}

    def ask(
        self,
        asker: Asker[MleScore],
        found: dict[str, MleScore | NoAnswer],
        advance: Callable[[int, int], None],
    ) -> list[Judgement] | None:
        """All judgements in the order of the answers, or None where a stop left some open; `found` takes what is new.

        Args:
          asker: Asks for those that are not in `found`.
          found: Marks, or why there are none, by the key of the request.
          advance: Takes the number of judgements that were asked for or found, and of those that failed.

        Raises:
          EndpointError, BudgetUsedUp: As `Asker.ask_all`.
        """
        open_requests = {key: request for key, request in self._requests.items() if key not in found}
        failed = 0
        for key, marks in asker.ask_all(open_requests, threads=self._options.concurrency):
            found[key] = marks
            failed += isinstance(marks, NoAnswer)
            advance(len(found), failed)
        if len(found) < len(self._requests):
            return None
        return [_judgement(answer, repetition, found[key]) for answer, repetition, key in self._wanted]


def _judgement(answer: Answer, repetition: int, found: MleScore | NoAnswer) -> Judgement:
    if isinstance(found, NoAnswer):
        return Judgement(answer, repetition, None, str(found))
    return Judgement(answer, repetition, found)
