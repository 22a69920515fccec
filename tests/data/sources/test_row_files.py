"""Where rows stand: a file, the splits of a folder, or the files that a meta JSON of InternVL names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import DataConfig
from sage_jax.data.records import Fault
from sage_jax.data.sources.items import FormatError, Item
from sage_jax.data.sources.row_files import RowFile, images_root, json_paths, located, row_files
from tests.support.trainer_rows import internvl_chat


def write_meta(folder: Path, **changes: Any) -> DataConfig:
    rows = [internvl_chat([f"{number}.png"]) for number in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {"root": "img/", "annotation": "rows.jsonl", "data_augment": False, "repeat_time": 1, "length": 4}
    first = {key: value for key, value in (named | changes).items() if value is not ...}
    meta = {"caps": first, "seals": named | {"repeat_time": 3}}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    return DataConfig(source="rows", root=str(folder / "meta.json"), num_train=0, num_test=0)


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([internvl_chat(["a.png"])]))
    data = DataConfig(source="rows", root=str(tmp_path / "rows.json"))
    (file,) = row_files(data)
    assert file == RowFile(tmp_path / "rows.json") and images_root(data) == tmp_path
    assert images_root(dataclasses.replace(data, images_root=str(tmp_path / "img"))) == tmp_path / "img"
    assert located(data, "") == data.root and list(json_paths(data)) == [tmp_path / "rows.json"]
    assert isinstance(file, RowFile) and [type(item) for item in file.items(data)] == [Item]


def test_a_folder_has_its_splits(tmp_path: Path) -> None:
    data = DataConfig(source="rows", root=str(tmp_path))
    with pytest.raises(FormatError, match=r"has no train.jsonl or test.jsonl"):
        list(row_files(data))
    for name in ("train.json", "test.jsonl"):
        (tmp_path / name).write_text(json.dumps([internvl_chat(["a.png"])]))
    files = [file for file in row_files(data) if isinstance(file, RowFile)]
    assert [(file.name, file.split) for file in files] == [("train.json", "train"), ("test.jsonl", "test")]
    assert images_root(data) == tmp_path and located(data, "test.jsonl") == str(tmp_path / "test.jsonl")
    assert list(json_paths(data)) == [tmp_path / "train.json", tmp_path / "test.jsonl"]


def test_a_meta_json_names_files_with_root_repeats_and_length(tmp_path: Path) -> None:
    data = write_meta(tmp_path)
    caps, seals = (file for file in row_files(data) if isinstance(file, RowFile))
    assert (caps.set_name, caps.root, caps.repeat, caps.share, caps.length) == ("caps", "img", 1, 1.0, 4)
    assert (seals.repeat, seals.line) == (3, 9) and caps.path == tmp_path / "rows.jsonl"
    assert len(list(caps.items(data))) == 4
    assert {*json_paths(data)} == {tmp_path / "meta.json", tmp_path / "rows.jsonl"}
    half = next(row_files(write_meta(tmp_path, repeat_time=0.5)))
    assert isinstance(half, RowFile) and half.repeat == 1 and len(list(half.items(data))) == 2
    bare = next(row_files(write_meta(tmp_path, root="", repeat_time=..., length=...)))
    assert isinstance(bare, RowFile) and (bare.root, bare.repeat, bare.length) == ("", 1, None)
    whole = next(row_files(write_meta(tmp_path, root=str(tmp_path / "img"), annotation=str(tmp_path / "rows.jsonl"))))
    assert isinstance(whole, RowFile) and (whole.root, whole.name) == ("img", "rows.jsonl"), "absolute, and inside"


def test_another_length_is_a_fault_of_the_set_and_costs_no_row(tmp_path: Path) -> None:
    data = write_meta(tmp_path, length=5)
    file = next(row_files(data))
    assert isinstance(file, RowFile)
    fault, *items = file.items(data)
    assert isinstance(fault, Fault) and (fault.file, fault.line) == (data.root, 2) and len(items) == 4
    assert "set 'caps': length is 5, and rows.jsonl has 4 rows" in fault.problem


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"annotation": "none.jsonl"}, "annotation none.jsonl does not exist"),
        ({"annotation": "../rows.jsonl"}, "annotation ../rows.jsonl lies outside"),
        ({"annotation": 3}, "annotation is a number"),
        ({"repeat_time": 0}, "repeat_time is 0"),
        ({"repeat_time": 2.5}, "repeat_time is 2.5"),
        ({"repeat_time": True}, "repeat_time is True"),
        ({"length": "4"}, "length is '4'"),
    ],
)
def test_a_faulty_set_is_told_at_its_line_and_loses_no_other(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    data = write_meta(tmp_path, **changes)
    fault, other = row_files(data)
    assert isinstance(fault, Fault) and (fault.file, fault.line) == (data.root, 2)
    assert fault.problem.startswith(f"set 'caps': {problem}") and isinstance(other, RowFile)
