"""New images of a folder through the service, in batches; each result once in journal, file, store and webhook."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Final, Protocol

from sage_jax.config import WatchConfig
from sage_jax.corrections.entries import finding_of
from sage_jax.corrections.maps import keep
from sage_jax.corrections.queries import inspection_of
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.records import Reference
from sage_jax.inspection.inspect import row_of
from sage_jax.inspection.report import row_to_json
from sage_jax.inspection.result import Inspection, unreadable
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.jobs import Finding
from sage_jax.serving.service import Request
from sage_jax.watching.folder import Settled, WatchedFolder, stamp_of
from sage_jax.watching.journal import Done, Known, WatchJournal
from sage_jax.watching.result_file import ResultFile
from sage_jax.watching.webhook import Webhook

_SHOWN_LINES: Final = 20
"""Lines on the console for the results of one look; of more images their number."""
_STAMP_FIELDS: Final = ("number", "time", "sha256", "model", "duplicate_of")


class Inspects(Protocol):
    """What inspects images: `Service` is one."""

    def submit(self, request: Request) -> Future[Finding]: ...


@dataclasses.dataclass(frozen=True)
class Model:
    """What a watcher must know of the model.

    Attributes:
      revision: Hash of all that decides an answer.
      threshold: Gives the score from which an image is called defective, by its number of references.
      references: Gives the good images that an image of a name is compared with.
      category: Gives the kind of part of a path.
      language: What the answers are written in.
    """

    revision: str
    threshold: Callable[[int], float]
    references: Callable[[str], tuple[Reference, ...]]
    category: Callable[[Path], str]
    language: Any = "en"


@dataclasses.dataclass(frozen=True, eq=False)
class _Begun:
    """A file that is being inspected.

    Attributes:
      file: The file.
      known: What is noted of it.
      content: Its bytes.
      references: What it is compared with.
      finding: To come; None where it failed before the model saw it.
      fault: Why it failed.
    """

    file: Settled
    known: Known
    content: bytes
    references: tuple[Reference, ...]
    finding: Future[Finding] | None
    fault: str = ""


class Watcher:
    """The work of watching a folder; one thread calls it.

    An image counts as done when its result is in the journal. What comes before it (the store of inspections) finds out
    by itself whether it was done already, and what comes after (file, webhook) reads the journal: so a program that was
    killed, at whatever time, goes on without a loss and without a repeated line.

    Args:
      service: Inspects.
      model: What is known of its model.
      options: The folder, times, and what to do with duplicates.
      journal: Files and results.
      output: Gets the lines.
      store: Keeps findings for review; None = none.
      webhook: Posts the lines; None = none.
      most: Images that are under way at a time: enough for the model's largest batch, and the next.
      say: Takes a line for the user.
      clock: Gives seconds.
    """

    def __init__(
        self,
        service: Inspects,
        model: Model,
        options: WatchConfig,
        *,
        journal: WatchJournal,
        output: ResultFile,
        store: CorrectionStore | None = None,
        webhook: Webhook | None = None,
        most: int = 32,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service, self._model, self._options = service, model, options
        self._journal, self._output, self._store, self._webhook = journal, output, store, webhook
        self._most, self._say, self._clock = most, say, clock
        self._path = Path(options.folder).expanduser()
        self._folder = WatchedFolder(self._path, journal.stamps(), options.settle_seconds, clock)
        self._begun: list[_Begun] = []
        self._not_before: dict[bytes, float] = {}
        self._gone = False
        self.num_results = 0

    def run(self, stop_requested: Callable[[], bool]) -> None:
        """Watches until a stop is requested; what is under way is finished.

        Raises:
          UserError: Results cannot be kept.
        """
        self._catch_up()
        while not stop_requested():
            start = self._clock()
            self.step()
            while self._clock() - start < self._options.poll_seconds and not stop_requested():
                time.sleep(min(0.05, self._options.poll_seconds))
        self.finish()

    def step(self) -> None:
        """Looks once, and inspects what has settled.

        Raises:
          UserError: Results cannot be kept.
        """
        for file in self._look():
            while len(self._begun) >= self._most:
                self._collect()
            if not self._begin(file):
                break
        while self._begun:
            self._collect()

    def finish(self) -> None:
        """Waits for what is under way."""
        while self._begun:
            self._collect()

    def _look(self) -> list[Settled]:
        try:
            settled = self._folder.look()
        except OSError as error:
            if not self._gone:
                self._say(f"{self._path}: cannot be read ({error.strerror or error}); waiting until it can")
            self._gone = True
            return []
        if self._gone:
            self._say(f"{self._path}: can be read again")
            self._gone = False
        now = self._clock()
        ready = [file for file in settled if self._not_before.get(file.name, 0.0) <= now]
        self._not_before = {file.name: self._not_before[file.name] for file in settled if file.name in self._not_before}
        if len(ready) > _SHOWN_LINES:
            self._say(f"{len(ready)} new images")
        return ready

    def _begin(self, file: Settled) -> bool:
        """Has a file inspected, or deals with it otherwise; False where no more are taken for now."""
        try:
            content = file.path.read_bytes()
            if stamp_of(file.path.stat()) != file.stamp:
                return True  # written to again: it has to settle anew
        except FileNotFoundError:
            return True  # gone before its turn
        except OSError as error:
            self._failed(file, f"{self._shown(file.name)}: cannot be read: {error.strerror or error}")
            return True
        known = Known(file.stamp, hashlib.sha256(content).hexdigest())
        if not self._options.again:
            while any(begun.known.digest == known.digest for begun in self._begun):
                self._collect()
            if self._seen_before(file, known):
                return True
        try:
            references = self._model.references(file.path.name)
            category = self._model.category(file.path)
            request = Request(content, self._shown(file.name), category, references)
            finding = self._service.submit(request)
        except RequestFault as fault:
            if fault.status in (429, 503):
                return False
            self._failed(file, str(fault))
            return True
        self._begun.append(_Begun(file, known, content, references, finding))
        return True

    def _failed(self, file: Settled, reason: str) -> None:
        """Has a file that could not be read wait for its next turn, or calls it unreadable."""
        if self._folder.age(file) < self._options.settle_seconds + self._options.patience_seconds:
            self._not_before[file.name] = self._clock() + max(
                self._options.poll_seconds, self._options.patience_seconds / 8
            )
            return
        # What could not be read is no content that another file may be a duplicate of.
        digest = hashlib.sha256(b"unreadable %b %b" % (file.name, file.stamp.encode())).hexdigest()
        self._begun.append(_Begun(file, Known(file.stamp, digest), b"", (), None, reason))

    def _seen_before(self, file: Settled, known: Known) -> bool:
        """Deals with a file whose content was inspected: the same file, one that was moved, or a duplicate."""
        before = self._journal.known(file.name)
        first = self._journal.first_result(known.digest)
        if first is None:
            return False
        line = ""
        if before is None or before.digest != known.digest:
            others = [name for name in self._journal.paths_with(known.digest) if name != file.name]
            there = [name for name in others if os.path.lexists(os.path.join(os.fsencode(self._path), name))]
            if there or not others:
                row = json.loads(first.line)
                line = self._line({**row, "image": str(self._shown_path(file))}, known, duplicate_of=row["image"])
            else:
                self._say(f"{self._shown(file.name)}: moved from {self._shown(others[0])}; inspected before")
        self._journal.record([Done(file.name, known, line)])
        self._folder.done(file.name, file.stamp)
        if line:
            self._say(f"{self._shown(file.name)}: the same content as {json.loads(line)['duplicate_of']}")
            self.num_results += 1
            self._catch_up()
        return True

    def _collect(self) -> None:
        """Waits for a finding, and keeps all that there are."""
        futures = [begun.finding for begun in self._begun if begun.finding is not None]
        if len(futures) == len(self._begun):
            wait(futures, return_when=FIRST_COMPLETED)
        ended = [begun for begun in self._begun if begun.finding is None or begun.finding.done()]
        self._begun = [begun for begun in self._begun if begun not in ended]
        done = list[Done]()
        for begun in ended:
            found = self._found(begun)
            if found is None:
                continue
            self._keep_for_review(begun, found)
            done.append(
                Done(begun.file.name, begun.known, self._line(row_to_json(row_of(found, truth=None)), begun.known))
            )
            if len(ended) <= _SHOWN_LINES:
                score = "" if found.score is None else f", score {found.score:.3f}"
                self._say(f"{self._shown(begun.file.name)}: {found.verdict}{score}")
        self._journal.record(done)
        for each in done:
            self._folder.done(each.path, each.known.stamp)
        self.num_results += len(done)
        self._catch_up()

    def _found(self, begun: _Begun) -> Inspection | None:
        """The finding under the path of its file; None where it is to be tried again."""
        path = str(self._shown_path(begun.file))
        category = self._model.category(begun.file.path)
        if begun.finding is None:
            return unreadable(path, category, begun.fault)
        error = begun.finding.exception()
        if error is None:
            return dataclasses.replace(begun.finding.result().inspection, image=path)
        if isinstance(error, RequestFault) and error.status == 503:
            return None
        return unreadable(path, category, str(error))

    def _keep_for_review(self, begun: _Begun, found: Inspection) -> None:
        """Adds a finding to the store, unless a program that was killed had done it."""
        if self._store is None or found.score is None:
            return
        model, source = self._model.revision, f"folder {found.image}"
        if inspection_of(self._store, begun.known.digest, source, model) is not None:
            return
        finding = finding_of(
            found,
            begun.content,
            [reference.image for reference in begun.references],
            threshold=self._model.threshold(found.num_references),
            model=model,
            source=source,
            language=self._model.language,
        )
        keep(self._store, dataclasses.replace(finding, name=self._shown(begun.file.name)), found.anomaly_map)

    def _line(self, row: dict[str, Any], known: Known, duplicate_of: str | None = None) -> str:
        """A result as JSON: the row of an inspection, with time, content and model."""
        written = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        rest = {name: value for name, value in row.items() if name not in _STAMP_FIELDS}
        model = row.get("model", self._model.revision)
        about = {"time": written, "sha256": known.digest, "model": model, "duplicate_of": duplicate_of}
        return json.dumps({**about, **rest}, ensure_ascii=False, allow_nan=False)

    def _catch_up(self) -> None:
        self._output.catch_up()
        if self._webhook is not None:
            self._webhook.wake()

    def _shown_path(self, file: Settled) -> Path:
        return self._path / self._shown(file.name)

    def _shown(self, name: bytes) -> str:
        """A file name as text; it need not be any."""
        return name.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
