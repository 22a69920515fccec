"""Questions to an endpoint whose replies must have a form: kept on disk, asked again where they have it not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, TypeVar

from sage_jax.endpoint.chat import ChatRequest, Message
from sage_jax.endpoint.client import Endpoint, EndpointError, NoAnswer, Stopped, Unanswered
from sage_jax.endpoint.in_flight import in_flight
from sage_jax.endpoint.replies import ReplyStore

Answer = TypeVar("Answer")

MOST_UNANSWERED_IN_ROW: Final = 5
"""Requests in a row without any reply, each sent as often as it may be, after which the endpoint counts as gone."""
_MOST_QUOTED: Final = 2000


class RefusedReply(NoAnswer):
    """A reply that has not the form that was asked for; the message says what is wrong with it."""


class Asker(Generic[Answer]):
    """Asks an endpoint and reads its replies; only replies that could be read are kept, under their first request.

    Args:
      endpoint: The endpoint.
      store: Replies of this run and of earlier ones.
      read: Makes an answer of a reply's text, or raises `RefusedReply`.
      correction: Follows on what was wrong with a reply, when the model is asked again in the same chat.
      asks: Times that a model is asked until its reply can be read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        store: ReplyStore,
        read: Callable[[str], Answer],
        *,
        correction: str,
        asks: int = 3,
    ) -> None:
        self._endpoint, self._store, self._read = endpoint, store, read
        self._correction, self._asks = correction, asks

    def stored(self, request: ChatRequest) -> Answer | None:
        """The answer to a request that was asked before; None where it was not."""
        text = self._store.get(request.key())
        try:
            return None if text is None else self._read(text)
        except RefusedReply:  # read by other rules when it was stored
            return None

    def ask(self, request: ChatRequest) -> Answer:
        """The answer to a request, from the endpoint, which is then stored.

        Raises:
          RefusedReply: No reply could be read.
          Unanswered, EndpointError, BudgetUsedUp, Stopped: As `Endpoint.ask`.
        """
        asked, reason = request, ""
        for _ in range(self._asks):
            reply = self._endpoint.ask(asked)
            try:
                answer = self._read(reply.text)
            except RefusedReply as refused:
                reason = f"{refused}{', cut off at the longest length of a reply' if reply.cut else ''}"
                asked = self._corrected(request, reply.text, reason)
            else:
                self._store.put(request.key(), reply.text)
                return answer
        raise RefusedReply(f"{reason} ({self._asks} replies)")

    def ask_all(self, requests: Mapping[str, ChatRequest], *, threads: int) -> Iterator[tuple[str, Answer | NoAnswer]]:
        """The name of each request with its answer, or with the reason why there is none, in the order of their ends.

        Where the endpoint refuses, the budget is used up or the work is to stop, no further request is sent; those
        under way are ended, stored and yielded.

        Args:
          requests: By name.
          threads: Requests at a time.

        Raises:
          EndpointError: The endpoint refuses, or gives no reply to `MOST_UNANSWERED_IN_ROW` requests in a row.
          BudgetUsedUp: There is more to ask.
        """

        def ask(name: str) -> Answer:
            try:
                return self.ask(requests[name])
            except (NoAnswer, Stopped):
                raise
            except Exception:
                self._endpoint.halt()  # at once, for all threads
                raise

        fault: Exception | None = None
        unanswered = 0
        for name, found in in_flight(requests, ask, threads=threads, stopped=lambda: self._endpoint.stopped):
            if isinstance(found, Stopped):
                continue
            if isinstance(found, Exception) and not isinstance(found, NoAnswer):
                fault = fault or found
                continue
            unanswered = unanswered + 1 if isinstance(found, Unanswered) else 0
            if unanswered == MOST_UNANSWERED_IN_ROW:
                fault = fault or EndpointError(f"{unanswered} requests in a row got no reply; the last: {found}")
                self._endpoint.halt()
            yield name, found
        if fault is not None:
            raise fault

    def _corrected(self, request: ChatRequest, said: str, reason: str) -> ChatRequest:
        """The request with the reply and what is wrong with it; the plain request where the reply is empty."""
        if not said.strip():
            return request
        turns = (Message("assistant", said[:_MOST_QUOTED]), Message("user", f"{reason}. {self._correction}"))
        return dataclasses.replace(request, messages=(*request.messages, *turns))
