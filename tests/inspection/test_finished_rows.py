"""Finished rows on disk: whole batches are found again, all else is cut off or left aside."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sage_jax.inspection.finished_rows import RowJournal
from sage_jax.inspection.report import InspectionRow

ROWS = [
    InspectionRow(
        "a.png", "nut", "defective", 0.1 + 0.2, "Ein Kratzer – 3 µm.", ((1, 2, 3, 4, 0.5),), overlay_path="o"
    ),
    InspectionRow("b.png", "nut", "unreadable", None, "", error="b.png: cut off"),
    InspectionRow("c.png", "nut", "good", 0.0, "No."),
]
BATCHES = [[("ka", "1 1", ROWS[0]), ("kb", "absent", ROWS[1])], [("kc", "3 3", ROWS[2])]]


@pytest.fixture
def journal(tmp_path: Path) -> RowJournal:
    return RowJournal(tmp_path / "rows.partial", "model")


def test_rows_are_found_with_their_stamps_in_any_order(journal: RowJournal):
    offsets = [offset for batch in BATCHES for offset in journal.append(batch)]
    found = journal.find()
    assert {key: entry.stamp for key, entry in found.items()} == {"ka": "1 1", "kb": "absent", "kc": "3 3"}
    assert [found[key].offset for key in ("ka", "kb", "kc")] == offsets
    assert list(journal.rows([offsets[2], offsets[0], offsets[1]])) == [ROWS[2], ROWS[0], ROWS[1]]


def test_without_a_file_nothing_is_found(journal: RowJournal):
    assert journal.find() == {}


def test_whatever_byte_a_kill_came_at_whole_batches_are_kept(journal: RowJournal, tmp_path: Path):
    journal.append(BATCHES[0])
    first = (tmp_path / "rows.partial").stat().st_size
    journal.append(BATCHES[1])
    whole = (tmp_path / "rows.partial").read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / "rows.partial").write_bytes(whole[:cut])
        keys = {"ka", "kb", "kc"} if cut == len(whole) else {"ka", "kb"} if cut >= first else set()
        assert journal.find().keys() == keys
        assert (tmp_path / "rows.partial").stat().st_size == {3: len(whole), 2: first, 0: 0}[len(keys)]


def test_whatever_bit_is_flipped_no_other_row_is_found(journal: RowJournal, tmp_path: Path):
    for batch in BATCHES:
        journal.append(batch)
    path, rng = tmp_path / "rows.partial", random.Random(0)
    whole = path.read_bytes()
    written: dict[str, InspectionRow] = dict(zip(("ka", "kb", "kc"), ROWS, strict=True))
    fewer = 0
    for _ in range(300):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        found = journal.find()
        assert list(journal.rows(entry.offset for entry in found.values())) == [written[key] for key in found]
        fewer += len(found) < 3
    assert fewer == 300


def test_what_is_appended_after_a_cut_is_found(journal: RowJournal, tmp_path: Path):
    journal.append(BATCHES[0])
    with (tmp_path / "rows.partial").open("ab") as file:
        file.write(b'{"key": "k')
    assert journal.find().keys() == {"ka", "kb"}
    journal.append(BATCHES[1])
    assert journal.find().keys() == {"ka", "kb", "kc"}


def test_rows_of_another_model_are_left_aside_and_the_newest_row_of_an_image_counts(tmp_path: Path):
    for made_by, stamp in (("old", "1"), ("new", "2"), ("old", "3"), ("new", "4")):
        RowJournal(tmp_path / "rows.partial", made_by).append([("k", stamp, ROWS[2])])
    assert {made_by: RowJournal(tmp_path / "rows.partial", made_by).find() for made_by in ("other",)} == {"other": {}}
    assert RowJournal(tmp_path / "rows.partial", "new").find()["k"].stamp == "4"
    assert RowJournal(tmp_path / "rows.partial", "old").find()["k"].stamp == "3"


def test_a_file_that_is_no_journal_is_begun_anew(journal: RowJournal, tmp_path: Path):
    (tmp_path / "rows.partial").write_text('{"image": "a.png"}\n[]\n', encoding="utf-8")
    assert journal.find() == {}
    journal.append(BATCHES[1])
    assert journal.find().keys() == {"kc"}
