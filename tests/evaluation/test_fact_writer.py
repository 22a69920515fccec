"""Facts that a model writes about a batch of images: by their pixels alone, whatever is known already."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sage_jax.data.written_facts import FactBook
from sage_jax.evaluation.fact_writer import FactWriter
from tests.support.tiny_export import TRAINED_HERE, make_run, record

RECORDS = [record(number, num_facts=number % 3) for number in range(3)]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> FactWriter:
    text = dataclasses.replace(TRAINED_HERE.text, buckets=())
    facts = dataclasses.replace(TRAINED_HERE.facts, max_tokens=12)
    folder = str(tmp_path_factory.mktemp("facts") / "run")
    run = make_run(dataclasses.replace(TRAINED_HERE, run_dir=folder, text=text, facts=facts))
    return FactWriter(run.evaluator("sfe", run.weights.answering("sfe", wanted_by="test")))


def written(writer: FactWriter, path: Path) -> dict[str, tuple[str, ...]]:
    book = FactBook(path)
    writer.write(RECORDS, book, 8)
    return dict(book.facts)


def test_facts_depend_on_the_image_alone(writer: FactWriter, tmp_path: Path) -> None:
    found = written(writer, tmp_path / "one.jsonl")
    assert len(found) == len(RECORDS) and any(found.values())
    bare = [dataclasses.replace(each, reference_image=None, facts=("Other.",), questions=()) for each in RECORDS]
    book = FactBook(tmp_path / "two.jsonl")
    writer.write(bare, book, 8)
    assert dict(book.facts) == found


def test_those_that_are_known_stay_and_the_others_come_to_the_bit(writer: FactWriter, tmp_path: Path) -> None:
    found = written(writer, tmp_path / "one.jsonl")
    book = FactBook(tmp_path / "two.jsonl")
    book.add([(RECORDS[1].test_image, "1", ["Known before."])])
    writer.write(RECORDS, book, 8)
    told = {name: book.of(each.test_image) for name, each in zip("012", RECORDS, strict=True)}
    assert told["1"] == ("Known before.",)
    first = FactBook(tmp_path / "one.jsonl")
    assert (told["0"], told["2"]) == (first.of(RECORDS[0].test_image), first.of(RECORDS[2].test_image))
    assert found


def test_nothing_is_asked_where_all_is_known(writer: FactWriter, tmp_path: Path, compilations: list[str]) -> None:
    book = FactBook(tmp_path / "facts.jsonl")
    book.add((each.test_image, each.test_path, ["Known."]) for each in RECORDS)
    before = book.path.read_bytes()
    writer.write(RECORDS, book, 4)  # a batch of another size would have to be compiled
    assert book.path.read_bytes() == before and not compilations
