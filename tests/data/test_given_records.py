"""Records stored as a data set come back as they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sage_jax.config import DataConfig
from sage_jax.data import store
from sage_jax.data.given_records import records_digest, store_records
from sage_jax.data.records import Record, Reference
from sage_jax.data.sources.readers import read_records


def some_records(number: int) -> list[Record]:
    data = DataConfig(num_train=number, num_test=1, image_px=32)
    return [each for each in read_records(data, "train", 3) if isinstance(each, Record)]


def test_records_come_back_with_their_counts(tmp_path: Path) -> None:
    records = some_records(6)
    records[0] = dataclasses.replace(records[0], further_references=(Reference(b"more", "more.png"),))
    prepared = store_records(records, tmp_path)
    found = store.open_split(prepared, "train")
    assert [found[index] for index in range(len(found))] == [dataclasses.replace(r, line=r.line) for r in records]
    assert prepared.num_train == len(records) and prepared.num_test == 0 and prepared.trained_tokenizer is None
    assert len(store.open_split(prepared, "test")) == 0
    assert (found.counts.questions, found.counts.answers, found.counts.references) == (5, 4, 2)
    assert store.train_verdicts(prepared).sums != [0, 0]


def test_the_same_records_are_found_again_and_others_are_not(tmp_path: Path) -> None:
    records = some_records(3)
    first = store_records(records, tmp_path)
    written = first.path.stat().st_mtime_ns
    assert store_records(records, tmp_path) == first and first.path.stat().st_mtime_ns == written
    assert store_records(records[:2], tmp_path).path != first.path
    assert len(list(tmp_path.iterdir())) == 2


def test_the_digest_is_of_all_that_a_record_holds() -> None:
    (record, *_) = some_records(1)
    changed = (
        record,
        dataclasses.replace(record, test_image=record.test_image + b"x"),
        dataclasses.replace(record, category="other"),
        dataclasses.replace(record, questions=record.questions[1:]),
        dataclasses.replace(record, further_references=(Reference(b"a", ""),)),
        dataclasses.replace(record, further_references=(Reference(b"b", ""),)),
    )
    assert len({records_digest([each]) for each in changed}) == len(changed)
    assert records_digest([record, changed[1]]) != records_digest([changed[1], record])
