"""The model at work for many callers: images wait in a bounded queue, and are answered in batches as rows become free.

`Service.submit` is for any thread, and gives a `concurrent.futures.Future`; `Service.inspect` waits for it. So a
watcher of a folder calls it as the HTTP routes do:

    service = Service(model, options, references)
    with service.working():                      # the model works in a thread; `sage-jax serve` has it in the main one
        found = service.inspect(Request(image=path.read_bytes(), name=path.name))
        found.inspection.verdict, found.inspection.score
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from sage_jax.config import Config, ServeConfig
from sage_jax.data.depth import at_depth
from sage_jax.data.images import check_size, encode_png, forget_rgb, remembered_rgb
from sage_jax.data.records import Reference
from sage_jax.errors import UserError
from sage_jax.inspection.images import InputImage, make_input
from sage_jax.inspection.inspection_model import InspectionModel, ReadBatch
from sage_jax.inspection.questions import ImageAnswers
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.jobs import Finding, Job, JobQueue
from sage_jax.serving.measures import Measures
from sage_jax.serving.reference_images import ReferenceImages

STOPPING: Final = "the service is stopping: send the request to another one"
_WARMING: Final = "the model is being loaded and compiled: ask /ready"
_POST_THREADS: Final = 2
_SMALLEST_PX: Final = 64
_ONE_QUESTION: Final = ("Where is it?",)


@dataclasses.dataclass(frozen=True)
class Request:
    """An image to inspect, as a caller gives it.

    Attributes:
      image: The encoded file.
      name: Its name, for messages and for the match with a reference of the same name.
      category: Kind of part, for question and facts; "" = part.
      references: Good images to compare it with; None = those that the service has for an image of this name.
      questions: Asked after the question whether there is a defect; None = `inspect.questions`.
    """

    image: bytes
    name: str = "image"
    category: str = ""
    references: tuple[Reference, ...] | None = None
    questions: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class _Answered:
    """An image of an answered batch.

    Attributes:
      number: Its place in the batch.
      start, seconds: When the model began, in monotonic seconds, and how long it took.
    """

    read: ReadBatch
    number: int
    said: ImageAnswers | None
    start: float
    seconds: float


class Service:
    """A model, its queue and its references.

    Args:
      model: It answers in the threads of `work`.
      options: Limits, and sizes of batches.
      references: Good images by name.

    Attributes:
      measures: Counts and times, for `/metrics`.
      revision: Hash of all that decides an answer.
      state: `warming`, then `ready`, then `stopping`.
      keep: Keeps what came over HTTP, before it is answered; None = nothing is kept.
    """

    def __init__(self, model: InspectionModel, options: ServeConfig, references: ReferenceImages) -> None:
        self.model, self.options, self.references = model, options, references
        self.state = "warming"
        self.revision = model.revision
        self._rows = tuple(sorted({model.evaluator.responder.rows(rows) for rows in options.rows}))
        self._threads = options.threads if model.evaluator.responder.num_devices == 1 else 1
        self._queue = JobQueue(options.queue_size)
        self.measures = Measures(lambda: len(self._queue))
        self._compiled: set[tuple[Hashable, int]] = set()
        self._seconds_an_image = 0.1
        self.keep: Callable[[Request, Finding], None] | None = None
        self._finishing = ThreadPoolExecutor(_POST_THREADS, thread_name_prefix="findings")

    @property
    def config(self) -> Config:
        """The config under which the model answers."""
        return self.model.evaluator.config

    def submit(self, request: Request) -> Future[Finding]:
        """The finding to come; cancelled, it is not computed, as long as its turn has not come.

        Raises:
          RequestFault: 413 or 422, the request cannot be answered; 429, the queue is full; 503, the service is not
            ready, or stops.
        """
        self.check_accepting()
        image = self._read(request)
        job = Job(image, self._kind(image))
        waiting = math.ceil((len(self._queue) + 1) * self._seconds_an_image)
        self._queue.put(job, retry_after=max(1, waiting))
        return job.finding

    def inspect(self, request: Request) -> Finding:
        """The finding on an image; waits for it.

        Raises:
          RequestFault: As `submit`.
        """
        return self.submit(request).result()

    def check_accepting(self) -> None:
        """Raises RequestFault 503 unless the service takes requests."""
        if self.state != "ready":
            raise RequestFault(503, STOPPING if self.state == "stopping" else _WARMING, retry_after=5)

    def work(self, stop_requested: Callable[[], bool]) -> None:
        """Answers what comes, until a stop is requested and what was taken in before is answered.

        This thread and `threads` - 1 others take a batch each; of a model on several devices this one alone, for
        programs must come to all devices in one order.

        Args:
          stop_requested: Asked five times a second.
        """
        names = [f"model-{number}" for number in range(2, self._threads + 1)]
        others = [threading.Thread(target=self._work, args=(lambda: False,), name=each, daemon=True) for each in names]
        for other in others:
            other.start()
        self._work(stop_requested)
        for other in others:
            other.join()
        self._finishing.shutdown()

    def _work(self, stop_requested: Callable[[], bool]) -> None:
        """Answers one batch after the other, until the service stops and nothing waits."""
        busy = False
        while True:
            if self.state == "ready" and stop_requested():
                self.stop()
            jobs = self._queue.take(self._rows[-1], gather_seconds=self.options.batch_wait_ms / 1e3 if busy else 0.0)
            if jobs:
                self._answer(jobs)
            elif self.state == "stopping" and not len(self._queue):
                break
            busy = len(jobs) > 1

    def stop(self) -> None:
        """Takes no further requests; `work` ends when those that wait are answered."""
        self.state = "stopping"
        self._queue.close(STOPPING)

    @contextlib.contextmanager
    def working(self) -> Iterator[Service]:
        """The service, warm, at work in a thread of its own; leaving waits until all is answered."""
        self.warm_up()
        thread = threading.Thread(target=self.work, args=(lambda: False,), name="model", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join()

    def warm_up(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Compiles what requests will most often need, and then takes them.

        That is each size of batch for the first references and `inspect.questions`; and the largest for images without
        a reference, and for one question, as `/v1/chat/completions` asks it.

        Args:
          say: Takes a line for each.
        """
        given = self.config.inspect.questions
        shown = self.references.first(self.config.num_references)
        image = shown[0].image if shown else encode_png(np.full((_SMALLEST_PX, _SMALLEST_PX, 3), 128, np.uint8))
        kinds = [(references, asked) for references in dict.fromkeys((shown, ())) for asked in (given, _ONE_QUESTION)]
        for number, (references, asked) in enumerate(dict.fromkeys(kinds)):
            for rows in self._rows if number == 0 else self._rows[-1:]:
                start = time.monotonic()
                made = self._read(Request(image, references=references, questions=asked))
                job = Job(made, self._kind(made))
                self._answer([job], rows=rows)
                job.finding.result()
                about = f"{rows} rows, {len(references)} references, {len(asked)} further questions"
                say(f"compiled for {about} in {time.monotonic() - start:.1f} s")
        self.state = "ready"

    def _read(self, request: Request) -> InputImage:
        """The image as the model gets it.

        Raises:
          RequestFault: 422, it cannot be read.
        """
        questions = self._questions(request.questions)
        references = request.references
        try:
            if references is None:
                references = self.references.for_image(request.name, self.config.num_references)
            if len(references) > self.options.max_references:
                raise UserError(f"{len(references)} references: give {self.options.max_references} or fewer")
            image = self._checked(request.image, request.name)
            references = [Reference(self._checked(each.image, each.path), each.path) for each in references]
            register = self.config.data.register == "rigid"
            given = make_input(
                request.name,
                image,
                references,
                request.category or "part",
                self.model.evaluator.vocabulary,
                register=register,
            )
        except ValueError as error:  # a UserError is one
            raise RequestFault(422, str(error)) from None
        return dataclasses.replace(given, questions=questions)

    def _checked(self, content: bytes, name: str) -> bytes:
        """An encoded image, bright as its depth says, that was found whole.

        Raises:
          ImageFault: It is no image, or too large.
        """
        check_size(content, name=name, max_pixels=self.options.max_pixels)
        content = at_depth(content, self.config.data.bits, name=name)
        remembered_rgb(content, name=name)
        return content

    def _questions(self, given: Sequence[str] | None) -> tuple[str, ...]:
        options = self.options
        questions = self.config.inspect.questions if given is None else tuple(given)
        if len(questions) > options.max_questions:
            raise RequestFault(422, f"{len(questions)} questions: give {options.max_questions} or fewer")
        for question in questions:
            if not question.strip():
                raise RequestFault(422, "a question is empty: leave it out")
            if len(question) > options.max_question_letters:
                most = options.max_question_letters
                raise RequestFault(422, f"a question has {len(question)} letters: give {most} or fewer")
        return questions

    def _kind(self, image: InputImage) -> Hashable:
        """What a batch has in common: the number of references and of questions; in a conversation the questions."""
        record, questions = image.record, image.questions or ()
        number = 0 if record is None else len(record.references)
        return number, questions if self.config.inspect.ask == "in_turn" else len(questions)

    def _rows_for(self, kind: Hashable, number: int) -> int:
        """The smallest size that holds so many images and is compiled; the largest, where none is."""
        return next((rows for rows in self._rows if rows >= number and (kind, rows) in self._compiled), self._rows[-1])

    def _answer(self, jobs: Sequence[Job], *, rows: int = 0) -> None:
        """Answers jobs of one kind, each by itself where one of them brings the batch down."""
        start, kind = time.monotonic(), jobs[0].kind
        try:
            size = rows or self._rows_for(kind, len(jobs))
            read = self.model.read([job.image for job in jobs], jobs[0].image.questions or (), rows=size)
            answers = self.model.answer(read)
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
            else:
                jobs[0].finding.set_exception(_as_fault(error))
            return
        self._compiled.add((kind, size))
        seconds = time.monotonic() - start
        if self.state != "warming":
            self._seconds_an_image = 0.9 * self._seconds_an_image + 0.1 * seconds / len(jobs) / self._threads
            self.measures.batch(len(jobs), size, seconds)
        answered = [_Answered(read, number, said, start, seconds) for number, said in enumerate(answers)]
        self._finishing.submit(self._finish_all, jobs, answered)

    def _finish_all(self, jobs: Sequence[Job], answered: Sequence[_Answered]) -> None:
        for job, each in zip(jobs, answered, strict=True):
            self._finish(job, each)

    def _finish(self, job: Job, answered: _Answered) -> None:
        """Makes the finding of an answer, outside the thread of the model."""
        batch, said = answered.read.batch, answered.said
        try:
            found = self.model.finding(answered.read, batch.inputs[answered.number], said)
            if said is not None:
                forget_rgb(said.record.test_image)
            waited = answered.start - job.arrived
            if self.state != "warming":
                self.measures.finding(found.verdict, waited)
            job.finding.set_result(
                Finding(
                    inspection=found,
                    lengths=() if said is None else said.lengths,
                    prompt_tokens=batch.num_tokens(answered.number),
                    queued_ms=waited * 1e3,
                    model_ms=answered.seconds * 1e3,
                    batch_images=len(batch.inputs),
                )
            )
        except Exception as error:
            job.finding.set_exception(_as_fault(error))


def _as_fault(error: Exception) -> RequestFault:
    """What a client is told of an error: all of what it can mend, nothing of what it cannot."""
    if isinstance(error, UserError):
        return RequestFault(422, str(error))
    fault = RequestFault(500, f"the model failed on this image ({type(error).__name__})")
    fault.__cause__ = error
    return fault
