"""Items of a list or of lines are read with the line that each begins on; a broken one loses no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_jax.data.records import Fault
from sage_jax.data.sources.items import (
    BadItem,
    FormatError,
    Item,
    holds_list,
    json_kind,
    list_of,
    parse_items,
    text_of,
)


def parsed(path: Path, text: str) -> list[Item | Fault]:
    path.write_text(text)
    return parse_items(path, marks=("a", "b"), wanted="a file of letters")


@pytest.mark.parametrize("indent", [None, 1])
def test_items_have_their_lines_and_numbers(indent: int | None, tmp_path: Path) -> None:
    rows = [{"a": [1, {"x": 2}]}, {"b": "}{"}]
    found = parsed(tmp_path / "f", json.dumps(rows, indent=indent))
    assert [item.fields for item in found if isinstance(item, Item)] == rows
    lines = [item.line for item in found]
    assert lines == ([1, 1] if indent is None else [2, 10])
    assert [item.where for item in found if isinstance(item, Item)] == (
        ["item 1: ", "item 2: "] if not indent else ["", ""]
    )
    assert holds_list(tmp_path / "f")
    assert [item.line for item in parsed(tmp_path / "f", "\n".join(map(json.dumps, rows)))] == [1, 2]
    assert not holds_list(tmp_path / "f")


def test_behind_a_broken_item_the_next_that_has_a_mark_is_read(tmp_path: Path) -> None:
    broken, item = parsed(tmp_path / "f", '[{"a": {"x": 1}, oops},\n{"c": 1},\n{"b": 2}]')
    assert isinstance(broken, Fault) and broken.line == 1 and "item 1 cannot be parsed" in broken.problem
    assert isinstance(item, Item) and (item.fields, item.line, item.number) == ({"b": 2}, 3, 2)
    cut = parsed(tmp_path / "f", '[{"a": 1},\n')
    assert isinstance(cut[1], Fault) and "cut off" in cut[1].cure
    behind = parsed(tmp_path / "f", '[{"a": 1}]\n{"a": 2}')
    assert isinstance(behind[1], Fault) and "goes on after the list's end" in behind[1].problem
    assert isinstance(parsed(tmp_path / "f", "[3]")[0], Fault)


def test_a_file_that_is_no_json_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a file of letters begins with"):
        parsed(tmp_path / "f", "hello")
    (tmp_path / "f").write_bytes(b"[\xff]")
    with pytest.raises(FormatError, match="not UTF-8 at byte 1"):
        parse_items(tmp_path / "f", marks=(), wanted="a file")
    with pytest.raises(FormatError, match="set data.root to a file"):
        parse_items(tmp_path / "none", marks=(), wanted="a file")


def test_fields_are_texts_and_lists_or_named_faults() -> None:
    assert text_of({"a": " x "}, "a") == "x" and list_of({"a": [1]}, "a") == [1]
    for fields, problem in (
        ({}, "turn 1: a is missing"),
        ({"a": " "}, "turn 1: a is empty"),
        ({"a": 3}, "turn 1: a is a number"),
        ({"a": "\ud800"}, "turn 1: a holds half a character"),
    ):
        with pytest.raises(BadItem, match=problem):
            text_of(fields, "a", "turn 1: ")
    for fields in ({}, {"a": "x"}):
        with pytest.raises(BadItem, match="a is"):
            list_of(fields, "a")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "a is missing"),
        ({"a": " "}, "a is empty"),
        ({"a": 3}, "a is a number"),
        ({"a": "\ud800"}, "a holds half a character"),
    ],
)
def test_a_text_must_be_one(fields: dict[str, object], said: str) -> None:
    assert text_of({"a": " b "}, "a") == "b"
    with pytest.raises(BadItem, match=said):
        text_of(fields, "a")


def test_a_value_of_the_wrong_kind_is_called_by_its_json_name() -> None:
    assert [json_kind(value) for value in ({}, [], 1, True, {"a": 1}, [1])] == [
        *("empty", "empty", "a number", "true or false", "an object", "a list"),
    ]
