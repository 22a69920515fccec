"""The file of results: each line once and whole, whatever came between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_jax.watching.journal import Done, Known, WatchError, WatchJournal
from sage_jax.watching.result_file import ResultFile, numbered


@pytest.fixture
def journal(tmp_path: Path) -> WatchJournal:
    found = WatchJournal(tmp_path)
    for number in range(1, 4):
        found.record([Done(b"%d" % number, Known("", str(number)), json.dumps({"image": f"ü {number}"}))])
    return found


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


WHOLE = [f'{{"number": {number}, "image": "\\u00fc {number}"}}' for number in range(1, 4)]


def test_lines_come_once_with_their_number_first(tmp_path: Path, journal: WatchJournal) -> None:
    path = tmp_path / "results.jsonl"
    output = ResultFile(path, journal)
    assert output.catch_up() == 3 and output.catch_up() == 0
    assert ResultFile(path, journal).catch_up() == 0
    assert lines(path) == WHOLE and [json.loads(line)["number"] for line in WHOLE] == [1, 2, 3]
    assert json.loads(numbered(7, '{"a": 1}')) == {"number": 7, "a": 1}


@pytest.mark.parametrize("kept", range(0, 3 * len(WHOLE[0]) + 3, 7))
def test_a_line_torn_anywhere_is_written_again_whole(tmp_path: Path, journal: WatchJournal, kept: int) -> None:
    path = tmp_path / "results.jsonl"
    content = "".join(f"{line}\n" for line in WHOLE).encode()
    path.write_bytes(content[:kept])
    ResultFile(path, journal).catch_up()
    assert path.read_bytes() == content


def test_what_was_written_before_its_note_is_not_written_twice(tmp_path: Path, journal: WatchJournal) -> None:
    path = tmp_path / "results.jsonl"
    ResultFile(path, journal).catch_up()
    journal.move_cursor("written", 1)  # as after a kill between file and note
    assert ResultFile(path, journal).catch_up() == 0
    assert lines(path) == WHOLE


def test_a_file_moved_away_is_begun_anew(tmp_path: Path, journal: WatchJournal) -> None:
    path = tmp_path / "results.jsonl"
    output = ResultFile(path, journal)
    output.catch_up()
    path.rename(tmp_path / "old.jsonl")
    journal.record([Done(b"4", Known("", "4"), '{"image": "4"}')])
    output.catch_up()
    assert [json.loads(line)["number"] for line in lines(path)] == [4]


def test_a_last_line_longer_than_what_is_read_at_a_time_is_found(tmp_path: Path, journal: WatchJournal) -> None:
    path = tmp_path / "results.jsonl"
    journal.record([Done(b"4", Known("", "4"), json.dumps({"image": "x" * 200_000}))])
    ResultFile(path, journal).catch_up()
    journal.move_cursor("written", 0)
    assert ResultFile(path, journal).catch_up() == 0


def test_a_file_that_cannot_be_written_loses_nothing(tmp_path: Path, journal: WatchJournal) -> None:
    path = tmp_path / "folder" / "results.jsonl"
    output = ResultFile(path, journal)
    with pytest.raises(WatchError, match="watch.output"):
        output.catch_up()
    path.parent.mkdir()
    assert output.catch_up() == 3
