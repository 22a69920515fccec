"""AD-PL's JSON is read item by item: a bad one is named by its line and the others are kept."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_jax.config import DataConfig
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import encode_png
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources import adpl_json
from sage_jax.data.sources.adpl_json import FormatError, Item, read_items, read_records
from sage_jax.data.sources.readers import source_revision

_KINDS = ("standard comparison", "defect identification", "defect diagnosis")
Split = Literal["train", "test"]
_VOCABULARY = load_vocabulary("")


def _item(index: int, folder: str = "mvtec/washer/test/good") -> dict[str, Any]:
    def question(number: int) -> dict[str, Any]:
        options = [
            {"answer_en": f"{word} {number} of {index}.", "answer_cn": "x"}
            for word in ("Yes.", "True:", "No,", "false")
        ]
        return {"question_en": f"Question {number}?", "question_cn": "x", "answer_options": options}

    return {
        "pair_type": _KINDS[index % 3],
        "test_image": f"{folder}/{index:03d}.png",
        "reference_image": "mvtec/washer/train/good/000.png",
        "question_answer": [question(number) for number in range(5)],
    }


def _write(root: Path, items: list[Any]) -> DataConfig:
    rng = np.random.default_rng(0)
    for item in items:
        for key in ("test_image", "reference_image"):
            name = item.get(key) if isinstance(item, dict) else None
            if isinstance(name, str) and name and ".." not in name and not (root / name).exists():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(encode_png(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)))
    (root / "adpl.json").write_text(json.dumps(items, indent=1), encoding="utf-8")
    return DataConfig(source="adpl", root=str(root / "adpl.json"), num_train=0, num_test=0, test_fraction=1e-9)


def _read(data: DataConfig, split: Split = "train", seed: int = 0) -> tuple[list[Record], list[Fault]]:
    items = list(read_records(data, split, seed, _VOCABULARY))
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Fault)]


def test_fields_and_rank_order_arrive_as_written(tmp_path: Path) -> None:
    items = [_item(index) for index in range(6)]
    items[1]["reference_image"] = None
    del items[2]["reference_image"]
    items[3] |= {"facts": ["One.", "Two."], "category": "special nut", "anomalous": True, "id": "my-id"}
    for rank, option in enumerate(items[3]["question_answer"][0]["answer_options"]):
        option["score"] = 5 - rank
    records, faults = _read(_write(tmp_path, items))
    assert not faults and len(records) == 6
    for record, item in zip(records, items, strict=True):
        assert (record.pair_type, record.image_id) == (item["pair_type"], item["test_image"])
        assert record.test_image == (tmp_path / item["test_image"]).read_bytes()
        for question, expected in zip(record.questions, item["question_answer"], strict=True):
            assert question.text == expected["question_en"]
            assert [a.text for a in question.answers] == [o["answer_en"] for o in expected["answer_options"]]
    assert [record.reference_image is None for record in records] == [False, True, True, False, False, False]
    assert records[0].category == "washer" and records[0].facts == _VOCABULARY.facts_for("washer")
    assert [answer.score for answer in records[3].questions[0].answers] == [5.0, 4.0, 3.0, 2.0]
    assert records[3].questions[1].answers[0].score is None
    assert (records[3].facts, records[3].category, records[3].anomalous) == (("One.", "Two."), "special nut", True)
    assert records[3].record_id == "my-id"
    assert records[0].anomalous is None, "a folder called good is no label"


def test_facts_may_be_those_of_the_items_alone(tmp_path: Path) -> None:
    items = [_item(0), _item(1) | {"facts": ["Its own."]}]
    data = _write(tmp_path, items)
    assert [bool(record.facts) for record in _read(data)[0]] == [True, True]
    alone = dataclasses.replace(data, facts="record")
    assert [record.facts for record in _read(alone)[0]] == [(), ("Its own.",)]
    revisions = [source_revision(each, 0) for each in (data, alone, dataclasses.replace(data, facts="model"))]
    assert revisions[0] == revisions[2] != revisions[1]


def test_category_falls_back_on_the_first_folder(tmp_path: Path) -> None:
    data = _write(tmp_path, [_item(0, "some_thing/test/x"), _item(1, ".")])
    assert [record.category for record in _read(data)[0]] == ["some thing", "part"]


def test_images_root_is_used(tmp_path: Path) -> None:
    data = _write(tmp_path, [_item(0)])
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "adpl.json").rename(tmp_path / "elsewhere/adpl.json")
    assert len(_read(dataclasses.replace(data, root=str(moved)))[1]) == 1
    assert len(_read(dataclasses.replace(data, root=str(moved), images_root=str(tmp_path)))[0]) == 1


def _without(item: dict[str, Any], *path: Any) -> None:
    for key in path[:-1]:
        item = item[key]
    del item[path[-1]]


def _with(value: Any, item: dict[str, Any], *path: Any) -> None:
    for key in path[:-1]:
        item = item[key]
    item[path[-1]] = value


_QA = "question_answer"
_BREAKS = {
    "4 questions": lambda item: _without(item, _QA, 0),
    "question 2 has 3 answers": lambda item: _without(item, _QA, 1, "answer_options", 0),
    "question 1 has 5 answers": lambda item: item[_QA][0]["answer_options"].append({"answer_en": "No."}),
    "question 3: the best answer 'Maybe' opens with no verdict": lambda item: _with(
        "Maybe", item, _QA, 2, "answer_options", 0, "answer_en"
    ),
    "is no kind": lambda item: _with("comparison", item, "pair_type"),
    "pair_type is missing": lambda item: _without(item, "pair_type"),
    "test_image is missing": lambda item: _without(item, "test_image"),
    "test_image is a number": lambda item: _with(3, item, "test_image"),
    "question_answer is empty": lambda item: _with({}, item, _QA),
    "question 1 is a text": lambda item: _with("Why?", item, _QA, 0),
    "question_en is empty": lambda item: _with("  ", item, _QA, 0, "question_en"),
    "question 1, answer 2: is a text": lambda item: _with("No.", item, _QA, 0, "answer_options", 1),
    "question 1, answer 2: answer_en is missing": lambda item: _without(item, _QA, 0, "answer_options", 1, "answer_en"),
    "has score 7": lambda item: _with(7.0, item, _QA, 0, "answer_options", 0, "score"),
    "has score nan": lambda item: _with(float("nan"), item, _QA, 0, "answer_options", 0, "score"),
    "score is out of range": lambda item: _with(10**400, item, _QA, 0, "answer_options", 0, "score"),
    "score is True": lambda item: _with(True, item, _QA, 0, "answer_options", 0, "score"),
    "anomalous is 1": lambda item: _with(1, item, "anomalous"),
    "category is a number": lambda item: _with(3, item, "category"),
    "category is empty": lambda item: _with(" ", item, "category"),
    "key 'kategorie' is unknown": lambda item: _with("nut", item, "kategorie"),
    "question 2: key 'answers' is unknown": lambda item: _with([], item, _QA, 1, "answers"),
    "question 1, answer 2: key 'scores' is unknown": lambda item: _with(
        3.0, item, _QA, 0, "answer_options", 1, "scores"
    ),
    "a sentence of facts is empty": lambda item: _with([""], item, "facts"),
    "half a character": lambda item: _with("Yes \ud800", item, _QA, 0, "answer_options", 0, "answer_en"),
    "outside": lambda item: _with("../../etc/passwd", item, "test_image"),
    "lies outside": lambda item: _with("/etc/passwd", item, "reference_image"),
}


@pytest.mark.parametrize("problem", _BREAKS)
def test_a_bad_item_is_named_by_its_line_and_alone_is_lost(tmp_path: Path, problem: str) -> None:
    items = [_item(index) for index in range(3)]
    data = _write(tmp_path, items)
    broken = copy.deepcopy(items)
    _BREAKS[problem](broken[1])
    text = json.dumps(broken, indent=1)
    (tmp_path / "adpl.json").write_text(text)
    records, faults = _read(data)
    assert [record.image_id for record in records] == [items[0]["test_image"], items[2]["test_image"]]
    line = [number for number, row in enumerate(text.splitlines(), 1) if row == " {"][1]
    assert [(fault.file, fault.line) for fault in faults] == [(data.root, line)]
    assert problem in faults[0].problem and faults[0].cure


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_a_bad_image_is_named_with_the_item(tmp_path: Path, content: bytes | str) -> None:
    items = [_item(index) for index in range(3)]
    data = _write(tmp_path, items)
    picture = tmp_path / items[1]["test_image"]
    picture.write_bytes(picture.read_bytes()[:60] if isinstance(content, str) else content)
    records, faults = _read(data)
    assert len(records) == 2 and len(faults) == 1
    assert items[1]["test_image"] in faults[0].problem and faults[0].line is not None


def test_an_item_told_twice_is_a_fault_with_both_lines(tmp_path: Path) -> None:
    items = [_item(0), _item(1), _item(0)]
    items[2]["test_image"] = "./" + items[0]["test_image"]
    records, faults = _read(_write(tmp_path, items))
    assert len(records) == 2 and len(faults) == 1
    assert "line 2" in faults[0].problem and faults[0].line is not None and faults[0].line > 60


def test_items_of_one_line_are_told_apart_by_their_number(tmp_path: Path) -> None:
    items = [_item(0), _item(1), _item(2), _item(0)]
    data = _write(tmp_path, items)
    del items[1]["pair_type"]
    (tmp_path / "adpl.json").write_text(json.dumps(items))
    records, faults = _read(data)
    assert len(records) == 2
    assert [(fault.file, fault.line) for fault in faults] == [(data.root, 1)] * 2
    assert faults[0].problem == "item 2: pair_type is missing"
    assert faults[1].problem.startswith("item 4: has the same id as item 1: ")


def test_an_unknown_key_names_the_nearest_and_published_ones_and_notes_are_left(tmp_path: Path) -> None:
    items = [_item(index) for index in range(2)]
    items[0] |= {"domain": "mechanics", "conclusion_en": "It is dented.", "_seen by": "me"}
    items[1] |= {"categori": "nut"}
    records, faults = _read(_write(tmp_path, items))
    assert len(records) == 1 and len(faults) == 1
    assert faults[0].cure.startswith("did you mean 'category'; else remove it")


def test_a_held_out_category_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    data = dataclasses.replace(_write(tmp_path, [_item(0), _item(1)]), held_out=("nope",))
    for split in ("train", "test"):
        with pytest.raises(FormatError, match=r"data\.held_out: .*no category 'nope'; it has washer"):
            _read(data, split)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'"{_KINDS[1]}",', f'"{_KINDS[1]}"'),
        ('"pair_type": "' + _KINDS[1] + '"', '"pair_type": ' + _KINDS[1]),
        ("[", "[,]"),
    ],
)
def test_a_syntax_error_loses_one_item(tmp_path: Path, old: str, new: str) -> None:
    items = [_item(index) for index in range(4)]
    data = _write(tmp_path, items)
    text = json.dumps(items, indent=1)
    place = text.index(_KINDS[1]) - 14
    broken = text[:place] + text[place:].replace(old, new, 1)
    assert broken != text
    (tmp_path / "adpl.json").write_text(broken)
    records, faults = _read(data)
    assert [record.image_id for record in records] == [items[index]["test_image"] for index in (0, 2, 3)]
    assert len(faults) == 1 and "cannot be parsed" in faults[0].problem
    line = text[:place].count("\n") + 1
    assert faults[0].line is not None and line <= faults[0].line <= line + 4


def test_a_cut_file_keeps_what_is_whole_and_says_so(tmp_path: Path) -> None:
    data = _write(tmp_path, [_item(0), _item(1)])
    text = (tmp_path / "adpl.json").read_text()
    (tmp_path / "adpl.json").write_text(text[:-200])
    records, faults = _read(data)
    assert len(records) == 1 and any("cut off" in fault.cure for fault in faults)


def test_a_list_that_ends_early_says_so(tmp_path: Path) -> None:
    data = _write(tmp_path, [_item(0), _item(1)])
    path = tmp_path / "adpl.json"
    path.write_text(json.dumps([_item(0)], indent=1) + json.dumps([_item(1)]))
    records, faults = _read(data)
    assert len(records) == 1 and len(faults) == 1
    assert "after the list's end" in faults[0].problem and faults[0].line == len(path.read_text().splitlines())


def test_what_is_no_list_is_an_error_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "adpl.json"
    for content in (b"{}", b"", b'"[', b"[\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="adpl.json: "):
            read_items(path)
    with pytest.raises(FormatError, match="set data.root"):
        read_items(tmp_path / "none.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(_JSON, max_size=5))
def test_any_list_parses_as_json_does(tmp_path: Path, values: list[Any]) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(values))
    expected = [value for value in json.loads(path.read_text()) if isinstance(value, dict)]
    items = read_items(path)
    assert repr([item.fields for item in items if isinstance(item, Item)]) == repr(expected)
    assert len(items) == len(values)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 3000), length=st.integers(1, 40), noise=st.text(alphabet='[]{},:"\\ \nx1', max_size=8))
def test_damage_never_crashes(tmp_path: Path, start: int, length: int, noise: str) -> None:
    path = tmp_path / "adpl.json"
    data = _write(tmp_path, [_item(0), _item(1)])
    text = json.dumps([_item(0), _item(1)], indent=1)
    path.write_text("[" + text[1:start] + noise + text[start + length :])
    (records, faults), (more, others) = _read(data), _read(data, "test")
    assert len(records) + len(more) == 2 or faults or others, "nothing is lost in silence"


def test_deep_nesting_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" + "[" * 100_000)
    assert any(isinstance(item, Fault) for item in read_items(path))


def test_items_of_an_image_stay_in_one_split_whatever_the_seed(tmp_path: Path) -> None:
    items = [_item(index) for index in range(60)]
    for item in items[30:]:
        item["test_image"] = items[int(item["test_image"][-7:-4]) - 30]["test_image"]
        item["reference_image"] = None
    data = dataclasses.replace(_write(tmp_path, items), test_fraction=0.3)
    train, test = _read(data, "train")[0], _read(data, "test", seed=5)[0]
    assert len(train) + len(test) == 60
    assert not {record.image_id for record in train} & {record.image_id for record in test}
    assert 6 <= len(test) <= 34
    drawn = _read(dataclasses.replace(data, num_train=4), "train", seed=1)[0]
    assert len({record.image_id for record in drawn}) == 4 and len(drawn) == 8
    held = dataclasses.replace(data, held_out=("Washer",))
    assert not _read(held, "train")[0] and len(_read(held, "test")[0]) == 60


def test_files_names_every_image(tmp_path: Path) -> None:
    items = [_item(0), _item(1)]
    items[1]["reference_image"] = None
    assert set(adpl_json.files(_write(tmp_path, items))) == {
        items[0]["test_image"],
        items[0]["reference_image"],
        items[1]["test_image"],
    }


def test_a_text_of_nothing_but_beginnings_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "adpl.json"
    path.write_text("[" + '{"a":' * 200_000)
    started = time.monotonic()
    assert all(isinstance(each, Fault) for each in adpl_json.read_items(path))
    assert time.monotonic() - started < 5.0


def _chinese(index: int) -> dict[str, Any]:
    item = _item(index)
    for number, question in enumerate(item[_QA]):
        question["question_cn"] = f"第{number}处是否有缺陷？"
        for word, option in zip(("是的，", "对。", "不，", "否"), question["answer_options"], strict=True):
            option["answer_cn"] = f"{word}第{number}处。"
    return item


def test_the_texts_of_the_language_are_read_and_the_others_may_be_missing(tmp_path: Path) -> None:
    items = [_chinese(index) for index in range(2)]
    del items[1][_QA][2]["question_en"], items[1][_QA][2]["answer_options"][3]["answer_en"]
    english = _write(tmp_path, items)
    records, faults = _read(dataclasses.replace(english, language="zh"))
    assert not faults and len(records) == 2
    for record, item in zip(records, items, strict=True):
        for question, expected in zip(record.questions, item[_QA], strict=True):
            assert question.text == expected["question_cn"]
            assert [a.text for a in question.answers] == [o["answer_cn"] for o in expected["answer_options"]]
    (record,), (fault,) = _read(english)
    assert record.questions[0].text == "Question 0?"
    assert "question_en is missing" in fault.problem or "answer_en is missing" in fault.problem


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ((2, "question_cn"), None, "question 3: question_cn is missing"),
        ((0, "answer_options", 1, "answer_cn"), None, "question 1, answer 2: answer_cn is missing"),
        ((1, "answer_options", 0, "answer_cn"), " ", "question 2, answer 1: answer_cn is empty"),
        (
            (1, "answer_options", 0, "answer_cn"),
            "是否有？",
            "question 2: the best answer '是否有？' opens with no verdict",
        ),
    ],
)
def test_a_missing_chinese_text_is_a_fault_with_line_and_field(
    tmp_path: Path, path: tuple[Any, ...], value: str | None, problem: str
) -> None:
    items = [_chinese(index) for index in range(3)]
    data = dataclasses.replace(_write(tmp_path, items), language="zh")
    if value is None:
        _without(items[1], _QA, *path)
    else:
        _with(value, items[1], _QA, *path)
    text = json.dumps(items, indent=1, ensure_ascii=False)
    (tmp_path / "adpl.json").write_text(text, encoding="utf-8")
    records, (fault,) = _read(data)
    assert [record.image_id for record in records] == [items[0]["test_image"], items[2]["test_image"]]
    assert fault.line == [number for number, row in enumerate(text.splitlines(), 1) if row == " {"][1]
    assert problem in fault.problem and fault.cure
