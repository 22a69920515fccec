"""Records of every source are valid, faults are told once, and the revision changes exactly with the content."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.adpl import facts
from sage_jax.data.images import decode_mask, decode_rgb, encode_png
from sage_jax.data.records import PAIR_TYPES, AnnotatedImage, Answer, Box, Defect, Fault, Question, Record, validate
from sage_jax.data.sources import generated
from sage_jax.data.sources.readers import ReaderError, read_records, source_revision

_RNG = np.random.default_rng(3)


def _noise(height: int = 24, width: int = 32) -> bytes:
    return encode_png(_RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _mvtec(root: Path) -> DataConfig:
    mask = np.zeros((24, 32), bool)
    mask[3:9, 4:12] = True
    for index in range(4):
        _put(root / f"pill/train/good/{index}.png", _noise())
        _put(root / f"pill/test/good/{index}.png", _noise())
        _put(root / f"pill/test/crack/{index}.png", _noise())
        _put(root / f"pill/ground_truth/crack/{index}_mask.png", encode_png(mask))
    return DataConfig(source="mvtec", root=str(root), num_train=0, num_test=0, held_out=("pill",))


def _folder(root: Path) -> DataConfig:
    mask = np.zeros((24, 32), bool)
    mask[3:9, 4:12] = True
    for index in range(24):  # the hash of a path divides them
        _put(root / f"parts/good/{index}.png", _noise())
        _put(root / f"parts/crack/{index}.png", _noise())
        _put(root / f"parts/masks/crack/{index}.png", encode_png(mask))
    return DataConfig(source="folder", root=str(root / "parts"), num_train=0, num_test=8, test_fraction=0.5)


def _visa(root: Path) -> DataConfig:
    mask = np.zeros((24, 32), np.uint8)
    mask[3:9, 4:12] = 2
    rows = ["object,split,label,image,mask"]
    for index in range(8):
        name = f"pill/Data/Images/Normal/{index}.JPG"
        _put(root / name, _noise())
        rows.append(f"pill,{'train' if index < 4 else 'test'},normal,{name},")
    for index in range(4):
        name, masked = f"pill/Data/Images/Anomaly/{index}.JPG", f"pill/Data/Masks/Anomaly/{index}.png"
        _put(root / name, _noise())
        _put(root / masked, encode_png(mask))
        rows.append(f"pill,test,anomaly,{name},{masked}")
    _put(root / "split_csv/1cls.csv", "\n".join(rows).encode())
    return DataConfig(source="visa", root=str(root), num_train=0, num_test=0, held_out=("pill",))


def _meta(root: Path) -> DataConfig:
    data = _visa(root)
    with (root / "split_csv/1cls.csv").open() as file:
        rows = list(csv.DictReader(file))
    content: dict[str, dict[str, list[dict[str, Any]]]] = {"train": {"pill": []}, "test": {"pill": []}}
    for row in rows:
        bad = row["label"] == "anomaly"
        item = {"img_path": row["image"], "mask_path": row["mask"], "specie_name": "crack" if bad else "good"}
        content[row["split"]]["pill"].append(item | {"cls_name": "pill", "anomaly": int(bad)})
    (root / "split_csv/1cls.csv").unlink()
    _put(root / "meta.json", json.dumps(content, indent=1).encode())
    return dataclasses.replace(data, source="meta", root=str(root / "meta.json"))


def _deeppcb(root: Path) -> DataConfig:
    board = np.kron(_RNG.integers(0, 2, (20, 20)), np.ones((8, 8))).astype(np.uint8) * 255
    for name, stem in (("trainval", "a"), ("test", "b")):
        _put(root / f"g/{stem}_temp.jpg", encode_png(board))
        _put(root / f"g/{stem}_test.jpg", encode_png(board ^ 1))
        _put(root / f"g_not/{stem}.txt", b"10 10 30 30 1\n100 100 120 120 4\n")
        _put(root / f"{name}.txt", f"g/{stem}.jpg g_not/{stem}.txt\n".encode())
    return DataConfig(source="deeppcb", root=str(root), num_train=8, num_test=8)


def _adpl(root: Path) -> DataConfig:
    options = [{"answer_en": text} for text in ("Yes.", "True.", "No.", "No!")]
    questions = [{"question_en": f"Q{index}?", "answer_options": options} for index in range(5)]
    items = []
    for index in range(4):
        _put(root / f"pill/{index}.png", _noise())
        items.append({"pair_type": PAIR_TYPES[0], "test_image": f"pill/{index}.png", "question_answer": questions})
    _put(root / "adpl.json", json.dumps(items).encode())
    return DataConfig(source="adpl", root=str(root / "adpl.json"), num_train=0, num_test=0, held_out=("pill",))


def _rows(root: Path) -> DataConfig:
    rows = [
        {"image": f"pill/{index}.png", "question": "Is it whole?", "chosen": "It is.", "rejected": "It is not."}
        for index in range(4)
    ]
    for row in rows:
        _put(root / str(row["image"]), _noise())
    _put(root / "rows.json", json.dumps(rows).encode())
    return DataConfig(source="rows", root=str(root / "rows.json"), num_train=0, num_test=0, held_out=("pill",))


def _generator(root: Path) -> DataConfig:
    return DataConfig(num_train=12, num_test=8)


_SOURCES: dict[str, Callable[[Path], DataConfig]] = {
    "generator": _generator,
    "deeppcb": _deeppcb,
    "folder": _folder,
    "mvtec": _mvtec,
    "visa": _visa,
    "meta": _meta,
    "adpl": _adpl,
    "rows": _rows,
}
_ON_DISK = ("deeppcb", "folder", "mvtec", "visa", "meta", "adpl", "rows")
_FROM_JSON = ("adpl", "rows")


@pytest.mark.parametrize("source", _SOURCES)
def test_every_record_is_valid_unique_and_decodes(tmp_path: Path, source: str) -> None:
    data = _SOURCES[source](tmp_path)
    records = [item for item in read_records(data, "test", 0) if isinstance(item, Record)]
    assert len(records) == len(list(read_records(data, "test", 0))) == (4 if source in _FROM_JSON else 8)
    assert len({record.record_id for record in records}) == len(records)
    for record in records:
        wanted: dict[str, Any] = {"verdicts": False} if source == "rows" else {"num_questions": 5}
        assert validate(record, **wanted) == []
        shape = decode_rgb(record.test_image, name="t").shape
        assert record.facts and record.category
        if source not in _FROM_JSON:
            assert record.mask is not None and record.reference_image is not None
            assert decode_mask(record.mask).shape == shape[:2]
            assert record.anomalous == bool(record.defects) == bool(decode_mask(record.mask).any())


@pytest.mark.parametrize("source", _SOURCES)
def test_a_seed_gives_the_same_records_again(tmp_path: Path, source: str) -> None:
    data = _SOURCES[source](tmp_path)
    assert list(read_records(data, "test", 7)) == list(read_records(data, "test", 7))


@pytest.mark.parametrize("source", [name for name in _SOURCES if name not in _FROM_JSON])
def test_test_records_follow_their_own_seed_alone(tmp_path: Path, source: str) -> None:
    data = _SOURCES[source](tmp_path)
    other = dataclasses.replace(data, test_seed=3)
    tested, drawn_anew = (list(read_records(each, "test", 7)) for each in (data, other))
    assert list(read_records(data, "test", 8)) == tested != drawn_anew
    trained = list(read_records(data, "train", 7))
    assert not trained or list(read_records(data, "train", 8)) != trained  # of some sources all is for testing here
    assert list(read_records(other, "train", 7)) == trained


def test_records_per_image_share_their_image(tmp_path: Path) -> None:
    data = dataclasses.replace(_mvtec(tmp_path), records_per_image=3)
    records = [item for item in read_records(data, "test", 0) if isinstance(item, Record)]
    assert len(records) == 24 and len({record.image_id for record in records}) == 8
    assert {record.pair_type for record in records} == set(PAIR_TYPES)


def test_training_alone_asks_of_defective_parts_as_often_for_what_they_show_as_the_config_says() -> None:
    data = DataConfig(num_train=40, num_test=40, pair_types=("defect identification",))
    never = dataclasses.replace(data, asked_present_rate=0.0)

    def yes(each: DataConfig, split: Literal["train", "test"]) -> float:
        records = [record for record in read_records(each, split, 0) if isinstance(record, Record) and record.anomalous]
        asked = [question for record in records for question in record.questions if " free of " not in question.text]
        return float(np.mean([question.answers[0].text.startswith(("Yes", "True")) for question in asked]))

    assert yes(never, "train") == 0.0 and yes(data, "train") > 0.6
    assert list(read_records(never, "test", 0)) == list(read_records(data, "test", 0)) and yes(never, "test") > 0.6


def test_a_fault_is_told_once_however_often_it_is_met(tmp_path: Path) -> None:
    data = _mvtec(tmp_path)
    for path in (tmp_path / "pill/train/good").iterdir():
        path.write_bytes(b"no image")  # each of the four is the reference of several
    items = list(read_records(data, "test", 0))
    faults = [item for item in items if isinstance(item, Fault)]
    assert 1 <= len(faults) == len(set(faults)) <= 4
    records = [item for item in items if isinstance(item, Record)]
    assert records and all(record.reference_image is None for record in records)
    assert all(fault.file.startswith(str(tmp_path / "pill/train/good")) for fault in faults)


def test_a_bad_image_costs_its_record_only(tmp_path: Path) -> None:
    data = _mvtec(tmp_path)
    bad = {"good/0": _noise()[:200], "crack/1": _noise(20, 32), "crack/2": b""}
    for name, content in bad.items():
        (tmp_path / f"pill/test/{name}.png").write_bytes(content)
    items = list(read_records(data, "test", 0))
    faults = {item.file: item for item in items if isinstance(item, Fault)}
    assert set(faults) == {str(tmp_path / f"pill/test/{name}.png") for name in bad}
    assert "mask" in faults[str(tmp_path / "pill/test/crack/1.png")].problem
    assert len(items) == 8


def _drawn(**changes: Any) -> AnnotatedImage:
    mask = np.zeros((24, 32), bool)
    image = AnnotatedImage(
        "id", _noise(), _noise(), "pill", (Defect("crack", Box(1, 1, 5, 5)),), encode_png(mask), "a", "b"
    )
    return dataclasses.replace(image, **changes)


def test_what_a_source_gets_wrong_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [
        _drawn(),
        _drawn(),
        _drawn(image_id="box", defects=(Defect("crack", Box(30, 1, 33, 5)),)),
        _drawn(image_id="empty box", defects=(Defect("crack", Box(3, 1, 3, 5)),)),
        _drawn(image_id="mask", mask=encode_png(np.zeros((32, 24), bool))),
        _drawn(image_id="reference", reference_image=b"x"),
        _drawn(image_id="last"),
    ]
    monkeypatch.setattr(generated, "draw", lambda data, split, seed: iter(images))
    items = list(read_records(_generator(tmp_path), "train", 0))
    assert [isinstance(item, Fault) for item in items] == [False, True, True, True, True, True, False]
    for item, word in zip(items[1:6], ("same id", "Box", "Box", "its mask", "no image"), strict=True):
        assert isinstance(item, Fault) and word in item.problem and item.cure


@pytest.mark.parametrize("source", _ON_DISK)
def test_a_missing_root_is_an_error_with_path_and_cure(tmp_path: Path, source: str) -> None:
    data = dataclasses.replace(_SOURCES[source](tmp_path / "set"), root=str(tmp_path / "none"))
    for read in (lambda: list(read_records(data, "train", 0)), lambda: source_revision(data, 0)):
        with pytest.raises(ReaderError, match="none.*set data.root"):
            read()


def test_crops_without_a_number_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match="num_train = 0"):
        list(read_records(dataclasses.replace(_deeppcb(tmp_path), num_train=0), "train", 0))


@pytest.mark.parametrize("source", _ON_DISK)
def test_revision_follows_the_content_not_the_place(tmp_path: Path, source: str) -> None:
    data = _SOURCES[source](tmp_path / "one")
    before = source_revision(data, 0)
    assert len(before) == 64 and int(before, 16) >= 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    moved = dataclasses.replace(data, root=data.root.replace("/one", "/two"), cache_dir="elsewhere", num_workers=3)
    assert source_revision(moved, 0) == before
    for path in sorted((tmp_path / "two").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content + b"\n")
            assert source_revision(moved, 0) != before, path
            path.write_bytes(content)
    assert source_revision(moved, 0) == before


def test_revision_follows_seed_config_vocabulary_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _generator(tmp_path)
    built_in = Path(facts.__file__).parent / "vocabulary.toml"
    copy = tmp_path / "vocabulary.toml"
    copy.write_text(built_in.read_text())
    same = source_revision(dataclasses.replace(data, vocabulary=str(copy)), 0)
    assert same == source_revision(data, 0)
    copy.write_text(built_in.read_text().replace('material = "', 'material = "fine ', 1))
    others = [
        source_revision(data, 1),
        source_revision(dataclasses.replace(data, num_train=13), 0),
        source_revision(dataclasses.replace(data, held_out=("washer",)), 0),
        source_revision(dataclasses.replace(data, vocabulary=str(copy)), 0),
    ]
    monkeypatch.setattr(generated, "VERSION", generated.VERSION + 1)
    others.append(source_revision(data, 0))
    assert len({same, *others}) == 6


def _record(**changes: Any) -> Record:
    question = Question("Is it?", (Answer("Yes, it is.", 5.0), Answer("No.", 1.0)))
    record = Record(
        "r", "i", b"", None, "pill", PAIR_TYPES[0], ("Fact.",), (question,) * 5, (), None, (), None, "t.png", ""
    )
    return dataclasses.replace(record, **changes)


def _asked(*answers: Answer, text: str = "Is it?") -> tuple[Question, ...]:
    return (Question(text, answers),) * 5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"record_id": " "}, "record_id is empty"),
        ({"category": ""}, "category is empty"),
        ({"pair_type": "guess"}, "'guess' is no kind"),
        ({"questions": ()}, "0 questions"),
        ({"facts": ("Fact.", " ")}, "a fact is empty"),
        ({"questions": _asked()}, "question 5 has 0 answers"),
        ({"questions": _asked(Answer("Yes."), text=" ")}, "question 1 is empty"),
        ({"questions": _asked(Answer("Perhaps."), Answer("Yes."))}, "opens with no verdict"),
        ({"questions": _asked(Answer("Nothing."))}, "opens with no verdict"),
        ({"questions": _asked(Answer("Yes."), Answer(""))}, "question 1, answer 2 is empty"),
        ({"questions": _asked(Answer("Yes.", 5.01))}, "score 5.01"),
        ({"questions": _asked(Answer("Yes.", 0.99))}, "score 0.99"),
        ({"questions": _asked(Answer("Yes.", float("nan")))}, "score nan"),
        (
            {"questions": _asked(Answer("Yes, bent."), Answer("No."), Answer("yes,  bent."))},
            "answers 1 and 3 are the same",
        ),
        ({"questions": _asked(Answer("Yes.", 2.0), Answer("No.", 3.0))}, "scores rise against the rank (2, 3)"),
        ({"descriptions": (Question("What?", ()),)}, "description 1 has 0 answers"),
    ],
)
def test_validate_names_what_is_wrong(changes: dict[str, Any], problem: str) -> None:
    assert validate(_record()) == validate(_record(), num_questions=5, num_answers=2) == []
    faults = validate(_record(**changes))
    assert any(problem in fault.problem for fault in faults)
    assert all(fault.file == "t.png" and fault.cure for fault in faults)


def test_validate_counts_as_asked() -> None:
    assert [fault.problem for fault in validate(_record(), num_questions=4)] == ["has 5 questions"]
    assert len(validate(_record(), num_answers=4)) == 5
    assert validate(_record(questions=_record().questions[:1])) == []
