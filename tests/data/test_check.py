"""The check stage counts what a reader yields, and tells every fault of both splits once."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import rich.console
from PIL import Image

from sage_jax.config import DataConfig
from sage_jax.data.check import CheckReport, check, print_report
from sage_jax.data.images import encode_png
from sage_jax.data.question_verdicts import TextOnly
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources.readers import ReaderError, read_records, source_revision

_DATA = DataConfig(num_train=24, num_test=9, records_per_image=2)


def _printed(report: CheckReport, width: int = 100) -> str:
    stream = io.StringIO()
    print_report(report, rich.console.Console(file=stream, width=width))
    return stream.getvalue()


def test_counts_are_those_of_the_records() -> None:
    report = check(_DATA, 3)
    assert report.faults == () and report.revision == source_revision(_DATA, 3)
    expected: collections.Counter[tuple[str, str, str, str]] = collections.Counter()
    for split in ("train", "test"):
        records = [item for item in read_records(_DATA, split, 3) if isinstance(item, Record)]
        for record in records:
            for question in record.questions:
                verdict = "yes" if question.answers[0].text.lower().startswith(("yes", "true")) else "no"
                expected[split, record.pair_type, record.category, verdict] += 1
        images = {record.image_id: record for record in records}
        counts = report.splits[split]
        assert (counts.records, counts.images) == (len(records), len(images))
        assert counts.defective == sum(record.anomalous is True for record in images.values())
        assert counts.good == sum(record.anomalous is False for record in images.values())
        assert (counts.with_reference, counts.with_mask) == (len(images), len(images))
        assert (counts.with_facts, counts.with_scores) == (len(records), len(records))
    assert report.questions == expected


def _adpl(root: Path) -> DataConfig:
    options = [{"answer_en": text} for text in ("No.", "False.", "Yes.", "Yes!")]
    scored = [option | {"score": 3.5} for option in options]
    items = []
    for index in range(4):
        (root / f"{index}.png").write_bytes(encode_png(np.full((4, 4), index, np.uint8)))
        answers = scored if index == 3 else options
        questions = [{"question_en": "Q?", "answer_options": answers}] * (4 if index == 2 else 5)
        items.append({"pair_type": "defect diagnosis", "test_image": f"{index}.png", "question_answer": questions})
    items[0]["anomalous"] = True
    items[0]["question_answer"] = [{"question_en": "Q?", "answer_options": scored}, *items[0]["question_answer"][1:]]
    items[1]["reference_image"] = "2.png"
    (root / "a[b].json").write_text(json.dumps(items, indent=0)[:-2] + ",\n{broken,\n]")
    return DataConfig(source="adpl", root=str(root / "a[b].json"), num_train=0, num_test=0, held_out=("part",))


def test_a_fault_of_both_splits_is_told_once_with_place_and_cure(tmp_path: Path) -> None:
    data = _adpl(tmp_path)
    everywhere = [
        item for split in ("train", "test") for item in read_records(data, split, 0) if isinstance(item, Fault)
    ]
    assert len(everywhere) > len(set(everywhere)), "the broken item belongs to no split, so both tell of it"
    report = check(data, 0)
    assert set(report.faults) == set(everywhere) and len(report.faults) == len(set(everywhere))
    text = _printed(report)
    for fault in report.faults:
        assert fault.line is not None
        assert text.count(f"{data.root}:{fault.line}: {fault.problem} ({fault.cure})") == 1
    assert f"{len(report.faults)} faults" in text


def test_faults_of_one_cause_are_one_printed_row(tmp_path: Path) -> None:
    data = _adpl(tmp_path)
    report = check(data, 0)
    many = [dataclasses.replace(report.faults[0], line=number) for number in range(1, 31)]
    text = _printed(dataclasses.replace(report, faults=(*many, Fault("b.png", None, "is empty", "copy it again"))))
    assert "31 faults of 2 causes:" in text and text.count("30 of one cause: ") == 1
    assert text.count(report.faults[0].cure) == 1 and text.count("b.png: is empty (copy it again)") == 1


def test_what_is_absent_is_counted_as_absent(tmp_path: Path) -> None:
    counts = check(_adpl(tmp_path), 0).splits["test"]
    assert (counts.images, counts.defective, counts.good, counts.unlabelled) == (3, 1, 0, 2)
    assert (counts.with_reference, counts.with_mask, counts.with_scores) == (1, 0, 1)


def test_the_table_shows_every_row_and_its_sum() -> None:
    report = check(_DATA, 0)
    text = _printed(report)
    keys = {key[:3] for key in report.questions}
    for split, kind, category in keys:
        yes, no = (report.questions.get((split, kind, category, verdict), 0) for verdict in ("yes", "no"))
        cells = [split, kind, category, str(yes), str(no), str(yes + no)]
        assert any([cell.strip() for cell in line.strip("│").split("│")] == cells for line in text.splitlines())
    assert report.revision in text and "no faults" in text


def test_best_answers_without_a_verdict_have_a_column_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    answers = (("A cap.", "A lid."), ("Yes.", "No."), ("A seal.", "A cork."))
    rows = [
        {"image": "a.png", "question": f"{number}?", "chosen": better, "rejected": worse}
        for number, (better, worse) in enumerate(answers)
    ]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = check(dataclasses.replace(_DATA, source="rows", root=str(tmp_path), num_train=0, num_test=0), 0)
    assert report.faults == () and {key[3]: count for key, count in report.questions.items()} == {"none": 2, "yes": 1}
    assert report.without_image["question"]["standard comparison"].n == 1, "what has a verdict can be told"
    cells = ["train", "standard comparison", "part", "1", "0", "2", "3"]
    assert any([cell.strip() for cell in line.strip("│").split("│")] == cells for line in _printed(report).splitlines())


def test_a_test_image_that_is_a_training_image_saved_again_is_told_with_both_files(tmp_path: Path) -> None:
    rng, row = np.random.default_rng(0), {"question": "?", "chosen": "Yes.", "rejected": "No."}
    images = [
        np.repeat(rng.integers(0, 256, (16, 16), np.uint8), 10, axis=axis).repeat(10, 1 - axis) for axis in (0, 1)
    ]
    for name, image in zip("ab", images, strict=True):
        (tmp_path / f"{name}.png").write_bytes(encode_png(image))
    Image.fromarray(images[1]).save(tmp_path / "c.jpg", quality=85)
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row | {"image": f"{name}.png"}) for name in "ab"))
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"image": "c.jpg"}))
    report = check(dataclasses.replace(_DATA, source="rows", root=str(tmp_path), num_train=0, num_test=0), 0)
    (told,) = report.doubts
    assert told.startswith("1 test images are training images saved again") and told.endswith("c.jpg is b.png")


def test_an_unusable_data_set_is_an_error(tmp_path: Path) -> None:
    data = dataclasses.replace(_DATA, source="mvtec", root=str(tmp_path / "none"))
    with pytest.raises(ReaderError, match="none"):
        check(data, 0)


def test_faults_of_what_is_not_drawn_are_told_too_and_counts_are_of_what_is(tmp_path: Path) -> None:
    data = _adpl(tmp_path)
    (tmp_path / "1.png").write_bytes(b"")
    every = set(check(data, 0).faults)
    assert len(every) == 4, "the broken item, the end that is lost with it, four questions, and the empty image"
    for seed in range(3):
        report = check(dataclasses.replace(data, num_test=1), seed)
        assert set(report.faults) == every
        assert report.splits["test"].images <= 1


def test_questions_that_tell_are_given_away_and_fair_ones_are_not() -> None:
    report = check(dataclasses.replace(_DATA, num_train=200, num_test=60), 0)
    assert report.given_away == [] and report.without_image.keys() == {"question", "length", "facts"}
    telling = {
        "question": {"defect diagnosis": TextOnly(0.9, 0.5, 300), "standard comparison": TextOnly(0.5, 0.5, 300)}
    }
    told = dataclasses.replace(report, without_image=telling)
    assert told.given_away == ["defect diagnosis: a reader of the question alone is right in 0.900, chance is 0.500"]
    assert "0.900 !" in _printed(told) and "0.500 !" not in _printed(told)
    few = {"question": {"defect diagnosis": TextOnly(0.6, 0.5, 20)}}
    assert dataclasses.replace(report, without_image=few).given_away == [], "within two standard errors of twenty"
    alone = {**told.splits, "test": dataclasses.replace(told.splits["test"], defective=0)}
    assert dataclasses.replace(told, splits=alone).given_away == [], "good parts alone: nothing to tell apart"


def test_training_images_that_another_set_tests_on_are_counted(tmp_path: Path) -> None:
    tests, trains = (dataclasses.replace(_adpl(tmp_path), held_out=(), test_fraction=share) for share in (1.0, 0.0))
    assert check(trains, 0).trains_on_tests_of(check(tests, 0)) == len(check(tests, 0).images["test"]) > 0
    assert check(tests, 0).trains_on_tests_of(check(tests, 0)) == 0
