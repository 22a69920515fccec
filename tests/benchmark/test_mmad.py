"""MMAD's questions as items, and every fault as one message with file, line and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_jax.benchmark.mmad import read_mmad
from sage_jax.config import BenchmarkConfig
from sage_jax.errors import ConfigError
from tests.support.question_sets import MMAD_TYPES, write_manta, write_mmad

KEY = "VisA/candle/test/broken/000.png"


def test_all_types_and_data_sets_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = write_mmad(tmp_path)
    found = read_mmad(BenchmarkConfig(root=str(path), knowledge=str(tmp_path / "domain_knowledge.json")))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert found.faults == [] and [item.key for item in found.items] == list(content)
    assert {asked.kind for item in found.items for asked in item.asked} == set(MMAD_TYPES)
    for item in found.items:
        written = content[item.key]
        assert (item.image, item.references) == (item.key, tuple(written["similar_templates"]))
        for asked, expected in zip(item.asked, written["conversation"], strict=True):
            assert (asked.text, asked.options, asked.truth) == (
                expected["Question"],
                expected["Options"],
                expected["Answer"],
            )
    by_key = {item.key: item for item in found.items}
    assert by_key["GoodsAD/cigarette_box/test/good/000.png"].category == "cigarette box"
    assert by_key["DS-MVTec/bottle/test/good/000.png"].knowledge[1] == "It has a crack. Large."
    assert by_key[KEY].knowledge == ()
    (note,) = found.notes
    assert "says nothing of the objects of 2 images, such as VisA/candle" in note
    assert set(found.content) == {"mmad.json", "domain_knowledge.json"}


def test_templates_are_those_that_the_config_names(tmp_path: Path) -> None:
    path = write_mmad(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content[KEY]["random_templates"] = [KEY, "VisA/candle/train/good/000.png"]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = read_mmad(BenchmarkConfig(root=str(path), templates="random"))
    assert {item.key: item for item in found.items}[KEY].references == (KEY,)
    (note,) = found.notes
    assert note.startswith(f"1 images are their own template, such as {KEY}")
    zero = read_mmad(BenchmarkConfig(root=str(path), templates="random", shots=(0,)))
    assert all(item.references == () for item in zero.items) and not zero.notes


def test_options_out_of_order_are_lettered_anew_and_silent_images_are_noted(tmp_path: Path) -> None:
    path = write_mmad(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content[KEY]["conversation"][0].update(Options={"B": "No.", "A": "Yes."}, Answer="A")
    content["VisA/candle/test/good/000.png"]["conversation"] = []
    path.write_text(json.dumps(content), encoding="utf-8")
    found = read_mmad(BenchmarkConfig(root=str(path)))
    asked = {item.key: item for item in found.items}[KEY].asked[0]
    assert (asked.options, asked.truth) == ({"A": "No.", "B": "Yes."}, "B") and found.faults == []
    assert len(found.items) == 7 and found.notes == (
        "1 images have no question, such as VisA/candle/test/good/000.png",
    )


def _question(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda item: change(item["conversation"][1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: item.pop("similar_templates"), "similar_templates is missing (list good images"),
        (lambda item: item.update(similar_templates=[]), "lists 0 images, and benchmark.shots asks for 1"),
        (lambda item: item.update(similar_templates=[3]), "similar_templates is no list of paths"),
        (lambda item: item.pop("conversation"), "conversation is missing"),
        (lambda item: item.update(conversation={}), "conversation is empty"),
        (_question(lambda asked: asked.update(Answer="E")), "question 2: Answer is 'E', no letter of Options (give"),
        (_question(lambda asked: asked.pop("Answer")), "question 2: Answer is missing"),
        (_question(lambda asked: asked.update(Options={})), "question 2: Options is empty"),
        (_question(lambda asked: asked.update(Options={"A": "x", "C": "y"})), "Options has the keys A, C (letter them"),
        (_question(lambda asked: asked.update(Options={"A": "", "B": "y"})), "question 2: option A is empty"),
        (_question(lambda asked: asked.update(type="Defect Clasification")), "did you mean 'Defect Classification'?"),
        (_question(lambda asked: asked.update(Question=None)), "question 2: Question is null"),
    ],
)
def test_a_fault_is_one_message_with_file_line_and_key(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    path = write_mmad(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content[KEY])
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    found = read_mmad(BenchmarkConfig(root=str(path)))
    (fault,) = found.faults
    line = path.read_text(encoding="utf-8").split("\n").index(f' "{KEY}": {{') + 1
    assert str(fault).startswith(f"{path}:{line}: {KEY}: ") and said in str(fault)
    assert len(found.items) == len(content) - 1


def test_keys_that_are_no_paths_of_mmad_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "mmad.json"
    path.write_text(json.dumps({"a.png": {"conversation": [{}]}, "x/y/z.png": 3}), encoding="utf-8")
    found = read_mmad(BenchmarkConfig(root=str(path)))
    assert [fault.problem for fault in found.faults] == [
        "a.png: is no <data set>/<object>/... path",
        "x/y/z.png: is a number",
    ]


def test_other_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    manta = write_manta(tmp_path)
    with pytest.raises(ConfigError, match="set benchmark.name to manta"):
        read_mmad(BenchmarkConfig(root=str(manta)))
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no image with a conversation: name mmad.json"):
        read_mmad(BenchmarkConfig(root=str(tmp_path / "other.json")))
    mmad = write_mmad(tmp_path)
    for content, said in (
        ("{}", "holds no .data set"),
        ('{"VisA": {"candle": ["x"]}}', "1: VisA, candle: is no object"),
        ('{"VisA": {"candle": {"good": "\\ud800"}}}', "VisA, candle holds half a character"),
    ):
        (tmp_path / "k.json").write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            read_mmad(BenchmarkConfig(root=str(mmad), knowledge=str(tmp_path / "k.json")))
