"""Facts by image: kept line by line, damage left out, and records that read them."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from sage_jax.data.trees.encode import count_records
from sage_jax.data.written_facts import FactBook, RecordsWithFacts, image_key
from tests.support.tiny_export import record

IMAGES = {name: f"content of {name}".encode() for name in ("a", "b", "c")}
FACTS = {"a": ("One.", "T\u00fcr \U0001f600."), "b": (), "c": ("Three.",)}


def book_of(path: Path) -> FactBook:
    book = FactBook(path)
    book.add((IMAGES[name], name, FACTS[name]) for name in IMAGES)
    return book


def test_a_book_opens_with_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "facts.jsonl"
    assert len(FactBook(path)) == 0 and not path.parent.exists()
    book_of(path).complete("revision")
    opened = FactBook(path)
    assert {name: opened.of(image) for name, image in IMAGES.items()} == FACTS
    assert opened.of(b"another image") is None
    assert opened.is_complete("revision") and not opened.is_complete("another")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries[0]["image"] == image_key(IMAGES["a"]) and entries[0]["name"] == "a"


def test_the_first_facts_of_an_image_stay(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    book_of(path).add([(IMAGES["a"], "a", ["Other."])])
    assert FactBook(path).of(IMAGES["a"]) == FACTS["a"] and len(path.read_text().splitlines()) == 3


def test_what_is_not_to_be_kept_stays_in_memory(tmp_path: Path) -> None:
    book = FactBook(tmp_path / "facts.jsonl")
    book.add([(b"image", "a", ["One."])], keep=False)
    book.complete("revision", keep=False)
    assert book.of(b"image") == ("One.",) and book.is_complete("revision") and not book.path.exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "nonsense", "list", "not utf-8"])
def test_a_damaged_line_is_left_out_and_its_facts_can_be_added_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "facts.jsonl"
    book_of(path).complete("revision")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = {
        "cut": lines[2][:20] + b"\n",
        "flip": lines[2].replace(b"Three", b"Throe"),
        "nonsense": b"{" * 100_000 + b"\n",
        "list": b"[1]\n",
        "not utf-8": b"\xff\xfe\n",
    }[damage]
    path.write_bytes(b"".join(lines))
    damaged = FactBook(path)
    assert damaged.num_damaged == 1 and damaged.of(IMAGES["c"]) is None and damaged.of(IMAGES["a"]) == FACTS["a"]
    assert not damaged.is_complete("revision")
    damaged.add([(IMAGES["c"], "c", FACTS["c"])])
    damaged.complete("revision")
    mended = FactBook(path)
    assert mended.num_damaged == 0 and mended.of(IMAGES["c"]) == FACTS["c"] and mended.is_complete("revision")


def test_a_last_line_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    book_of(path)
    path.write_bytes(path.read_bytes()[:-9])
    cut = FactBook(path)
    cut.add([(IMAGES["c"], "c", FACTS["c"])])
    assert FactBook(path).of(IMAGES["c"]) == FACTS["c"]


def test_records_take_the_facts_of_their_image(tmp_path: Path) -> None:
    records = [record(number, num_facts=2) for number in range(3)]
    book = FactBook(tmp_path / "facts.jsonl")
    book.add([(records[1].test_image, "1", ["Written."])])
    told = RecordsWithFacts(records, book.facts)
    assert len(told) == 3 and told.counts == count_records(records)
    assert [each.facts for each in told] == [records[0].facts, ("Written.",), records[2].facts]
    assert dataclasses.replace(told[1], facts=records[1].facts) == records[1]
    assert [each.facts for each in told[1:]] == [("Written.",), records[2].facts]
    assert pickle.loads(pickle.dumps(told))[1] == told[1]
