"""Records written as rows of TRL and as AD-PL's JSON are read back as they were."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Answer, Question, Record, Reference
from sage_jax.data.row_export import Exported, export_split
from sage_jax.data.sources.readers import read_records
from sage_jax.process.signals import Interrupted
from tests.support.inspection_records import make_records


@pytest.fixture(scope="module")
def drawn() -> list[Record]:
    """Three records of each of a few images, whose questions of different kinds have the same words now and then."""
    data = DataConfig(num_train=6, num_test=1, image_px=32, records_per_image=3)
    return [one for one in read_records(data, "train", 0) if isinstance(one, Record)]


def read(root: Path, source: Any) -> list[Record]:
    data = DataConfig(source=source, root=str(root), num_train=0, num_test=0, test_fraction=1e-9)
    found = list(read_records(data, "train", 0))
    assert all(isinstance(one, Record) for one in found), found
    return [one for one in found if isinstance(one, Record)]


def said(records: Iterable[Record], *, only_extreme: bool = False) -> list[tuple[Any, ...]]:
    """Images, question and answers in their order, of every question."""
    return sorted(
        (
            [reference.image for reference in record.references],
            record.test_image,
            question.text,
            [answer.text for answer in question.answers][:: len(question.answers) - 1 if only_extreme else 1],
        )
        for record in records
        for question in record.questions
    )


def test_rows_of_all_pairs_are_read_back_with_questions_answers_and_ranks(drawn: list[Record], tmp_path: Path) -> None:
    texts = [(record.image_id, question.text) for record in drawn for question in record.questions]
    assert len(set(texts)) < len(texts), "questions that only their id tells apart"
    found = export_split(drawn, tmp_path, "train", pairs="all")
    assert found == Exported(6 * len(texts), len(drawn), 0, 0)
    assert said(read(tmp_path, "rows")) == said(drawn) == said(read(tmp_path / "train.jsonl", "rows"))


def test_extreme_pairs_are_the_best_and_the_worst(drawn: list[Record], tmp_path: Path) -> None:
    export_split(drawn, tmp_path, "train", pairs="extreme")
    assert said(read(tmp_path, "rows")) == said(drawn, only_extreme=True)


def test_a_row_is_in_the_layout_of_trl(drawn: list[Record], tmp_path: Path) -> None:
    export_split(drawn[:1], tmp_path, "test", pairs="all")
    row = json.loads((tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    question = drawn[0].questions[0]
    (turn,) = row["prompt"]
    assert turn["role"] == "user" and row["images"][1].startswith("images/")
    assert turn["content"] == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": question.text}]
    for key, rank in (("chosen", 0), ("rejected", 1)):
        text = {"type": "text", "text": question.answers[rank].text}
        assert row[key] == [{"role": "assistant", "content": [text]}]
    assert (tmp_path / row["images"][-1]).read_bytes() == drawn[0].test_image


def test_items_of_ad_pl_keep_scores_facts_and_state_too(drawn: list[Record], tmp_path: Path) -> None:
    export_split(drawn, tmp_path, "train", pairs="all")
    for found, record in zip(read(tmp_path / "adpl_train.json", "adpl"), drawn, strict=True):
        kept = ("record_id", "test_image", "reference_image", "pair_type", "questions", "facts", "anomalous")
        assert all(getattr(found, name) == getattr(record, name) for name in kept)
        assert found.category == record.category and found.line is not None


def test_what_a_format_cannot_hold_is_counted_and_left_out(tmp_path: Path) -> None:
    (plain,) = make_records(1)
    tied = Question("Tied?", (Answer("Yes.", 3.0), Answer("No.", 3.0)))
    one = dataclasses.replace(plain, questions=(tied, Question("Alone?", (Answer("Yes."),)), plain.questions[0]))
    third = Reference(encode_png(np.zeros((8, 8, 3), np.uint8)), "third.tif")
    two = dataclasses.replace(plain, record_id="two", further_references=(third,))
    stale = tmp_path / "adpl_train.json"
    stale.write_text("of another run")
    found = export_split([one, two], tmp_path, "train", pairs="all")
    assert found == Exported(num_rows=2, num_items=0, without_pair=2, no_items=2) and not stale.exists()
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [len(row["images"]) for row in rows] == [2, 3] and rows[1]["images"][1].endswith(".tif")
    alone = dataclasses.replace(plain, questions=(tied,))
    assert export_split([alone], tmp_path, "train", pairs="all").num_rows == 0
    assert not (tmp_path / "train.jsonl").exists()


def test_an_export_that_is_cut_short_leaves_no_half_file_and_goes_on(drawn: list[Record], tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        export_split(drawn, tmp_path, "train", pairs="all", advance=stop)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert written and all("images" in path.parts for path in written)
    export_split(drawn, tmp_path, "train", pairs="all")
    assert all(path.stat().st_mtime_ns == at for path, at in written.items()), "images are not written twice"
    assert said(read(tmp_path, "rows")) == said(drawn)


def test_chinese_records_are_written_under_the_keys_of_their_language(tmp_path: Path) -> None:
    (plain,) = make_records(1)
    answers = tuple(Answer(text) for text in ("是的，有划痕。", "对。", "不，完好。", "否"))
    record = dataclasses.replace(plain, questions=tuple(Question(f"第{number}处？", answers) for number in range(5)))
    assert export_split([record], tmp_path, "train", pairs="all").num_items == 0, "no English verdict"
    assert export_split([record], tmp_path, "train", pairs="all", language="zh").num_items == 1
    path = tmp_path / "adpl_train.json"
    (item,) = json.loads(path.read_text(encoding="utf-8"))
    assert item["question_answer"][0]["question_cn"] == "第0处？"
    data = DataConfig(source="adpl", root=str(path), num_train=0, num_test=0, test_fraction=1e-9, language="zh")
    (found,) = read_records(data, "train", 0)
    assert isinstance(found, Record) and said([found]) == said([record])
