"""Inputs that are mutated: what a run, a service and a watcher keep about the work that they have done."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sage_jax.benchmark.journal import Answered, AnswerJournal
from sage_jax.corrections.store import FILE as CORRECTIONS
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.written_facts import FactBook
from sage_jax.endpoint.replies import ReplyStore
from sage_jax.inspection.finished_rows import RowJournal
from sage_jax.inspection.report import InspectionRow
from sage_jax.journal.run_log import RunLog
from sage_jax.judging.answers import read_answers
from sage_jax.process.checksums import FILE as CHECKSUMS
from sage_jax.process.checksums import damaged, write_checksums
from sage_jax.watching.journal import FILE as WATCHED
from sage_jax.watching.journal import Done, Known, WatchJournal
from tests.campaign.stored_targets import Stored
from tests.support.corrected import finding


def sealed_journals(folder: Path) -> list[Stored]:
    """Those whose lines have checksums, in a folder; what is read of each is whether it was written."""
    made = ((_answered, "answered"), (_replies, "replies"), (_rows, "rows"), (_facts, "facts"))
    return [make(folder / name) for make, name in made]


def plain_journals(folder: Path) -> list[Stored]:
    """Those without checksums, in a folder."""
    made = (
        *((_predictions, "predictions"), (_corrections, "corrections"), (_watched, "watched")),
        *((_metrics, "metrics"), (_list, "list")),
    )
    return [make(folder / name) for make, name in made]


def _predictions(folder: Path) -> Stored:
    """Answers that a judge reads."""
    folder.mkdir(parents=True)
    path = folder / "edpo_one_shot.jsonl"
    row = {"image": "a.png", "question": "Is it whole?", "answer": "No. A dent.", "prediction": "No."}
    rows = [{**row, "mle": {"accuracy": 5.0, "localization": 4, "logic": 3}}, {**row, "mle": None}]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return Stored("predictions", path, read_answers)


def _answered(folder: Path) -> Stored:
    """A benchmark's journal; a damaged chunk counts as not there, so that what is found is some of what was written."""
    path = folder / "journal.jsonl"
    journal = AnswerJournal(path, "model")
    written = {f"k{n}": Answered(f"k{n}", "stamp", [{"answer": f"A{n}"}]) for n in range(4)}
    for number in (0, 2):
        journal.append([written[f"k{number}"], written[f"k{number + 1}"]])

    def read(path: Path) -> Any:
        found = AnswerJournal(path, "model").find()
        return all(written.get(key) == item for key, item in found.items())

    return Stored("journal of a benchmark", path, read)


def _replies(folder: Path) -> Stored:
    """An endpoint's replies; a damaged line counts as not there."""
    path = folder / "replies.jsonl"
    store, written = ReplyStore(path), {f"k{number}": f"reply {number}" for number in range(3)}
    for key, text in written.items():
        store.put(key, text)

    def read(path: Path) -> Any:
        found = ReplyStore(path)
        return all(found.get(key) in (None, text) for key, text in written.items()) and len(found) <= len(written)

    return Stored("replies of an endpoint", path, read)


def _rows(folder: Path) -> Stored:
    """Rows of an inspection under way; those behind a damaged one count as not there."""
    folder.mkdir(parents=True)
    path = folder / "inspection.jsonl.partial"
    journal = RowJournal(path, "model")
    rows = {f"k{n}": InspectionRow(f"{n}.png", "part", "good", 0.25 * n, "No.") for n in range(4)}
    for keys in (("k0", "k1"), ("k2", "k3")):
        journal.append([(key, "stamp", rows[key]) for key in keys])

    def read(path: Path) -> Any:
        found = RowJournal(path, "model")
        entries = found.find()
        return list(found.rows(entry.offset for entry in entries.values())) == [rows[key] for key in entries]

    return Stored("rows of an inspection under way", path, read)


def _facts(folder: Path) -> Stored:
    """Facts that a model wrote; a damaged line counts as not there."""
    path, written = folder / "facts.jsonl", {b"a": ("One.", "Two."), b"b": ("Three.",)}
    FactBook(path).add((image, "name", facts) for image, facts in written.items())

    def read(path: Path) -> Any:
        found = FactBook(path)
        return all(found.of(image) in (None, facts) for image, facts in written.items()) and len(found) <= len(written)

    return Stored("facts of a model", path, read)


def _metrics(folder: Path) -> Stored:
    """Rows of a plot; damaged ones are dropped."""
    with RunLog(folder, "sfe") as log:
        for step in (1, 2, 3):
            log.metrics(step, {"loss": 1.0 / step})

    def read(path: Path) -> Any:
        with RunLog(folder, "sfe") as log:
            log.resume_from(2)
        return len(path.read_bytes().splitlines())

    return Stored("metrics of a run", folder / "metrics.jsonl", read)


def _list(folder: Path) -> Stored:
    """A list of checksums."""
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"content")
    write_checksums(folder)
    return Stored("list of checksums", folder / CHECKSUMS, lambda _: damaged(folder, listed=True))


def _corrections(folder: Path) -> Stored:
    """An operator's corrections, in SQLite, which has no checksums."""
    store = CorrectionStore(folder)
    store.correct(store.add_inspection(finding()), "Ada", verdict="defective", kind="dent", cell="top")
    store.add_inspection(finding(name="another.png"))

    def read(path: Path) -> Any:
        _without_log(path)
        found = CorrectionStore(folder)
        entries = [*found.corrected(), *found.pending()]
        histories = [found.history(entry.id) for entry in entries]
        return len(histories), dataclasses.astuple(found.counts()), found.thresholds()

    return Stored("corrections", folder / CORRECTIONS, read)


def _watched(folder: Path) -> Stored:
    """What a watched folder held, in SQLite."""
    journal = WatchJournal(folder)
    journal.record([Done(b"a.png", Known("1 1", "digest"), '{"verdict": "good"}')])
    journal.move_cursor("posted", 1)

    def read(path: Path) -> Any:
        _without_log(path)
        found = WatchJournal(folder)
        return len(found.stamps()), found.known(b"a.png"), found.results_after(0, 9), found.cursor("posted")

    return Stored("journal of a watched folder", folder / WATCHED, read)


def _without_log(path: Path) -> None:
    """Takes what SQLite left beside another mutant away."""
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
