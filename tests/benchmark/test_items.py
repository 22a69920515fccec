"""Items as records: what is asked, what is shown, and which items are drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sage_jax.benchmark.items import IMAGES_NAMED, Asked, AskForm, Item, ItemRecords, drawn
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import ImageFault
from tests.support.question_sets import picture

ASKED = (
    Asked("Is there a defect?", "Anomaly Detection", {"A": "Yes.", "B": "No."}, "A"),
    Asked("What is it?", "Defect Classification", {"A": "a dent", "B": "a crack", "C": "a stain"}, "C"),
)
ITEM = Item("x/cap/1.png", "mmad.json", "x/cap/1.png", ("x/cap/good.png", "x/cap/other.png"), "cap", ASKED)
KNOWN = (" <Normal>\n Description: It is whole. No more.", "A crack is dark")


def records(folder: Path, shots: int, **fields: object) -> ItemRecords:
    for number, path in enumerate((ITEM.image, *ITEM.references)):
        picture(folder / path, number)
    form = dataclasses.replace(AskForm(folder, shots, "Answer with a letter."), **fields)
    return ItemRecords([dataclasses.replace(ITEM, knowledge=KNOWN)], form, load_vocabulary(""))


def test_a_record_asks_the_options_and_ranks_the_letters(tmp_path: Path) -> None:
    made = records(tmp_path, 1, knowledge_as="facts")
    record = made[0]
    assert [question.text for question in record.questions] == [
        "Is there a defect?\nA. Yes.\nB. No.\nAnswer with a letter.",
        "What is it?\nA. a dent\nB. a crack\nC. a stain\nAnswer with a letter.",
    ]
    assert [[answer.text for answer in question.answers] for question in record.questions] == [
        ["A", "B"],
        ["A", "B", "C"],
    ]
    assert record.test_image == (tmp_path / ITEM.image).read_bytes()
    assert record.reference_image == (tmp_path / ITEM.references[0]).read_bytes()
    assert record.further_references == () and record.facts == ("It is whole.", "A crack is dark")
    assert (made.counts.questions, made.counts.answers, made.counts.references) == (2, 3, 1)
    assert len(made[:1]) == 1 and made[:1].counts is made.counts


def test_as_many_references_are_shown_as_are_asked_for(tmp_path: Path) -> None:
    assert records(tmp_path, 0)[0].references == ()
    assert [each.path for each in records(tmp_path, 2)[0].references] == list(ITEM.references)


def test_knowledge_and_names_of_images_stand_before_the_question(tmp_path: Path) -> None:
    text = records(tmp_path, 1, names_images=True)[0].questions[0].text
    assert text.startswith(f"{KNOWN[0]}\n{KNOWN[1]}\n{IMAGES_NAMED}\nIs there a defect?\nA. Yes.")
    assert IMAGES_NAMED not in records(tmp_path, 0, names_images=True)[0].questions[0].text
    facts = records(tmp_path, 0)[0].facts
    assert facts == load_vocabulary("").facts_for("cap")


def test_a_yes_or_no_question_goes_on_in_its_line(tmp_path: Path) -> None:
    asked = Asked("Will it hold?", "defect diagnosis", {}, "No")
    assert AskForm(tmp_path, 0, "Say yes or no.").question(ITEM, asked) == "Will it hold? Say yes or no."
    assert AskForm(tmp_path, 0).question(ITEM, asked) == "Will it hold?"


def test_an_image_outside_the_root_is_never_read(tmp_path: Path) -> None:
    picture(tmp_path / "outside.png", 0)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside.png")
    for path in ("../outside.png", str(tmp_path / "outside.png"), "link.png"):
        item = dataclasses.replace(ITEM, image=path)
        with pytest.raises(ImageFault, match="lies outside"):
            ItemRecords([item], AskForm(tmp_path / "in", 0), load_vocabulary(""))[0]


def test_whole_images_are_drawn_by_the_seed_in_the_order_of_the_set() -> None:
    items = [dataclasses.replace(ITEM, key=f"{n}", image=f"{n // 2}.png") for n in range(40)]
    assert drawn(items, 0, 0) == items
    few = drawn(items, 18, 0)
    assert sum(len(item.asked) for item in few) == 16  # four questions an image
    assert few == sorted(few, key=lambda item: int(item.key)) and drawn(items, 18, 0) == few != drawn(items, 18, 1)
    assert all(len([item for item in few if item.image == image]) == 2 for image in {item.image for item in few})
    assert len(drawn(items, 1, 0)) == 2, "one image at least"


def test_facts_that_a_model_wrote_stand_in_for_the_vocabularys(tmp_path: Path) -> None:
    picture(tmp_path / ITEM.image, 0)
    form, vocabulary = AskForm(tmp_path, 0, knowledge_as="facts"), load_vocabulary("")
    plain = dataclasses.replace(ITEM, knowledge=())
    written = {ITEM.image: ("It is a cap.",)}
    assert ItemRecords([plain], form, vocabulary, written)[0].facts == ("It is a cap.",)
    assert ItemRecords([plain], form, vocabulary, {"other.png": ("No.",)})[0].facts == vocabulary.facts_for("cap")
    known = dataclasses.replace(ITEM, knowledge=KNOWN)
    assert ItemRecords([known], form, vocabulary, written)[0].facts == ("It is whole.", "A crack is dark")
