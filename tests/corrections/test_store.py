"""The store of corrections: what was acknowledged is there, in order, whoever wrote at the same time."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sage_jax.corrections.entries import CorrectionFault, Counts
from sage_jax.corrections.store import CorrectionStore, store_of
from sage_jax.data.records import Box
from tests.support.corrected import finding

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return store_of(tmp_path)


def test_an_inspection_comes_back_as_it_was_given(store: CorrectionStore) -> None:
    given = finding(boxes=((1, 2, 30, 40, 0.625),), reason="No. Größe stimmt, 好。", references=(b"one", b"two"))
    kept = store.inspection(store.add_inspection(given))
    assert store.image(kept.image) == given.image
    assert tuple(map(store.image, kept.references)) == given.references
    same = ("name", "category", "verdict", "score", "threshold", "reason", "answers", "boxes", "model", "source")
    for name in (*same, "risk", "contradiction", "language"):
        assert getattr(kept, name) == getattr(given, name), name
    assert kept.correction is None
    assert abs(kept.time - time.time()) < 60


def test_another_store_of_the_folder_reads_the_same(store: CorrectionStore, tmp_path: Path) -> None:
    number = store.add_inspection(finding())
    store.correct(number, "Ada", verdict="defective", kind="dent", cell="top", sentence="a  dent\nat the rim")
    found = store_of(tmp_path).inspection(number)
    assert found.correction and found.correction.correction
    said = found.correction.correction
    assert (found.correction.who, said.right, said.verdict, said.kind) == ("Ada", False, "defective", "dent")
    assert (said.cell, said.box, said.sentence) == ("top", None, "a dent at the rim")


def test_the_last_correction_stands_and_the_history_is_kept(store: CorrectionStore) -> None:
    number = store.add_inspection(finding())
    first = store.correct(number, "Ada", kind="dent")
    second = store.correct(number, "Bob", box=Box(1, 2, 3, 4))
    standing = store.inspection(number).correction
    assert standing and standing.id == second and standing.correction
    assert standing.correction.box == Box(1, 2, 3, 4) and standing.correction.verdict == "defective"
    undone = store.undo(number, "Ada")
    standing = store.inspection(number).correction
    assert standing and standing.id == first
    store.undo(number, "Ada")
    assert store.inspection(number).correction is None
    with pytest.raises(CorrectionFault, match=f"inspection {number}: there is no correction to take back"):
        store.undo(number, "Ada")
    rows = store.history(number)
    assert [row.id for row in rows] == sorted(row.id for row in rows) and len(rows) == 4
    assert [row.undoes for row in rows] == [None, None, second, first]
    assert [row.correction is None for row in rows] == [False, False, True, True]
    assert rows[2].id == undone and rows[2].who == "Ada"


def test_a_verdict_that_is_not_given_follows_from_what_the_model_said(store: CorrectionStore) -> None:
    def standing(number: int) -> tuple[bool, str]:
        found = store.inspection(number).correction
        assert found and found.correction
        return found.correction.right, found.correction.verdict

    good, defective = store.add_inspection(finding()), store.add_inspection(finding(verdict="defective", score=0.9))
    unsure = store.add_inspection(finding(verdict="unsure"))
    store.correct(good, "Ada", right=True)
    assert standing(good) == (True, "good")
    store.correct(good, "Ada")
    assert standing(good) == (False, "defective")
    store.correct(defective, "Ada")
    assert standing(defective) == (False, "good")
    store.correct(unsure, "Ada", verdict="good")
    assert standing(unsure) == (False, "good")
    with pytest.raises(CorrectionFault, match="the model was unsure: give the verdict"):
        store.correct(unsure, "Ada")
    with pytest.raises(CorrectionFault, match="the model said good, so that defective does not call it right"):
        store.correct(good, "Ada", right=True, verdict="defective")


def test_pending_comes_in_the_order_asked_for(store: CorrectionStore) -> None:
    sure = store.add_inspection(finding(score=0.05))
    near = store.add_inspection(finding(score=0.45))
    unsure = store.add_inspection(finding(score=0.05, verdict="unsure"))
    against = store.add_inspection(finding(score=0.02, reason="Yes. There is a dent."))
    assert [each.id for each in store.pending("risk")] == [unsure, near, sure, against]
    assert [each.id for each in store.pending("contradiction")] == [against, unsure, near, sure]
    assert [each.id for each in store.pending("newest")] == [against, unsure, near, sure]
    assert [each.id for each in store.pending("risk", limit=2, offset=1)] == [near, sure]
    store.correct(unsure, "Ada", verdict="good")
    assert [each.id for each in store.pending("risk")] == [near, sure, against]
    assert [each.id for each in store.corrected()] == [unsure]
    store.undo(unsure, "Ada")
    assert store.pending("risk")[0].id == unsure and not store.corrected()
    other = store.add_inspection(finding(category="nut"))
    assert [each.id for each in store.pending(category="nut")] == [other]
    unknown: Any = "best"
    with pytest.raises(CorrectionFault, match="order 'best': give one of risk, contradiction, newest"):
        store.pending(unknown)


def test_counts_tell_the_kinds_of_error_apart(store: CorrectionStore) -> None:
    assert store.counts() == Counts(0, 0, 0, 0, 0, 0, 0)
    numbers = [
        store.add_inspection(finding(verdict=verdict, score=0.9 if verdict == "defective" else 0.1))
        for verdict in ("good", "defective", "unsure", "defective", "defective", "good")
    ]
    store.correct(numbers[0], "Ada")
    store.correct(numbers[1], "Ada")
    store.correct(numbers[2], "Ada", verdict="defective")
    store.correct(numbers[3], "Ada", verdict="defective", kind="dent")
    store.correct(numbers[4], "Ada", right=True)
    found = store.counts()
    assert found == Counts(inspections=6, pending=1, right=1, over_rejected=1, escaped=1, settled=1, refined=1)
    assert found.corrected == 5


def test_thresholds_are_those_that_each_model_last_used(store: CorrectionStore) -> None:
    for model, threshold in (("a", 0.5), ("b", 0.25), ("a", 0.75)):
        store.add_inspection(finding(model=model, threshold=threshold))
    assert store.thresholds() == {"a": 0.75, "b": 0.25}


def test_wrong_input_is_named(store: CorrectionStore) -> None:
    number = store.add_inspection(finding())
    for call in (store.inspection, store.history):
        with pytest.raises(CorrectionFault, match="inspection 99: there is none of this number"):
            call(99)
    with pytest.raises(CorrectionFault, match="inspection 99"):
        store.correct(99, "Ada")
    with pytest.raises(CorrectionFault, match="who is empty"):
        store.correct(number, "  ")
    with pytest.raises(CorrectionFault, match="who is empty"):
        store.undo(number, "")
    with pytest.raises(CorrectionFault, match="limit = -2"):
        store.pending(limit=-2)
    for digest in ("../corrections.sqlite", "a" * 63):
        with pytest.raises(CorrectionFault, match="no digest of an image"):
            store.image(digest)
    assert store.history(number) == []


def test_a_damaged_image_is_told_and_kept_again_when_it_comes_again(store: CorrectionStore) -> None:
    kept = store.inspection(store.add_inspection(finding(image=b"pixels")))
    (path,) = (store.folder / "images").rglob(kept.image)
    path.write_bytes(b"pix")
    with pytest.raises(CorrectionFault, match="damaged: bring it back"):
        store.image(kept.image)
    store.add_inspection(finding(image=b"pixels"))
    assert store.image(kept.image) == b"pixels"


def test_a_file_that_is_no_store_and_a_later_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "corrections.sqlite").write_bytes(b"no database, but long enough to be read as one" * 40)
    with pytest.raises(CorrectionFault, match=r"corrections\.sqlite: file is not a database"):
        CorrectionStore(tmp_path / "a")
    CorrectionStore(tmp_path / "b")
    with sqlite3.connect(tmp_path / "b" / "corrections.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CorrectionFault, match="later version of the package"):
        CorrectionStore(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(CorrectionFault, match="cannot be written"):
        CorrectionStore(tmp_path / "file")


@pytest.mark.parametrize("how", ["emptied", "deleted"])
def test_a_database_that_is_gone_is_not_begun_anew_beside_its_images(tmp_path: Path, how: str) -> None:
    store = CorrectionStore(tmp_path)
    CorrectionStore(tmp_path)  # without an inspection there is nothing to lose
    store.add_inspection(finding())
    store.path.write_bytes(b"") if how == "emptied" else store.path.unlink()
    with pytest.raises(CorrectionFault, match="corrections.sqlite: gone or empty, .*bring it back from a copy"):
        CorrectionStore(tmp_path)


def test_threads_that_write_at_once_lose_nothing(store: CorrectionStore) -> None:
    done: list[int] = []

    def write(who: str) -> None:
        for index in range(8):
            number = store.add_inspection(finding(image=f"{who}{index}".encode()))
            store.correct(number, who, sentence=str(index))
            done.append(number)

    threads = [threading.Thread(target=write, args=(f"thread {index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(done)) == 48
    assert store.counts() == Counts(48, 0, 0, 0, 48, 0, 0)
    said = [(entry.correction.who, entry.correction.correction) for entry in store.corrected() if entry.correction]
    assert {(who, each.sentence) for who, each in said if each} == {
        (f"thread {thread}", str(index)) for thread in range(6) for index in range(8)
    }


def test_a_store_may_be_carried_over_a_fork(store: CorrectionStore) -> None:
    number = store.add_inspection(finding())
    child = multiprocessing.get_context("fork").Process(target=store.correct, args=(number, "child"))
    child.start()
    store.correct(number, "parent")
    child.join(60)
    assert child.exitcode == 0
    assert {row.who for row in store.history(number)} == {"child", "parent"}


_WRITER = """
import sys
from sage_jax.corrections.store import CorrectionStore
from tests.support.corrected import finding

store = CorrectionStore(sys.argv[1])
for index in range(100_000):
    number = store.add_inspection(finding(image=f"{sys.argv[2]} {index}".encode() * 2000))
    row = store.correct(number, sys.argv[2], kind="dent", sentence=str(index))
    print(number, row, index, flush=True)
"""


def test_a_writer_that_is_killed_at_any_time_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    random_times = random.Random(0)
    acknowledged: dict[int, tuple[str, int, int]] = {}
    for turn in range(6):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(tmp_path / "store"), f"writer {turn} {index}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        for writer in writers:
            assert writer.stdout and writer.stdout.readline(), "it wrote nothing"
        time.sleep(random_times.uniform(0.0, 0.4))
        for index, writer in enumerate(writers):
            os.kill(writer.pid, signal.SIGKILL)
            rest, _ = writer.communicate(timeout=60)
            for line in rest.splitlines(keepends=True):
                if line.endswith("\n"):
                    number, row, said = map(int, line.split())
                    acknowledged[number] = (f"writer {turn} {index}", row, said)
    store = CorrectionStore(tmp_path / "store")
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(acknowledged) > 20
    for number, (who, row, said) in acknowledged.items():
        entry = store.inspection(number)
        assert entry.correction and entry.correction.correction
        assert (entry.correction.id, entry.correction.who) == (row, who)
        assert entry.correction.correction.sentence == str(said)
        assert store.image(entry.image) == f"{who} {said}".encode() * 2000
