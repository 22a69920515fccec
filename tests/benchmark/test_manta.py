"""MANTA's questions as items, and every fault as one message with file, line and image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_jax.benchmark.manta import read_manta
from sage_jax.config import BenchmarkConfig
from sage_jax.errors import ConfigError
from tests.support.question_sets import write_manta, write_mmad


def read(root: Path) -> Any:
    return read_manta(BenchmarkConfig(name="manta", root=str(root)))


def test_items_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = write_manta(tmp_path)
    found, written = read(path), json.loads(path.read_text(encoding="utf-8"))
    assert found.faults == [] and len(found.items) == len(written) == 6
    for item, expected in zip(found.items, written, strict=True):
        assert item.image == expected["test_image"] and item.category == "capsule"
        assert item.references == tuple([expected["reference_image"]] if "reference_image" in expected else [])
        truths = [each["answer"] for each in expected["question_answer"]]
        assert [asked.truth == "Yes" for asked in item.asked] == truths
        assert {asked.kind for asked in item.asked} == {expected["pair_type"]}
    assert {asked.conclusion for item in found.items for asked in item.asked} == {
        "The capsule has a red square on it.",
        "It leaks.",
    }


def test_a_folder_is_read_file_by_file_and_equal_items_keep_their_own_keys(tmp_path: Path) -> None:
    path = write_manta(tmp_path)
    shutil.copyfile(path, path.with_name("agriculture_QA.json"))
    found = read(path.parent)
    keys = [item.key for item in found.items]
    assert len(keys) == len(set(keys)) == 12 and keys[6] == f"{keys[0]}#2"
    assert list(found.content) == ["agriculture_QA.json", "medicine_QA.json"]


def _asked(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda item: change(item["question_answer"][2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: item.update(pair_type="other"), "pair_type 'other' is no kind"),
        (lambda item: item.update(question_answer=[]), "question_answer is empty"),
        (_asked(lambda asked: asked.update(answer="true")), "question 3: answer is a text (write true or false)"),
        (_asked(lambda asked: asked.pop("answer")), "question 3: answer is missing"),
        (_asked(lambda asked: asked.update(question_en="")), "question 3: question_en is empty"),
    ],
)
def test_a_fault_is_one_message_with_file_line_and_image(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    path = write_manta(tmp_path)
    items = json.loads(path.read_text(encoding="utf-8"))
    change(items[4])
    path.write_text(json.dumps(items, indent=1), encoding="utf-8")
    found = read(path)
    (fault,) = found.faults
    assert str(fault).startswith(f"{path}:") and f"item 5 ({items[4]['test_image']}): " in str(fault)
    assert said in str(fault) and len(found.items) == 5


def test_other_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set benchmark.name to mmad"):
        read(write_mmad(tmp_path))
    with pytest.raises(ConfigError, match=r"holds no \*_QA.json"):
        read(tmp_path)
    other = tmp_path / "rows.json"
    other.write_text(json.dumps([{"conversations": [], "image": "a.png"}]), encoding="utf-8")
    with pytest.raises(ConfigError, match="chat rows of LLaVA .* name a file of MANTA's"):
        read(other)
    other.write_text("3", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a number, no list of images with questions"):
        read(other)
