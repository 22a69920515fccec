"""Rows become records: of one image and of two, joined into rankings, each fault once with file and line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import DataConfig, TextConfig
from sage_jax.data.check import check
from sage_jax.data.images import encode_png
from sage_jax.data.records import Fault, Record, validate
from sage_jax.data.sources.items import FormatError
from sage_jax.data.sources.readers import ReaderError, file_and_line, left_out, read_records, source_revision
from sage_jax.data.sources.rows import MOST_QUESTIONS, files
from sage_jax.data.store import DataFaultError, prepare
from tests.support.trainer_rows import (
    BETTER,
    CHATS,
    PREFERENCES,
    QUESTION,
    WORSE,
    internvl_chat,
    internvl_preference,
    llava,
    swift,
    trl,
)


def write(folder: Path, rows: Sequence[Any], *, name: str = "rows.jsonl", images: Sequence[str] = ()) -> DataConfig:
    """A file of rows beside images of its names; all of them train."""
    rng = np.random.default_rng(0)
    for image in images or ("a.png", "good.png", "worn.png"):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(encode_png(rng.integers(0, 256, (8, 8, 3), np.uint8)))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) if name.endswith("l") else json.dumps(list(rows), indent=1))
    return DataConfig(source="rows", root=str(folder / name), num_train=0, num_test=0, test_fraction=1e-9)


def read(data: DataConfig, split: Any = "train") -> tuple[list[Record], list[Fault]]:
    found = list(read_records(data, split, 0))
    return [one for one in found if isinstance(one, Record)], [one for one in found if isinstance(one, Fault)]


def asked(record: Record) -> list[tuple[str, list[str]]]:
    return [(question.text, [answer.text for answer in question.answers]) for question in record.questions]


@pytest.mark.parametrize("images", [("a.png",), ("good.png", "a.png"), ("good.png", "worn.png", "a.png")])
@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("name", {**PREFERENCES, **CHATS})
def test_every_format_is_a_record_of_its_images(name: str, file: str, images: tuple[str, ...], tmp_path: Path) -> None:
    data = write(tmp_path, [{**PREFERENCES, **CHATS}[name](images)], name=file)
    (record,), faults = read(data)
    assert not faults and not validate(record, verdicts=False)
    answers = [BETTER, WORSE] if name in PREFERENCES else [BETTER]
    assert asked(record) == [(QUESTION, answers)]
    assert (record.image_id, record.test_image) == ("a.png", (tmp_path / "a.png").read_bytes()), "the last is tested"
    assert [reference.path for reference in record.references] == list(images[:-1])
    assert all(reference.image == (tmp_path / reference.path).read_bytes() for reference in record.references)
    assert record.facts and (record.facts[0] == "A part has four corners.") == (name == "sage_sfe")
    assert record.anomalous is None and file_and_line(record, data) == (data.root, 1 if file == "rows.jsonl" else 2)
    assert {*files(data)} == {*images}


def preference(better: str, worse: str, question: str = QUESTION) -> dict[str, Any]:
    return {"id": 0, "image": "a.png", "question": question, "chosen": better, "rejected": worse}


def test_rows_of_one_question_are_one_ranking_across_formats(tmp_path: Path) -> None:
    other = swift(["a.png"])
    rows = [preference(BETTER, "x"), trl(["a.png"]), preference("x", WORSE), other, llava(["a.png"])]
    (record,), faults = read(write(tmp_path, rows))
    assert not faults and asked(record) == [(QUESTION, [BETTER, "x", WORSE])]


def test_answers_alone_stand_in_records_of_their_own_and_no_record_grows_without_end(tmp_path: Path) -> None:
    rows = [preference("a", "b", f"Question {number}?") for number in range(MOST_QUESTIONS + 2)]
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cap."}]
    turns += [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "The red one."}]
    rows.insert(0, {"id": "1", "image": "a.png", "conversations": turns})
    records, faults = read(write(tmp_path, rows))
    assert not faults and [len(record.questions) for record in records] == [MOST_QUESTIONS, 2, 2]
    assert [{len(question.answers) for question in record.questions} for record in records] == [{2}, {2}, {1}]
    assert asked(records[2]) == [("What?", ["A cap."]), ("Which?", ["The red one."])]
    assert len({record.record_id for record in records}) == 3 and {record.image_id for record in records} == {"a.png"}


def test_other_images_or_other_facts_are_other_records(tmp_path: Path) -> None:
    sfe = CHATS["sage_sfe"](["a.png"])
    rows = [
        trl(["a.png"]),
        trl(["good.png", "a.png"]),
        sfe,
        sfe | {"description": "Another."},
        sfe | {"description": ""},
    ]
    records, faults = read(write(tmp_path, rows))
    assert not faults and [len(record.references) for record in records] == [0, 1, 0, 0]
    assert records[0].facts[0] == "A part has four corners.", "the row of TRL has the facts of its image"
    assert [record.facts for record in records[2:]] == [("Another.",), ()] and len(records[0].questions) == 1


def test_the_split_is_that_of_folder_hash_or_category(tmp_path: Path) -> None:
    names = [f"cap/{number}.png" for number in range(30)] + ["gear/0.png"]
    data = write(tmp_path, [trl([name]) for name in names], images=names)
    drawn = {**vars(data), "test_fraction": 0.3}
    trained, tested = (read(DataConfig(**drawn), split)[0] for split in ("train", "test"))
    assert len(trained) + len(tested) == 31 and 3 < len(tested) < 18
    assert len(read(DataConfig(**{**drawn, "num_train": 5}))[0]) == 5
    held_out = DataConfig(**{**drawn, "held_out": ("gear",)})
    assert [record.category for record in read(held_out, "test")[0]] == ["gear"]
    with pytest.raises(ReaderError, match="no category 'pill'"):
        read(DataConfig(**{**drawn, "held_out": ("pill",)}))
    for split, name in (("train", "cap/1.png"), ("test", "gear/0.png")):
        write(tmp_path, [trl([name])], name=f"{split}.jsonl", images=names)
    folder = DataConfig(source="rows", root=str(tmp_path), num_train=0, num_test=0, test_fraction=0.999)
    for split, name in (("train", "cap/1.png"), ("test", "gear/0.png")):
        (record,), _ = read(folder, split)
        assert record.image_id == name
        assert file_and_line(record, folder) == (str(tmp_path / f"{split}.jsonl"), 1)


def test_a_meta_json_repeats_training_records_and_keeps_its_sets_apart(tmp_path: Path) -> None:
    write(tmp_path, [internvl_chat(["a.png"]), internvl_preference(["a.png"])], images=["img/a.png"])
    named = {"root": "img", "annotation": "rows.jsonl"}
    meta = {"once": {**named, "repeat_time": 0.5, "length": 2}, "thrice": {**named, "repeat_time": 3}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    data = DataConfig(source="rows", root=str(tmp_path / "meta.json"), num_train=0, num_test=0, test_fraction=1e-9)
    records, faults = read(data)
    assert not faults and [record.record_id for record in records] == [
        *("once|img/a.png", "thrice|img/a.png", "thrice|img/a.png#2", "thrice|img/a.png#3"),
    ]
    assert asked(records[0]) == [(QUESTION, [BETTER])] and asked(records[3]) == [(QUESTION, [BETTER, WORSE])]
    assert file_and_line(records[0], data) == (str(tmp_path / "rows.jsonl"), 1)


def test_paths_of_a_set_that_name_its_root_themselves_are_found(tmp_path: Path) -> None:
    write(tmp_path, [trl(["img/a.png"]), trl(["a.png"])], images=["img/a.png", "a.png"])
    (tmp_path / "meta.json").write_text(json.dumps({"set": {"root": "img/", "annotation": "rows.jsonl"}}))
    data = DataConfig(source="rows", root=str(tmp_path / "meta.json"), num_train=0, num_test=0, test_fraction=1e-9)
    (record,), faults = read(data)
    assert not faults and record.image_id == "img/a.png", "the set's root comes first"


def test_each_cause_is_one_fault_at_its_line_and_the_others_are_read(tmp_path: Path) -> None:
    two = internvl_chat(["good.png", "a.png"])
    rows = [
        trl(["a.png"]),
        two | {"image": "a.png"},
        trl(["gone.png"]),
        trl(["gone.png", "a.png"]),
        "{broken",
        trl(["../out.png"]),
        preference("same", "Same"),
        {"text": "x"},
        llava(["good.png"]),
    ]
    data = write(tmp_path, rows)
    records, faults = read(data)
    assert [record.image_id for record in records] == ["a.png", "good.png"]
    told = {fault.line: fault for fault in faults}
    assert len(told) == len(faults) == 6 and {fault.file for fault in faults} == {data.root}
    wanted = {
        2: "has 2 <image> placeholders for 1 image",
        3: "gone.png does not exist",
        5: "item 5 cannot be parsed",
        6: "../out.png lies outside",
        7: "chosen and rejected are the same answer",
        8: "is a row of no known trainer",
    }
    for line, problem in wanted.items():
        assert problem in told[line].problem and told[line].cure


def test_bad_rows_are_left_out_and_listed_where_the_config_says_so(tmp_path: Path) -> None:
    data = dataclasses.replace(
        write(tmp_path, [trl(["a.png"]), trl(["gone.png"]), "{broken"]), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(DataFaultError, match=r"2 faults of 2 causes:\n.*rows.jsonl:3: item 3 cannot be parsed"):
        prepare(data, TextConfig(vocab_size=300), seed=0, run_dir=tmp_path)
    skipping = dataclasses.replace(data, on_bad_record="skip")
    prepared = prepare(skipping, TextConfig(vocab_size=300), seed=0, run_dir=tmp_path)
    skipped = [json.loads(line) for line in (tmp_path / "skipped_records.jsonl").read_text().splitlines()]
    assert prepared.num_train == 1 and {row["line"] for row in skipped} == {2, 3} and len(skipped) == 2


def test_a_bad_image_of_both_splits_is_one_fault(tmp_path: Path) -> None:
    for split, name in (("train", "a.png"), ("test", "worn.png")):
        write(tmp_path, [trl(["good.png", name])], name=f"{split}.jsonl")
    (tmp_path / "good.png").write_bytes(b"no image")
    data = DataConfig(source="rows", root=str(tmp_path), num_train=0, num_test=0)
    report = check(data, 0)
    (fault,) = report.faults
    assert (fault.file, fault.line) == (str(tmp_path / "train.jsonl"), 1) and "good.png is no image" in fault.problem


def test_paths_that_are_absolute_count_where_they_lie_inside(tmp_path: Path) -> None:
    data = write(tmp_path, [trl([str(tmp_path / "a.png")]), trl(["/etc/hosts"])])
    (record,), (fault,) = read(data)
    assert record.image_id == "a.png" and "/etc/hosts lies outside" in fault.problem


def test_what_is_not_read_is_noted(tmp_path: Path) -> None:
    row = trl(["a.png"])
    row["prompt"].insert(0, {"role": "system", "content": "Be brief."})
    data = write(tmp_path, [row | {"origin": "x"}, {**internvl_chat(["a.png"])}])
    system, unread = left_out(data)
    assert "1 rows have a system message, such as 'Be brief.'" in system and "text.system" in system
    assert unread.endswith("fields that are not read: origin (1 rows)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"test_image": "a.png", "question_answer": [{"question_en": "?"}]}], "AD-PL items.*set data.source=adpl"),
        ({"DS/a.png": {"conversation": []}}, "MMAD"),
        ({"test": {"screw": []}}, "set data.source to meta"),
        ([{"test_image": "a.png", "question_answer": [{"answer": True}]}], "MANTA"),
        ([{"text": "x", "source": "y"}] * 3, "holds objects of text, source, no rows of another trainer"),
    ],
)
def test_a_file_without_any_row_is_one_error(content: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ReaderError, match=said) as error:
        read(DataConfig(source="rows", root=str(tmp_path / "x.json"), num_train=0, num_test=0))
    assert isinstance(error.value.__cause__, FormatError) and "\n" not in str(error.value)


def test_the_revision_follows_rows_and_images_but_not_their_place(tmp_path: Path) -> None:
    data = [write(tmp_path / name, [trl(["a.png"])]) for name in ("one", "two")] if _made(tmp_path) else []
    first = source_revision(data[0], 0)
    assert first == source_revision(data[1], 0)
    (tmp_path / "two" / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    assert source_revision(data[1], 0) != first
    write(tmp_path / "one", [trl(["a.png"]), trl(["good.png"])])
    assert source_revision(data[0], 0) != first


def _made(folder: Path) -> bool:
    for name in ("one", "two"):
        (folder / name).mkdir()
    return True
