"""Parts of readers of question sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_jax.benchmark.question_json import LineFinder, objects_in, parse, read_text
from sage_jax.data.sources.items import BadItem
from sage_jax.errors import ConfigError


def test_files_that_cannot_be_read_are_named_with_the_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark.root = .*none.json.*: name the JSON file"):
        read_text(tmp_path / "none.json", "benchmark.root")
    (tmp_path / "latin.json").write_bytes(b'{"\xe4": 1}')
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 2: save it as UTF-8"):
        read_text(tmp_path / "latin.json", "benchmark.root")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n "b": }', r"x.json:2: .*correct the JSON"),
        ('{"a": [1,\n 2', "x.json:2: .*complete the file"),
        ("[" * 100_000, "x.json"),
    ],
)
def test_broken_json_is_one_message_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(Path("x.json"), text)


def test_a_line_is_found_as_the_key_is_written() -> None:
    for ascii_only in (True, False):
        text = json.dumps({"a": 1, "kätzchen/1.png": 2}, indent=1, ensure_ascii=ascii_only)
        assert LineFinder(text, keys=True).line_of("kätzchen/1.png") == 3
    assert LineFinder("{}", keys=True).line_of("a") is None


def test_lines_of_a_string_that_comes_again_are_told_in_order() -> None:
    text = json.dumps([{"image": "a", "as": "a"}, {"image": "b"}, {"image": "a"}, {"b": 1}], indent=0)
    lines = text.split("\n")
    values, keys = LineFinder(text, keys=False), LineFinder(text, keys=True)
    found = [values.line_of("a"), values.line_of("a"), values.line_of("b"), values.line_of("a"), values.line_of("a")]
    assert found == [
        lines.index('"image": "a",') + 1,
        *(n + 1 for n, line in enumerate(lines) if line in ('"as": "a"', '"image": "b"', '"image": "a"')),
        None,
    ]
    assert keys.line_of("b") == lines.index('"b": 1') + 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "q is missing"),
        ({"q": []}, "q is empty"),
        ({"q": "text"}, "q is a text"),
        ({"q": [{}, None]}, "question 2 is null"),
    ],
)
def test_a_list_of_questions_must_be_one(fields: dict[str, object], said: str) -> None:
    assert list(objects_in({"q": [{"a": 1}]}, "q")) == [(1, {"a": 1})]
    with pytest.raises(BadItem, match=said):
        list(objects_in(fields, "q"))
