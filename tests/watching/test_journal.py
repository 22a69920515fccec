"""Files and results in SQLite: together or not at all, and found again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from sage_jax.watching.journal import FILE, Done, Known, Result, WatchError, WatchJournal

A, B = Known("1 1", "digest a"), Known("2 2", "digest b")


def test_files_and_results_are_found_again(tmp_path: Path) -> None:
    WatchJournal(tmp_path).record([Done(b"a\xff.png", A, '{"n": 1}'), Done(b"b.png", B, "")])
    journal = WatchJournal(tmp_path)
    assert journal.known(b"a\xff.png") == A and journal.known(b"c.png") is None
    assert journal.stamps() == {b"a\xff.png": "1 1", b"b.png": "2 2"}
    assert journal.first_result("digest a") == Result(1, '{"n": 1}') and journal.first_result("digest b") is None
    assert journal.results_after(0, 9) == [Result(1, '{"n": 1}')] and journal.results_after(1, 9) == []


def test_the_first_result_on_a_content_stays_the_first_and_paths_follow_the_files(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)
    journal.record([Done(b"a.png", A, "1"), Done(b"c.png", A, "2")])
    assert journal.first_result("digest a") == Result(1, "1") and journal.paths_with("digest a") == [b"a.png", b"c.png"]
    journal.record([Done(b"a.png", B, "3")])
    assert journal.paths_with("digest a") == [b"c.png"] and journal.last_number() == 3


def test_a_record_that_fails_leaves_nothing(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)
    nothing: Any = None
    broken = Done(b"b.png", Known("2 2", nothing), "2")
    with pytest.raises(WatchError, match=FILE):
        journal.record([Done(b"a.png", A, "1"), broken])
    assert journal.stamps() == {} and journal.last_number() == 0


def test_cursors_move_by_name(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)
    assert journal.cursor("posted") is None
    journal.move_cursor("posted", 3)
    journal.move_cursor("written", 5)
    journal.move_cursor("posted", 4)
    assert (journal.cursor("posted"), journal.cursor("written")) == (4, 5)


def test_threads_write_together(tmp_path: Path) -> None:
    journal = WatchJournal(tmp_path)

    def work(start: int) -> None:
        for number in range(start, start + 10):
            journal.record([Done(b"%d.png" % number, Known("1 1", str(number)), str(number))])

    threads = [threading.Thread(target=work, args=(10 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(each.line) for each in journal.results_after(0, 99)) == list(range(40))


def test_a_damaged_file_and_a_folder_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(WatchError, match=FILE):
        WatchJournal(tmp_path)
    with pytest.raises(WatchError, match="watch.output"):
        WatchJournal(tmp_path / FILE / "below")
