"""Questions over a whole store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.queries import (
    LabelledScore,
    categories,
    inspection_of,
    last_model,
    latest_said,
    pending_by_score,
    scores,
)
from sage_jax.corrections.store import FILE, CorrectionStore
from tests.support.corrected import finding


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path)


def test_an_inspection_is_found_by_image_source_and_model(store: CorrectionStore) -> None:
    first = store.add_inspection(finding(image=b"1", source="folder a"))
    again = store.add_inspection(finding(image=b"1", source="folder a"))
    image = store.inspection(first).image
    model = store.inspection(first).model
    assert inspection_of(store, image, "folder a", model) == again
    assert inspection_of(store, image, "folder b", model) is None
    assert inspection_of(store, image, "folder a", "other") is None
    assert inspection_of(store, "0" * 64, "folder a", model) is None


def test_what_waits_comes_by_score_and_what_was_taken_back_waits_again(store: CorrectionStore) -> None:
    ids = [
        store.add_inspection(finding(score=score, category=name))
        for score, name in ((0.2, "a"), (0.4, "b"), (0.3, "a"))
    ]
    assert pending_by_score(store) == [ids[1], ids[2], ids[0]]
    assert pending_by_score(store, category="a") == [ids[2], ids[0]] and pending_by_score(store, limit=1, offset=1) == [
        ids[2]
    ]
    store.correct(ids[1], "Ana", right=True)
    assert pending_by_score(store) == [ids[2], ids[0]]
    store.undo(ids[1], "Ana")
    assert pending_by_score(store) == [ids[1], ids[2], ids[0]]
    assert categories(store) == ["a", "b"]


def test_what_was_said_last_comes_first_undos_too(store: CorrectionStore) -> None:
    one, other = store.add_inspection(finding()), store.add_inspection(finding())
    rows = [store.correct(one, "Ana", right=True), store.correct(other, "Ben", right=False), store.undo(one, "Ana")]
    assert latest_said(store) == [(one, rows[2]), (other, rows[1]), (one, rows[0])]
    assert latest_said(store, limit=1, offset=1) == [(other, rows[1])]


def test_scores_come_with_what_stands_and_without_the_unsure(store: CorrectionStore) -> None:
    assert last_model(store) is None
    one = store.add_inspection(finding(score=0.2, model="m"))
    store.add_inspection(finding(score=0.4, model="m", verdict="unsure"))
    store.add_inspection(finding(score=0.3, model="n", threshold=0.7))
    store.correct(one, "Ana", verdict="defective")
    assert list(scores(store, "m")) == [LabelledScore(0.2, "defective")]
    assert sorted(each.score for each in scores(store)) == [0.2, 0.3]
    assert last_model(store) == ("n", 0.7)


def test_a_store_that_cannot_be_read_is_named(store: CorrectionStore) -> None:
    store.path.write_bytes(b"no database" * 1000)
    with pytest.raises(CorrectionFault, match=FILE):
        categories(store)
