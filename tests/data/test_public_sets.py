"""Each public data set in its exact layout is found out, and read as its authors labelled and divided it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.data.images import decode_mask
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources import readers
from sage_jax.data.sources.recognition import with_reader
from tests.support.public_sets import SETS, Images, deeppcb


def _read(data: DataConfig) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for split in ("train", "test"):
        items = list(readers.read_records(data, split, 0))
        assert not [item for item in items if isinstance(item, Fault)]
        found[split] = [item for item in items if isinstance(item, Record)]
    return found


def _same(records: dict[str, list[Record]], images: Images, root: str) -> None:
    """Checks records against what is known of the images, whose paths may begin above the root."""
    seen = []
    for split, found in records.items():
        for record in found:
            name = record.test_path if record.test_path in images else f"{root}/{record.test_path}"
            shown = images[name]
            seen.append(name)
            assert shown.split in (split, "either"), name
            assert record.category == shown.category
            assert record.anomalous == (shown.kind != "good"), name
            assert {defect.type for defect in record.defects} == ({shown.kind} - {"good"})
            marked = None if record.mask is None else int(np.count_nonzero(decode_mask(record.mask)))
            assert marked == shown.marked, name
            reference = record.reference_path if record.reference_path in images else f"{root}/{record.reference_path}"
            assert images[reference].kind == "good" and images[reference].category == shown.category
            assert images[reference].split != "test" and reference != name
    assert sorted(seen) == sorted(images)


@pytest.mark.parametrize("name", SETS)
def test_every_image_is_read_once_with_its_label_mask_split_and_reference(name: str, tmp_path: Path) -> None:
    made = SETS[name]
    images = made.build(tmp_path)
    root = tmp_path / made.root
    auto = DataConfig(source="auto", root=str(root), num_train=0, num_test=0, test_fraction=0.4)
    data, told = with_reader(auto)
    assert data == dataclasses.replace(auto, source=made.reader)
    assert str(root) in told and told.endswith(f"read as data.source={made.reader}")
    records = _read(data)
    _same(records, images, made.root)
    assert all(records.values()), "a split is empty"
    revision = readers.source_revision(data, 0)
    for alias in (*made.names, made.reader):
        called, _ = with_reader(dataclasses.replace(auto, source=alias))
        assert called == data and readers.source_revision(called, 0) == revision
    if made.reader == "mvtec":
        assert not [each for each in readers.left_out(data) if "is the mask of no image" in each]


def test_deeppcb_is_found_by_its_lists(tmp_path: Path) -> None:
    deeppcb(tmp_path)
    data, told = with_reader(DataConfig(source="auto", root=str(tmp_path), num_train=4, num_test=4, image_px=40))
    assert data.source == "deeppcb" and "DeepPCB" in told
    records = _read(data)
    assert {name: len(found) for name, found in records.items()} == {"train": 4, "test": 4}
    assert {record.anomalous for record in records["train"]} == {True, False}
    assert {defect.type for record in records["train"] for defect in record.defects} == {"open"}
    assert all("_temp.jpg" in record.reference_path for record in records["test"])


@pytest.mark.parametrize("root", ["ImageData", "ImageData/agriculture", "ImageData/agriculture/maize"])
def test_mantas_root_may_be_its_images_a_domain_or_a_category(root: str, tmp_path: Path) -> None:
    images = SETS["MANTA"].build(tmp_path)
    inside = {name: shown for name, shown in images.items() if name.startswith(f"{root}/")}
    data, _ = with_reader(DataConfig(source="manta", root=str(tmp_path / root), num_train=0, num_test=0))
    _same(_read(data), inside, root)


def test_real_iads_root_may_be_one_split_file(tmp_path: Path) -> None:
    images = SETS["Real-IAD"].build(tmp_path)
    root = tmp_path / "realiad_jsons/realiad_jsons/pcb.json"
    data, _ = with_reader(DataConfig(source="auto", root=str(root), num_train=0, num_test=0))
    assert data.source == "real_iad"
    _same(_read(data), {name: shown for name, shown in images.items() if shown.category == "pcb"}, ".")
