"""What the page shows: the queue in its orders with the reasons, a history with undos, and counts at thresholds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.records import Box
from sage_jax.review.content import ORDERS, Content
from sage_jax.review.pictures import PictureMaker
from tests.support.reviewed import HEIGHT, WIDTH, add, store_at


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return store_at(tmp_path)


@pytest.fixture
def content(store: CorrectionStore) -> Content:
    return Content(store, PictureMaker(store))


def test_each_order_lists_all_that_waits_and_begins_as_it_says(content: Content, store: CorrectionStore) -> None:
    add(store, 7, score=0.2, reason="Yes. There is a crack.")
    first = {}
    for order in ORDERS:
        found = content.queue(order, category="", limit=50, offset=0)["inspections"]
        assert sorted(each["id"] for each in found) == list(range(1, 8))
        first[order] = found[0]["name"]
    assert first == {
        "risk": "part 6.png",
        "score": "part 5.png",
        "contradiction": "part 7.png",
        "newest": "part 7.png",
    }


def test_the_queue_is_cut_by_category_and_into_parts(content: Content, store: CorrectionStore) -> None:
    add(store, 8, score=0.7, category="nut")
    for order in ORDERS:
        (nut,) = content.queue(order, category="nut", limit=9, offset=0)["inspections"]
        assert nut["name"] == "part 8.png"
    both = [content.queue("score", category="", limit=3, offset=offset)["inspections"] for offset in (0, 3)]
    scores = [each["score"] for part in both for each in part]
    assert scores == sorted(scores, reverse=True) and len(scores) == 6
    assert content.queue("risk", category="", limit=1, offset=0)["categories"] == ["nut", "washer"]


def test_reasons_say_what_is_doubtful(content: Content, store: CorrectionStore) -> None:
    add(store, 9, score=0.2, reason="Yes. There is a crack.", boxes=((0, 0, 5, 5, 0.9),))
    add(store, 10, score=0.95, boxes=())
    why = {each["name"]: each["why"] for each in content.queue("newest", category="", limit=9, offset=0)["inspections"]}
    assert why["part 1.png"] == [] and why["part 6.png"] == ["the model is unsure"]
    assert why["part 3.png"] == ["near the threshold"] == why["part 4.png"]
    assert why["part 9.png"] == ["words and score disagree", "the map shows a place"]
    assert why["part 10.png"] == ["the map shows nothing"]


def test_an_inspection_comes_with_its_size_map_and_history(content: Content, store: CorrectionStore) -> None:
    store.correct(5, "Ana", verdict="defective", kind="burr", box=Box(1, 2, 3, 4), sentence="A burr.")
    store.undo(5, "Ben")
    found = content.whole(5)
    assert (found["width"], found["height"], found["has_map"]) == (WIDTH, HEIGHT, True)
    one, other = found["history"]
    assert one["said"]["box"] == {"left": 1, "top": 2, "right": 3, "bottom": 4} and one["who"] == "Ana"
    assert (other["said"], other["undoes"], other["who"]) == (None, one["row"], "Ben")
    assert found["correction"] is None


def test_the_history_tells_what_stands_and_what_was_taken_back(content: Content, store: CorrectionStore) -> None:
    store.correct(1, "Ana", right=True)
    store.correct(1, "Ben", verdict="defective")
    store.undo(1, "Ben")
    rows = content.history(limit=9, offset=0)["rows"]
    assert [(row["who"], row["undone"], row["stands"]) for row in rows] == [
        ("Ben", False, False),
        ("Ben", True, False),
        ("Ana", False, True),
    ]
    assert len(content.history(limit=1, offset=1)["rows"]) == 1


def test_thresholds_count_people_s_labels_and_leave_unsure_and_other_models_out(
    content: Content, store: CorrectionStore
) -> None:
    store.correct(3, "Ana", verdict="defective")
    store.correct(4, "Ana", verdict="good")
    add(store, 11, score=0.9, model="model 2")
    add(store, 12, score=0.7, model="model 1")
    found = content.thresholds()
    at = found["chosen"]
    assert found["total"] == 6 and found["thresholds"][at] == 0.5
    assert {label: counts[0] for label, counts in found["above"].items()} == {"good": 1, "defective": 1, "unknown": 4}
    assert {label: counts[at] for label, counts in found["above"].items()} == {"good": 1, "defective": 0, "unknown": 2}


def test_a_store_without_inspections_has_nothing_to_count(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path / "empty")
    assert Content(store, PictureMaker(store)).thresholds() == {"total": 0}
