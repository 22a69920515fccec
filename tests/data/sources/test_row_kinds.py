"""Rows of every trainer are recognised by their keys and say the same in one form; a faulty one is named."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sage_jax.data.sources.items import BadItem
from sage_jax.data.sources.row_kinds import KINDS, Asked, images_of, kind_of, parse_row, same_answer
from tests.support.trainer_rows import (
    BETTER,
    CHATS,
    PREFERENCES,
    QUESTION,
    WORSE,
    alpaca,
    alpaca_preference,
    llamafactory,
    llava,
    swift,
    trl,
)

FORMATS = {**PREFERENCES, **CHATS}
NAMES = {
    "alpaca": "chat rows of LLaMA-Factory in alpaca",
    "trl": "TRL",
    "llamafactory": "LLaMA-Factory",
    "swift": "ms-swift",
    "internvl_preference": "of InternVL",
}


@pytest.mark.parametrize("images", [("a.png",), ("good.png", "a.png")])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(name: str, images: tuple[str, ...]) -> None:
    fields = FORMATS[name](images)
    row = parse_row(fields)
    assert row.images == images and row.system == ""
    assert row.asked == (Asked(QUESTION, (BETTER, WORSE) if name in PREFERENCES else (BETTER,)),)
    facts = ("A part has four corners.", "A square must not be red.")
    assert row.facts == (facts if name == "sage_sfe" else None)
    kind = kind_of(fields)
    assert kind in KINDS and NAMES.get(name, "") in kind.name
    assert kind_of({"test_image": "a.png", "question_answer": []}) is None


def test_turns_are_questions_and_the_last_has_the_pair() -> None:
    before = [("human", "<image>\nWhat is it?"), ("gpt", "A cap."), ("human", QUESTION)]
    turns = [{"from": who, "value": text} for who, text in before]
    asked = parse_row({**llamafactory(["a.png"]), "conversations": turns}).asked
    assert asked == (Asked("What is it?", ("A cap.",)), Asked(QUESTION, (BETTER, WORSE)))
    chat = parse_row({**llava(["a.png"]), "conversations": [*turns, {"from": "gpt", "value": "No."}]})
    assert chat.asked == (Asked("What is it?", ("A cap.",)), Asked(QUESTION, ("No.",)))


def test_alpaca_rows_join_instruction_and_input_and_have_a_history() -> None:
    row = alpaca(["good.png", "a.png"]) | {
        "instruction": "<image><image>Look.",
        "input": QUESTION,
        "system": "Be brief.",
    }
    found = parse_row({**row, "history": [["What is it?", "A cap."]], "instruction": "Look."})
    assert found.asked == (Asked("What is it?", ("A cap.",)), Asked(f"Look.\n{QUESTION}", (BETTER,)))
    assert found.system == "Be brief." and found.unread == ()
    assert parse_row(row).asked == (Asked(f"Look.\n{QUESTION}", (BETTER,)),), "placeholders are taken out"
    pair = alpaca_preference(["a.png"]) | {"instruction": "", "input": f"<image>{QUESTION}", "output": "Neither."}
    assert parse_row(pair).asked == (Asked(QUESTION, (BETTER, WORSE)),), "chosen and rejected are what is ranked"


def test_system_message_unread_fields_and_empty_facts_are_kept_apart() -> None:
    row = swift(["a.png"])
    row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    found = parse_row({**row, "width": 3, "source": "x", "tools": [], "description": "", "question_id": 7})
    assert found.system == "Be brief." and found.unread == ("width", "source") and found.question_id == "7"
    assert found.facts == () and found.asked == parse_row(swift(["a.png"])).asked
    assert parse_row({**llamafactory(["a.png"]), "system": "Be kind."}).system == "Be kind."


def test_a_field_of_null_is_absent() -> None:
    empty = dict.fromkeys(("chosen", "rejected", "rejected_response", "description", "label", "images", "system"))
    assert parse_row({**llava(["a.png"]), **empty}) == parse_row(llava(["a.png"]))
    assert parse_row({**swift(["a.png"]), "conversations": None}) == parse_row(swift(["a.png"]))


def test_images_come_under_either_key_one_or_several() -> None:
    for fields in ({"image": "a.png"}, {"image": ["a.png"]}, {"images": "a.png"}, {"images": [{"path": "a.png"}]}):
        assert images_of(fields) == ("a.png",)
    for fields, said in (
        ({}, "no image"),
        ({"images": []}, "no image"),
        ({"images": [{"bytes": "x"}]}, "holds an object"),
    ):
        with pytest.raises(BadItem, match=said):
            images_of(fields)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<image>Will it seal?", "Will it seal?"),
        ("Will it seal?\n<image>", "Will it seal?"),
        ("Will it seal? <image>", "Will it seal?"),
        ("Look.\n\nImage-1: <image>\nWill it seal?", "Look.\n\nWill it seal?"),
    ],
)
def test_placeholders_leave_the_words(text: str, kept: str) -> None:
    assert parse_row({"image": "a.png", "question": text, "chosen": "a", "rejected": "b"}).asked[0].question == kept


def _chat(*turns: tuple[str, Any], images: Any = "a.png") -> dict[str, Any]:
    return {"image": images, "conversations": [{"from": who, "value": text} for who, text in turns]}


SAID_BY_ROLE = {"role": "assistant", "content": "No."}
ASKED, SAID = ("human", "<image>\nIs it?"), ("gpt", "Yes.")
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "few": (_chat(ASKED, SAID, images=["a.png", "b.png"]), "has 1 <image> placeholders for 2 images"),
    "none": (_chat(("human", "Is it?"), SAID), "has 0 <image> placeholders for 1 image"),
    "many": (trl(["a.png", "b.png"]) | {"images": ["a.png"]}, "has 2 <image> placeholders for 1 image"),
    "inside": (_chat(("human", "Is <image> like <image>?"), SAID), "stands inside a sentence, 'Is <image> like"),
    "later": (_chat(("human", "Is it?"), SAID, ASKED, SAID), "an image comes after the first turn"),
    "answer": (_chat(ASKED, ("gpt", "<image> yes")), "has 2 <image> placeholders"),
    "open": (_chat(ASKED), "its turns are user"),
    "order": (_chat(ASKED, ASKED, SAID, SAID, images=["a", "b"]), "an image comes after the first turn"),
    "two": (_chat(ASKED, ("human", "Well?"), SAID, SAID), "its turns are user, user, assistant, assistant"),
    "gpt first": (_chat(SAID, ASKED), "its turns are assistant, user|an image comes after"),
    "role": (_chat(ASKED, ("function_call", "x")), "turn 2 is of 'function_call'"),
    "empty": (_chat(("human", "<image>"), SAID), "turn 1 has no text"),
    "type": (_chat(ASKED, ("gpt", 3)), "turn 2: content is a number"),
    "part": (_chat(ASKED, ("gpt", [{"type": "video"}])), "a part of type 'video'"),
    "turns": ({"image": "a.png", "conversations": "x"}, "placeholders|its turns"),
    "no turns": ({"image": "a.png", "messages": []}, "its turns are empty"),
    "no object": ({"image": "a.png", "messages": ["x"]}, "turn 1 is a text"),
    "same": (llamafactory(["a.png"]) | {"rejected": {"value": f" {BETTER.upper()}"}}, "are the same answer"),
    "two answers": (trl(["a.png"]) | {"chosen": [{}, {}]}, "chosen has 2 messages"),
    "no answer": (llamafactory(["a.png"]) | {"rejected": {}}, "rejected: content is"),
    "image in answer": (llamafactory(["a.png"]) | {"chosen": {"value": "<image> x"}}, "chosen holds an image"),
    "no chosen": (swift(["a.png"]) | {"messages": swift(["a.png"])["messages"][:1]}, "end without the chosen"),
    "apart": (
        {"images": ["a.png"], "chosen": [{"role": "user", "content": "x"}], "rejected": []},
        "its turns|begin with",
    ),
    "other prompt": (
        swift(["a.png"]) | {"rejected_messages": [{"role": "user", "content": "<image>Why?"}, SAID_BY_ROLE]},
        "messages and rejected_messages begin with different turns",
    ),
    "completion": ({"image": "a.png", "prompt": "Is it?", "completion": [{}, {}]}, "completion has 2 messages"),
    "kto": (_chat(ASKED, SAID) | {"kto_tag": False}, "kto_tag marks single answers"),
    "swift kto": (swift(["a.png"]) | {"label": True}, "label marks single answers"),
    "video": (_chat(ASKED, SAID) | {"videos": ["a.mp4"]}, "videos shows videos"),
    "unknown": ({"text": "x", "source": "y"}, "is a row of no known trainer, with keys 'text', 'source'"),
    "history": (alpaca(["a.png"]) | {"history": [["Why?"]]}, "history: entry 1 is a list"),
    "history text": (alpaca(["a.png"]) | {"history": "Why?"}, "history: entry 1 is a text"),
    "no instruction": (alpaca(["a.png"]) | {"instruction": ""}, "instruction with input: content is empty"),
    "old pair": (alpaca(["a.png"]) | {"output": ["Yes.", "No."]}, "output is a list of answers"),
    "alpaca kto": (alpaca(["a.png"]) | {"kto_tag": True}, "kto_tag marks single answers"),
    "one answer": (alpaca_preference(["a.png"]) | {"rejected": ""}, "rejected: content is empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_row_is_named(name: str) -> None:
    fields, problem = FAULTS[name]
    with pytest.raises(BadItem) as error:
        parse_row(fields)
    told, cure = error.value.args
    assert re.search(problem, told), told
    assert cure


def test_answers_are_compared_as_validation_compares_them() -> None:
    assert same_answer(" The  cap\nis Whole. ") == same_answer("the cap is whole.") != same_answer("the cap is whole")
