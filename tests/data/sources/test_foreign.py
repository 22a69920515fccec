"""Files of other programs: refused once, by their name, with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import DataConfig
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.records import Record
from sage_jax.data.sources.adpl_json import FormatError, read_items, read_records
from sage_jax.data.sources.foreign import item_kind, kind_beside_rows, object_kind

TURNS = [{"from": "human", "value": "<image>Is there a defect?"}, {"from": "gpt", "value": "True."}]
SAID = {"from": "gpt", "value": "False."}
FILES: dict[str, tuple[Any, str]] = {
    "llamafactory": (
        [{"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": SAID, "images": ["a.png"]}] * 3,
        "LLaMA-Factory",
    ),
    "trl": ([{"images": ["a.png"], "prompt": [], "chosen": [], "rejected": []}] * 2, "TRL"),
    "internvl": ([{"id": 0, "image": "a.png", "question": "?", "chosen": "a", "rejected": "b"}], "InternVL"),
    "swift": ([{"messages": [], "rejected_response": "No", "images": ["a.png"]}] * 2, "ms-swift"),
    "llava": ([{"id": "0", "image": "a.png", "conversations": TURNS}], "LLaVA"),
    "sft": ([{"id": 0, "image": "a.png", "conversations": TURNS, "description": "a fact"}], "SFE"),
    "manta": (
        [{"test_image": "a.png", "pair_type": "x", "question_answer": [{"question_en": "?", "answer": True}]}] * 2,
        "MANTA",
    ),
    "mmad": ({"DS/a.png": {"image_path": "DS/a.png", "conversation": [{"Question": "?", "Answer": "A"}]}}, "MMAD"),
    "info": (
        {"caps": {"file_name": "caps.json", "columns": {"images": "images"}}},
        "LLaMA-Factory's dataset_info.json",
    ),
    "meta": ({"set": {"root": "img/", "annotation": "rows.jsonl", "repeat_time": 1}}, "meta JSON of InternVL"),
    "anomalyclip": ({"test": {"screw": []}}, "data.source to meta"),
    "coco": ({"images": [], "annotations": [], "categories": []}, "COCO"),
}


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_each_is_one_error_that_names_it(name: str, lines: bool, tmp_path: Path) -> None:
    content, said = FILES[name]
    path = tmp_path / "data.json"
    rows = content if isinstance(content, list) else [content]
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(content, indent=1))
    with pytest.raises(FormatError, match=said) as error:
        read_items(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert ("set data.source=rows" in str(error.value)) == (name not in ("manta", "mmad", "anomalyclip", "coco"))


def item(image: str) -> dict[str, Any]:
    questions = [
        {"question_en": f"Is it {n} good?", "answer_options": [{"answer_en": f"Yes. {n} {a}"} for a in range(4)]}
        for n in range(5)
    ]
    return {"test_image": image, "pair_type": "standard comparison", "question_answer": questions}


def test_items_one_a_line_are_read_as_those_of_a_list(tmp_path: Path) -> None:
    import numpy as np

    from sage_jax.data.images import encode_png

    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode_png(np.full((8, 8, 3), 60, np.uint8)))
    found = []
    for form in ("list", "lines"):
        path = tmp_path / f"{form}.json"
        items = [item("a.png"), item("b.png")]
        path.write_text(json.dumps(items) if form == "list" else "\n".join(map(json.dumps, items)) + "\n")
        data = DataConfig(source="adpl", root=str(path), num_train=0, num_test=0)
        records = [one for split in ("train", "test") for one in read_records(data, split, 0, load_vocabulary(""))]
        assert all(isinstance(record, Record) for record in records)
        found.append({record.record_id: record.questions for record in records if isinstance(record, Record)})
    assert len(found[0]) == 2 and found[0] == found[1]


def test_a_misspelt_item_is_nobody_elses(tmp_path: Path) -> None:
    assert item_kind([{"test_imag": "a.png"}]) is None and item_kind([]) is None and item_kind([3]) is None
    assert object_kind({"test_image": "a.png"}) is None
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"version": 3, "rows": []}))
    with pytest.raises(FormatError, match="holds one object \\(version, rows\\), no list"):
        read_items(path)


def test_ad_pl_items_are_told_to_the_reader_of_rows() -> None:
    kind = kind_beside_rows([item("a.png")])
    assert kind is not None and kind.cure == "set data.source=adpl"
    manta = kind_beside_rows(FILES["manta"][0])
    assert manta is not None and "MANTA" in manta.name and kind_beside_rows([{"x": 1}, 3]) is None


def test_one_row_among_items_is_a_fault_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([FILES["trl"][0][0], item("a.png")]))
    assert len(read_items(path)) == 2
