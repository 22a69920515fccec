"""Images that wait for the model, and the batches that they are taken in."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Final

from sage_jax.inspection.images import InputImage
from sage_jax.inspection.result import Inspection
from sage_jax.serving.faults import RequestFault

_POLL_SECONDS: Final = 0.2
"""Between two looks at whether a signal asks for a stop."""


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """The finding on an image, and how it came about.

    Attributes:
      inspection: Verdict, score, reason, answers, map, boxes.
      num_tokens: Tokens of all its answers.
      prompt_tokens: Tokens that the model read: image, facts, template and all questions.
      queued_ms: Milliseconds that it waited for the model.
      model_ms: Milliseconds of its batch.
      batch_images: Images of its batch.
    """

    inspection: Inspection
    num_tokens: int
    prompt_tokens: int
    queued_ms: float
    model_ms: float
    batch_images: int


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """An image to inspect.

    Attributes:
      image: The image with its references and questions.
      kind: What images of one batch have in common.
      finding: To come.
      arrived: Monotonic seconds.
    """

    image: InputImage
    kind: Hashable
    finding: Future[Finding] = dataclasses.field(default_factory=Future)
    arrived: float = dataclasses.field(default_factory=time.monotonic)


class JobQueue:
    """A bounded queue, from which images of one kind are taken together, the kind of the one that waits longest first.

    Args:
      size: Most jobs that wait.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = ""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job: Job, *, retry_after: int) -> None:
        """Adds a job.

        Args:
          retry_after: Seconds to name where there is no room.

        Raises:
          RequestFault: 429, the queue is full; 503, it is closed.
        """
        with self._changed:
            if self._closed:
                raise RequestFault(503, self._closed)
            if len(self._waiting) >= self._size:
                message = f"{self._size} images wait already: send the request again after {retry_after} s"
                raise RequestFault(429, message, retry_after)
            self._waiting.append(job)
            self._changed.notify_all()

    def close(self, why: str) -> None:
        """Refuses further jobs; those that wait stay."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()

    def take(self, most: int, *, gather_seconds: float = 0.0) -> list[Job]:
        """The next jobs of one kind, in the order in which they came; none after a while without any.

        Jobs whose clients have gone are left out.

        Args:
          most: Most jobs.
          gather_seconds: Longest time to wait for further ones, once there is one.
        """
        with self._changed:
            if not self._waiting:
                self._changed.wait(_POLL_SECONDS)
            until = time.monotonic() + gather_seconds
            while 0 < len(self._waiting) < most and not self._closed:
                before, left = len(self._waiting), until - time.monotonic()
                if left <= 0 or not self._changed.wait(left) or len(self._waiting) == before:
                    break
            taken: list[Job] = []
            kept: deque[Job] = deque()
            for job in self._waiting:
                if job.finding.cancelled():
                    continue
                wanted = len(taken) < most and (not taken or job.kind == taken[0].kind)
                if not wanted:
                    kept.append(job)
                elif job.finding.set_running_or_notify_cancel():
                    taken.append(job)
            self._waiting = kept
            return taken
