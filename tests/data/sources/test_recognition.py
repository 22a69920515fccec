"""What lies under a root is found out, told by its name where the config names another, or refused with what to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import ConfigError, DataConfig, Source
from sage_jax.data.sources.readers import ReaderError, read_records, source_revision
from sage_jax.data.sources.recognition import LOOKED_FOR, RecognitionError, recognise, with_reader
from tests.support.public_sets import SETS, label_folders, picture

ADPL = [{"test_image": "a.png", "pair_type": "standard comparison", "question_answer": []}]
TRL = {"images": ["a.png"], "prompt": [], "chosen": [], "rejected": []}
LLAVA = {"id": "0", "image": "a.png", "conversations": []}


def _data(root: Path, source: Source = "auto", **changes: Any) -> DataConfig:
    return DataConfig(source=source, root=str(root), num_train=0, num_test=0, **changes)


@pytest.mark.parametrize(
    ("made", "wrong", "title", "right"),
    [
        ("MVTec AD 2", "btad", "laid out as MVTec AD 2", "mvtec_ad2"),
        ("MVTec AD", "btad", "laid out as MVTec AD", "mvtec_ad"),
        ("MVTec AD", "visa", "laid out as MVTec AD", "mvtec_ad"),
        ("MVTec LOCO", "mvtec_ad", "laid out as MVTec LOCO", "loco"),
        ("BTAD", "mpdd", "laid out as BTAD", "btad"),
        ("VisA", "goodsad", "VisA with its split_csv/1cls.csv", "visa"),
        ("KolektorSDD2", "mvtec_ad", "laid out as KolektorSDD2", "ksdd2"),
        ("KolektorSDD", "ksdd2", "laid out as KolektorSDD", "ksdd"),
        ("MANTA", "mvtec_ad", "laid out as MANTA", "manta"),
        ("Real-IAD", "deeppcb", "a split JSON of Real-IAD|Real-IAD", "real_iad"),
        ("meta.json", "real_iad", "a meta.json of images by split", "meta"),
        ("DAGM 2007", "real_iad", "laid out as DAGM 2007", "dagm"),
    ],
)
def test_another_set_than_the_one_named_is_one_error(
    made: str, wrong: Source, title: str, right: str, tmp_path: Path
) -> None:
    SETS[made].build(tmp_path)
    root = tmp_path / SETS[made].root
    with pytest.raises(RecognitionError) as error:
        with_reader(_data(root, wrong))
    said = str(error.value)
    assert any(said.startswith(f"data.source = {wrong}: {root} is {each}") for each in title.split("|")), said
    assert said.endswith(f"; set data.source={right} or auto") and "\n" not in said


def test_a_folder_of_several_sets_bears_none_of_their_names(tmp_path: Path) -> None:
    for name in ("MVTec LOCO", "BTAD"):
        SETS[name].build(tmp_path)
    data, told = with_reader(_data(tmp_path))
    assert data.source == "mvtec" and "several data sets: BTAD (2), MVTec LOCO (1)" in told
    for name in ("loco", "btad"):
        with pytest.raises(RecognitionError, match="several data sets"):
            with_reader(_data(tmp_path, name))


@pytest.mark.parametrize(
    ("content", "reader"),
    [
        (ADPL, "adpl"),
        ([TRL], "rows"),
        ([TRL, LLAVA], "rows"),
        ({"set": {"root": "", "annotation": "x.jsonl"}}, "rows"),
        ([{"instruction": "Is it whole?", "output": "Yes.", "images": ["a.png"]}], "rows"),
        ({"caps": {"file_name": "caps.json"}}, "rows"),
        ({"train": {"screw": []}, "test": {}}, "meta"),
        ({"meta": {"prefix": ""}, "train": [], "test": []}, "real_iad"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_json_is_told_by_its_items(content: Any, reader: Source, lines: bool, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    rows = content if isinstance(content, list) else [content]
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(content, indent=1))
    assert with_reader(_data(path))[0] == _data(path, reader)


def test_a_folder_of_rows_and_a_folder_with_a_meta_json_are_found(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(TRL))
    picture(tmp_path / "a.png")
    assert with_reader(_data(tmp_path))[0] == _data(tmp_path, "rows")
    SETS["meta.json"].build(tmp_path / "listed")
    data, _ = with_reader(_data(tmp_path / "listed"))
    assert data == _data(tmp_path / "listed/meta.json", "meta")


def test_a_users_own_folder_is_one_and_public_trees_may_lie_in_it(tmp_path: Path) -> None:
    picture(tmp_path / "own/good/0.png")
    picture(tmp_path / "own/scratch/0.png")
    picture(tmp_path / "flat/0.png")
    for root in ("own", "flat"):
        data, told = with_reader(_data(tmp_path / root, shrink_px=8))
        assert data.source == "folder" and "a folder of one's own" in told
    label_folders(tmp_path, "pill", ("crack",))
    data, told = with_reader(_data(tmp_path))
    assert data.source == "folder" and "beside MVTec AD (1)" in told


FOREIGN = {
    "coco": ("annotations/instances.json", "COCO"),
    "voc": ("Annotations/a.xml", "Pascal VOC"),
    "yolo": ("train/labels/a.txt", "YOLO"),
    "mmad": ("mmad.json", "MMAD"),
    "3d": ("bagel/train/good/xyz/000.tiff", "MVTec 3D-AD"),
    "real_iad": ("pcb/OK/S0001/a.jpg", "Real-IAD without their split files"),
}


@pytest.mark.parametrize("source", ["auto", "mvtec_ad"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_of_another_program_is_refused_by_its_name(kind: str, source: Source, tmp_path: Path) -> None:
    name, said = FOREIGN[kind]
    beside = {
        "voc": "JPEGImages/a.jpg",
        "yolo": "train/images/a.jpg",
        "3d": "bagel/train/good/rgb/000.png",
        "real_iad": "pcb/NG/AK/S0001/a.jpg",
    }
    for each in (name, beside.get(kind, "images/a.jpg")):
        picture(tmp_path / each)
    (tmp_path / "bagel/test").mkdir(parents=True)
    with pytest.raises(RecognitionError, match=said) as error:
        with_reader(_data(tmp_path, source))
    assert str(error.value).startswith(f"data.source = {source}: {tmp_path} holds")


def test_what_is_nothing_known_is_told_with_all_that_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for root in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RecognitionError) as error:
            with_reader(_data(root))
        assert all(each in str(error.value) for each in LOOKED_FOR) and str(root) in str(error.value)
    (tmp_path / "questions.json").write_text(json.dumps([{"question_answer": [{"answer": True}]}]))
    with pytest.raises(RecognitionError, match="MANTA's questions .*: ranked answers"):
        with_reader(_data(tmp_path / "questions.json"))


def test_images_beside_the_json_that_labels_them_are_no_good_parts(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "all.json").write_text(json.dumps(ADPL))
    with pytest.raises(RecognitionError, match=r"all.json is AD-PL items.*: set data.root to it"):
        with_reader(_data(tmp_path))
    SETS["VisA, one-class copy"].build(tmp_path / "deep" / "VisA")
    with pytest.raises(RecognitionError, match=r"VisA/1cls is laid out as MVTec AD with .*: set data.root to it"):
        with_reader(_data(tmp_path / "deep" / "VisA"))


def test_what_is_named_for_testing_is_never_proposed_for_training(tmp_path: Path) -> None:
    for name in ("test", "train", "dev"):
        (tmp_path / f"{name}.json").write_text(json.dumps(ADPL))
    with pytest.raises(RecognitionError) as error:
        with_reader(_data(tmp_path))
    said = str(error.value)
    assert f"{tmp_path / 'train.json'} is AD-PL items" in said
    assert said.endswith(
        f": set data.root to it; not to {tmp_path / 'dev.json'} or {tmp_path / 'test.json'}, for testing by its name"
    )
    (tmp_path / "train.json").unlink()
    with pytest.raises(RecognitionError, match=r"for testing by its name alone, .*dev.json.*: set data.root to what"):
        with_reader(_data(tmp_path))


def test_of_several_that_may_train_none_is_chosen(tmp_path: Path) -> None:
    for name in ("MPDD_QA", "MVTec_QA", "VisA_QA", "a", "b", "c"):
        (tmp_path / f"{name}.json").write_text(json.dumps(ADPL))
    picture(tmp_path / "images/good/0.png")  # of the JSON files, no choice of its own
    with pytest.raises(
        RecognitionError, match=r"holds several: .*MPDD_QA.json .*MVTec_QA.json .* and 2 more: set"
    ) as error:
        with_reader(_data(tmp_path))
    assert "images" not in str(error.value).removeprefix(f"data.source = auto: {tmp_path}")


@pytest.mark.parametrize("place", [".", "line"])
def test_folders_of_splits_are_no_categories(place: str, tmp_path: Path) -> None:
    for name in ("train/good", "val/good", "val/scratch"):
        picture(tmp_path / place / name / "0.png")
    with pytest.raises(RecognitionError) as error:
        with_reader(_data(tmp_path))
    said = str(error.value)
    if place == ".":
        assert f"{tmp_path / 'train'} is a folder of one's own: set data.root to it; not to {tmp_path / 'val'}" in said
    else:
        assert f"{tmp_path / 'line'}: train, val are named as splits" in said and "Looked for" not in said


def test_fields_are_checked_for_the_reader_that_was_found(tmp_path: Path) -> None:
    SETS["MVTec AD"].build(tmp_path)
    with pytest.raises(ConfigError, match="data.source = mpdd.*data.shrink_px = 8: read with source=folder alone"):
        with_reader(_data(tmp_path, "mpdd", shrink_px=8))
    (tmp_path / "rows.jsonl").write_text(json.dumps(TRL))
    with pytest.raises(ConfigError, match=r"data.num_references = 2: rows name their own"):
        with_reader(_data(tmp_path / "rows.jsonl", num_references=2))
    assert with_reader(_data(tmp_path / "rows.jsonl", facts="record"))[0].facts == "record"


def test_readers_that_are_named_stay_and_a_root_that_is_not_there_is_told_by_who_reads(tmp_path: Path) -> None:
    for source in ("generator", "folder", "mvtec", "meta", "adpl", "rows", "visa", "deeppcb", "real_iad"):
        data = dataclasses.replace(DataConfig(), source=source, root=str(tmp_path / "none"))
        assert with_reader(data) == (data, "")
    assert recognise(tmp_path) is None
    for source in ("auto", "btad"):
        data, told = with_reader(_data(tmp_path / "none", source))
        assert (data.source, told) == (source, "")
        with pytest.raises(ReaderError, match="none: No such file or directory; set data.root to the data set"):
            list(read_records(data, "train", 0))
        with pytest.raises(ReaderError, match="set data.root"):
            source_revision(data, 0)
