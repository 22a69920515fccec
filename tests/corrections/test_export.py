"""Corrections as files: what is written is read again as AD-PL items and as preference rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sage_jax.config import DataConfig
from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.export import export_corrections
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import encode_png
from sage_jax.data.records import Record
from sage_jax.data.sources.readers import read_records
from tests.support.corrected import finding

OWN = "No. The part matches the good part."


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    made = CorrectionStore(tmp_path / "store")
    for index in range(3):
        images = [encode_png(np.full((40, 40, 3), 10 * index + each, np.uint8)) for each in (1, 2)]
        number = made.add_inspection(finding(image=images[0], references=(images[1],), name=f"{index}.png"))
        made.correct(number, "Ada", kind="dent", cell="top") if index else made.correct(number, "Ada", right=True)
    return made


def test_rows_prefer_what_the_person_said_to_what_the_model_said(store: CorrectionStore, tmp_path: Path) -> None:
    told = export_corrections(store, load_vocabulary(), tmp_path / "out", pairs="extreme")
    rows = [json.loads(line) for line in (tmp_path / "out" / "corrections.jsonl").read_text().splitlines()]
    assert len(rows) == told.num_rows == 45 and told.without_pair == told.no_items == 0
    against = [row for row in rows if row["rejected"][0]["content"][0]["text"] == OWN]
    assert len(against) == 2 and all("dent at the top" in row["chosen"][0]["content"][0]["text"] for row in against)
    for row in rows:
        assert all((tmp_path / "out" / name).is_file() for name in row["images"])


def test_the_items_are_read_as_an_adpl_data_set(store: CorrectionStore, tmp_path: Path) -> None:
    told = export_corrections(store, load_vocabulary(), tmp_path / "out")
    data = DataConfig(source="adpl", root=str(tmp_path / "out" / "adpl_corrections.json"), test_fraction=0.0)
    found = list(read_records(data, "train", 0))
    assert len(found) == told.num_items == 9 and all(isinstance(each, Record) for each in found)
    assert {each.anomalous for each in found if isinstance(each, Record)} == {True, False}


def test_nothing_to_export_and_no_folder_are_told(store: CorrectionStore, tmp_path: Path) -> None:
    with pytest.raises(CorrectionFault, match="nobody has corrected anything yet"):
        export_corrections(CorrectionStore(tmp_path / "empty"), load_vocabulary(), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(CorrectionFault, match="cannot be written"):
        export_corrections(store, load_vocabulary(), tmp_path / "file")
