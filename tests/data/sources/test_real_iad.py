"""Real-IAD's split files: paths by their prefix, lines for every fault, and the folder of images found beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import DataConfig
from sage_jax.data.records import AnnotatedImage, Fault
from sage_jax.data.sources import listed
from sage_jax.data.sources.readers import source_revision
from sage_jax.data.sources.real_iad import Row, SplitError, images_root, is_split, rows, split_files
from tests.support.public_sets import real_iad

LISTS = "realiad_jsons/realiad_jsons"


def _data(root: Path, **changes: Any) -> DataConfig:
    return dataclasses.replace(DataConfig(source="real_iad", root=str(root), num_train=0, num_test=0), **changes)


def _items(data: DataConfig) -> tuple[list[AnnotatedImage], list[Fault]]:
    items = [item for split in ("train", "test") for item in listed.read_images(data, split, 0)]
    found = dict.fromkeys(item for item in items if isinstance(item, Fault))
    return [item for item in items if isinstance(item, AnnotatedImage)], list(found)


def _changed(path: Path, split: str, number: int, **fields: Any) -> None:
    content = json.loads(path.read_text())
    content[split][number] |= fields
    path.write_text(json.dumps(content, indent=2))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image_path": ""}, "item 2 of test: image_path is missing or empty"),
        ({"image_path": "NG/none.jpg"}, "pcb/NG/none.jpg does not exist"),
        ({"image_path": "../../x.jpg"}, "pcb/../../x.jpg"),
        ({"anomaly_class": 3}, "item 2 of test: anomaly_class is a number"),
        ({"anomaly_class": None}, "item 2 of test: anomaly_class is missing or empty"),
        ({"mask_path": None}, "is defective, but has no mask"),
        ({"mask_path": "NG/none.png"}, "pcb/NG/none.png does not exist"),
    ],
)
def test_a_bad_item_is_told_at_its_line_and_alone_is_lost(fields: dict[str, Any], problem: str, tmp_path: Path) -> None:
    real_iad(tmp_path)
    path = tmp_path / LISTS / "pcb.json"
    _changed(path, "test", 1, **fields)
    images, (fault,) = _items(_data(tmp_path))
    assert len(images) == 9 and problem in fault.problem and fault.file == str(path) and fault.line
    assert '"image_path"' in path.read_text().splitlines()[fault.line - 1]


def test_an_item_that_is_no_object_is_told_and_lines_of_the_others_stay(tmp_path: Path) -> None:
    text = json.dumps(
        {"meta": {"prefix": "a/"}, "train": [3, {"anomaly_class": "OK", "image_path": "x.jpg"}]}, indent=1
    )
    fault, row = rows(tmp_path / "nut.json", text)
    assert isinstance(fault, Fault) and fault.problem == "item 1 of train is a number"
    assert row == Row(9, "train", "nut", "OK", "a/x.jpg", "", False), "without a category, the file's name is it"


def test_noisy_splits_train_on_defects_that_are_no_references(tmp_path: Path) -> None:
    real_iad(tmp_path)
    path = tmp_path / LISTS / "pcb.json"
    content = json.loads(path.read_text())
    content["train"].append(content["test"].pop())
    path.write_text(json.dumps(content))
    items = list(listed.read_images(_data(tmp_path), "train", 0))
    images = [item for item in items if isinstance(item, AnnotatedImage)]
    assert len(images) == len(items)
    assert [image.test_path.split("/")[1] for image in images if image.category == "pcb" and image.defects] == ["NG"]
    assert all(image.reference_path.split("/")[1] == "OK" for image in images)


def test_an_image_in_two_files_is_told_once(tmp_path: Path) -> None:
    real_iad(tmp_path)
    shutil.copy(tmp_path / LISTS / "pcb.json", tmp_path / LISTS / "pcb_again.json")
    images, faults = _items(_data(tmp_path))
    assert len(images) == 10 and len(faults) == 5
    assert all("pcb.json already" in fault.problem and fault.file.endswith("pcb_again.json") for fault in faults)


def test_the_images_are_beside_the_files_or_where_the_config_says(tmp_path: Path) -> None:
    real_iad(tmp_path)
    for root in (tmp_path, tmp_path / LISTS, tmp_path / LISTS / "pcb.json"):
        assert images_root(_data(root)).resolve() == (tmp_path / "realiad_1024").resolve()
    shutil.copytree(tmp_path / "realiad_1024", tmp_path / "realiad_256")
    with pytest.raises(SplitError, match="several sizes .realiad_1024, realiad_256.: name the folder of one"):
        images_root(_data(tmp_path))
    data = _data(tmp_path, images_root=str(tmp_path / "realiad_256"))
    assert len(_items(data)[0]) == 10
    revision = source_revision(data, 0)
    assert revision == source_revision(dataclasses.replace(data, images_root=str(tmp_path / "realiad_1024")), 0)
    next((tmp_path / "realiad_256").rglob("*.png")).write_bytes(b"x")
    assert revision != source_revision(data, 0)
    for size in ("256", "1024"):
        shutil.rmtree(tmp_path / f"realiad_{size}")
    with pytest.raises(SplitError, match="name the folder of images in data.images_root"):
        images_root(_data(tmp_path))


def test_what_is_no_split_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="holds no split files of Real-IAD"):
        split_files(_data(tmp_path))
    for content in ("{", "[]", '{"train": {}}', '{"meta": {"prefix": 3}, "train": []}'):
        with pytest.raises(SplitError, match="pcb.json"):
            list(rows(tmp_path / "pcb.json", content))
    assert not is_split({"train": {"screw": []}}) and not is_split([]) and is_split({"meta": {}, "test": []})
