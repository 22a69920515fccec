"""LLaMA-Factory's dataset_info.json: its sets are read under their own names of columns and roles, or told why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources.dataset_info import NAME, columns_of, file_name, is_info
from sage_jax.data.sources.items import BadItem
from sage_jax.data.sources.readers import file_and_line, read_records, source_revision
from sage_jax.data.sources.row_files import json_paths

ASKED, BETTER, WORSE = "Is it whole?", "It is.", "It is not."
ALPACA = {
    "file_name": "caps.json",
    "columns": {"prompt": "q", "query": "more", "response": "a", "images": "photos", "system": "told", "history": "h"},
}
RANKED = {
    "file_name": "sub/ranked.jsonl",
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "turns", "chosen": "good", "rejected": "bad", "images": "photos"},
    "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "worker", "assistant_tag": "robot"},
}


def write(folder: Path, info: dict[str, Any]) -> DataConfig:
    """The listing with the files of both sets, and an image."""
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(encode_png(np.zeros((8, 8), np.uint8)))
    row = {"q": ASKED, "more": "Look.", "a": BETTER, "photos": ["a.png"], "told": "Be brief.", "output": "unread"}
    (folder / "caps.json").write_text(json.dumps([row | {"h": [["What is it?", "A cap."]]}]))
    good, bad = ({"who": "robot", "says": text} for text in (BETTER, WORSE))
    ranked = {"turns": [{"who": "worker", "says": f"<image>{ASKED}"}], "good": good, "bad": bad, "photos": ["a.png"]}
    (folder / "sub" / "ranked.jsonl").write_text(json.dumps(ranked) + "\n")
    (folder / NAME).write_text(json.dumps(info, indent=1))
    return DataConfig(source="rows", root=str(folder / NAME), num_train=0, num_test=0, test_fraction=1e-9)


@pytest.mark.parametrize("root", [NAME, ""])
def test_sets_are_read_under_their_own_names(root: str, tmp_path: Path) -> None:
    write(tmp_path, {"caps": ALPACA, "ranked": RANKED})
    data = DataConfig(source="rows", root=str(tmp_path / root), num_train=0, num_test=0, test_fraction=1e-9)
    chat, ranked = (record for record in read_records(data, "train", 0) if isinstance(record, Record))
    assert [(each.text, [answer.text for answer in each.answers]) for each in chat.questions] == [
        ("What is it?", ["A cap."]),
        (f"{ASKED}\nLook.", [BETTER]),
    ]
    (question,) = ranked.questions
    assert (question.text, [answer.text for answer in question.answers]) == (ASKED, [BETTER, WORSE])
    assert file_and_line(ranked, data) == (str(tmp_path / "sub" / "ranked.jsonl"), 1)
    assert {path.name for path in json_paths(data)} == {NAME, "caps.json", "ranked.jsonl"}


def test_images_may_lie_elsewhere_and_other_columns_are_another_data_set(tmp_path: Path) -> None:
    data = write(tmp_path, {"caps": ALPACA})
    (tmp_path / "media").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "media" / "a.png")
    moved = DataConfig(**{**vars(data), "images_root": str(tmp_path / "media")})
    (record,) = read_records(moved, "train", 0)
    assert isinstance(record, Record) and file_and_line(record, moved) == (str(tmp_path / "caps.json"), 1)
    before = source_revision(moved, 0)
    columns = {**ALPACA["columns"], "response": "output"}
    write(tmp_path, {"caps": ALPACA | {"columns": columns}})
    assert source_revision(moved, 0) != before
    (record,) = read_records(moved, "train", 0)
    assert isinstance(record, Record) and record.questions[1].answers[0].text == "unread"


def test_ranking_says_which_answers_count() -> None:
    fields = {"instruction": ASKED, "output": "x", "chosen": BETTER, "rejected": WORSE, "images": ["a.png"]}
    columns = {"prompt": "instruction", "response": "output", **{key: key for key in ("chosen", "rejected", "images")}}
    ranked, plain = (columns_of({"columns": columns, "ranking": ranking}).renamed(fields) for ranking in (True, False))
    assert {*ranked} == {"instruction", "chosen", "rejected", "images"}
    assert {*plain} == {"instruction", "output", "images"}
    odd = {"conversations": ["x", {"from": 3, "value": "y"}], "images": "a.png"}
    sharegpt = columns_of({"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}})
    assert sharegpt.renamed(odd) == odd, "what is no message is told by the reader of rows"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hf_hub_url": "a/b"}, "hf_hub_url is not fetched"),
        ({"file_name": "rows.parquet"}, "file_name rows.parquet is no .json or .jsonl"),
        ({"file_name": "none.json"}, "file_name none.json does not exist"),
        ({"file_name": "../caps.json"}, "file_name ../caps.json lies outside"),
        ({"formatting": "other"}, "formatting is 'other'"),
        ({"columns": {"prompt": "q"}}, "columns has no images"),
        ({"columns": "q"}, "columns is a text"),
        ({"columns": {"images": 3}}, "columns: images is a number"),
        ({"num_samples": 5}, "num_samples draws rows at random"),
    ],
)
def test_a_set_that_cannot_be_read_is_a_fault_at_its_line(changes: Any, problem: str, tmp_path: Path) -> None:
    data = write(tmp_path, {"caps": ALPACA, "bad": {**RANKED, **changes}})
    found = list(read_records(data, "train", 0))
    (fault,) = (one for one in found if isinstance(one, Fault))
    assert (fault.file, fault.line) == (data.root, 13 if len(found) else 0) and f"set 'bad': {problem}" in fault.problem
    assert len(found) == 2 and fault.cure, "the other set is read"


def test_a_listing_is_known_by_where_its_rows_are() -> None:
    assert is_info({"a": {"file_name": "x.json"}, "b": {"hf_hub_url": "x"}})
    assert not any(is_info(each) for each in ({}, [], {"a": {"annotation": "x"}}, {"a": {"file_name": "x"}, "b": 3}))
    assert file_name({"file_name": "x.jsonl"}) == "x.jsonl"
    with pytest.raises(BadItem, match="file_name is missing"):
        file_name({})
