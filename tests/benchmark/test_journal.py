"""Answers under way: found again after a kill, whole chunks alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.benchmark.journal import Answered, AnswerJournal

ITEMS = [Answered(f"image {number}", "stamp", [{"said": "ja ä\n", "yes": 0.5}]) for number in range(5)]


@pytest.fixture
def journal(tmp_path: Path) -> AnswerJournal:
    made = AnswerJournal(tmp_path / "results" / "j.jsonl", "this model")
    made.append(ITEMS[:2])
    made.append(ITEMS[2:])
    return made


def test_what_was_appended_is_found(journal: AnswerJournal, tmp_path: Path) -> None:
    assert journal.find() == {item.key: item for item in ITEMS}
    assert AnswerJournal(tmp_path / "none.jsonl", "this model").find() == {}


def test_of_a_chunk_that_a_kill_cut_short_nothing_counts(journal: AnswerJournal, tmp_path: Path) -> None:
    path = tmp_path / "results" / "j.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (len(whole) - 1, len(whole) - 30, len(b"".join(lines[:3])), len(b"".join(lines[:2])) + 1):
        path.write_bytes(whole[:cut])
        assert list(journal.find()) == [item.key for item in ITEMS[:2]]
        assert path.read_bytes() == b"".join(lines[:2])
        journal.append(ITEMS[2:])
        assert path.read_bytes() == whole


def test_of_a_chunk_with_a_damaged_line_nothing_counts_and_others_stay(journal: AnswerJournal, tmp_path: Path) -> None:
    path = tmp_path / "results" / "j.jsonl"
    journal.append([Answered("last", "stamp", [])])
    whole = path.read_bytes()
    flipped = whole.replace(b'"yes": 0.5', b'"yes": 0.7', 1)
    lines = whole.splitlines(keepends=True)
    for content, lost in ((flipped, ITEMS[:2]), (b"".join([*lines[:3], b"x\n", *lines[4:]]), ITEMS[2:])):
        path.write_bytes(content)
        kept = {"last", *(item.key for item in ITEMS)} - {item.key for item in lost}
        assert set(journal.find()) == kept
        assert path.read_bytes() == content
        journal.append(lost)
        assert len(journal.find()) == 6


def test_another_models_answers_stay_and_do_not_count(journal: AnswerJournal, tmp_path: Path) -> None:
    other = AnswerJournal(tmp_path / "results" / "j.jsonl", "another")
    assert other.find() == {}
    other.append(ITEMS[:1])
    assert list(other.find()) == ["image 0"] and len(journal.find()) == 5


def test_of_two_answers_to_one_item_the_later_counts(journal: AnswerJournal) -> None:
    journal.append([Answered("image 0", "changed", [])])
    assert journal.find()["image 0"].stamp == "changed"
