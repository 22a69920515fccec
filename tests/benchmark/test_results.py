"""The results of a question set, from answers that are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sage_jax.benchmark.answer import Answer
from sage_jax.benchmark.items import Asked, Item
from sage_jax.benchmark.results import (
    GENERATED,
    LIKELIHOOD,
    OFFICIAL,
    choice_results,
    load_results,
    record_results,
    verdict_results,
    write_answers,
    write_official,
)
from sage_jax.config import ConfigError
from tests.support.official_mmad import official_table

DETECT = Asked("Is there any defect?", "Anomaly Detection", {"A": "Yes.", "B": "No."}, "A")
CLASSIFY = Asked("Which?", "Defect Classification", {"A": "dent", "B": "crack", "C": "stain"}, "C")


def item(number: int, label: str, *asked: Asked) -> Item:
    path = f"VisA/candle/test/{label}/{number}.png"
    return Item(path, "mmad.json", path, (), "candle", asked)


GOOD = dataclasses.replace(DETECT, truth="B")
TOLD = [
    (
        item(0, "crack", DETECT, CLASSIFY),
        [Answer("A. Yes.", 0.9, (-1.0, -2.0)), Answer("dent", 0.5, (-3.0, -2.0, -1.0))],
    ),
    (item(1, "good", GOOD), [Answer("I do not know.", 0.9, (-1.0, -0.5))]),
    (item(2, "good", GOOD), [Answer("A or B", 0.9, (-1.0, -2.0))]),
]


def test_letters_are_scored_in_both_ways_and_as_the_official_script_does(tmp_path: Path) -> None:
    found = choice_results(TOLD, samples=20, seed=0)
    assert [row["likeliest"] for row in found.rows] == ["A", "C", "B", "A"]
    assert [row["read"] for row in found.rows] == ["A", "A", None, None]
    likely, written = found.metrics[LIKELIHOOD], found.metrics[GENERATED]
    assert (likely["overall"]["value"], likely["unread"]) == (0.75, 0)
    assert (written["overall"]["value"], written["unread"]) == (0.25, 2)
    assert likely["balanced"]["value"] == 0.75 and written["balanced"]["value"] == 0.5
    assert found.official is not None
    assert [row["gpt_answer"] for row in found.official] == ["A", "", "", "B"]
    assert found.official[1] == {
        "image": TOLD[0][0].key,
        "question": {
            "type": "text",
            "text": "Question 2: Which? \nA. dent\nB. crack\nC. stain\n",
            "options": CLASSIFY.options,
        },
        "question_type": "Defect Classification",
        "correct_answer": "C",
        "gpt_answer": "",
    }
    write_official(tmp_path / "answers_0_shot_x.json", found.official)
    rows = json.loads((tmp_path / "answers_0_shot_x.json").read_text(encoding="utf-8"))
    assert rows == found.official and found.metrics[OFFICIAL] == official_table(rows)
    assert found.metrics[OFFICIAL]["VisA"]["Anomaly Detection"] == 100.0  # of three detections two are lost


def test_verdicts_are_scored_by_words_and_by_probability() -> None:
    asked = [Asked(f"Is it {n}?", "defect identification", {}, "Yes" if n else "No", "It is red.") for n in range(3)]
    told = [
        (item(0, "x", *asked), [Answer("No, it is not", 0.4, ()), Answer("True.", 0.6, ()), Answer("Yes", 0.5, ())]),
        (item(1, "y", *asked[1:]), [Answer("It is", 0.7, ()), Answer("No.", 0.8, ())]),
    ]
    found = verdict_results(told, samples=20, seed=0)
    likely, written = found.metrics[LIKELIHOOD], found.metrics[GENERATED]
    assert (likely["verdict_accuracy"]["value"], likely["acc_g"]["value"], likely["unread"]) == (1.0, 1.0, 0)
    assert (written["verdict_accuracy"]["value"], written["acc_g"]["value"], written["unread"]) == (0.6, 0.5, 1)
    assert written["by_kind"]["defect identification"]["n"] == 5 and found.official is None
    ((name, rival),) = found.metrics["rivals"].items()
    assert name == "always yes" and rival["verdict_accuracy"]["value"] == 0.8 and rival["acc_g"]["value"] == 0.5
    assert found.rows[0]["answer"] == "No. It is red." and found.rows[3]["dichotomy"] is None
    assert verdict_results([], samples=5, seed=0).metrics["rivals"] == {}


def test_a_summary_keeps_what_was_measured_on_the_same_and_drops_the_rest(tmp_path: Path) -> None:
    path, about = tmp_path / "b" / "summary.json", {"revision": "r", "options": {"shots": (0,)}}
    record_results(path, "sfe", 1, about, {"one": 1})
    record_results(path, "sfe", 0, about, {"zero": 0})
    record_results(path, "edpo", 0, about, {"other": 2})
    assert list(load_results(path)["stages"]["sfe"]["shots"].items()) == [("0", {"zero": 0}), ("1", {"one": 1})]
    record_results(path, "sfe", 0, {**about, "revision": "new"}, {"zero": 3})
    stages = load_results(path)["stages"]
    assert stages["sfe"]["shots"] == {"0": {"zero": 3}} and stages["edpo"]["shots"] == {"0": {"other": 2}}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stages": 3}', "\xff", "[" * 100_000])
def test_a_damaged_summary_is_told_before_results_of_others_are_lost(content: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert load_results(path) == {}
    record_results(path, "sfe", 0, {}, {"a": 1})
    assert load_results(path)["stages"]["sfe"]["shots"] == {"0": {"a": 1}}
    for damaged in (content, path.read_text().replace('"a": 1', '"a": 2')):
        path.write_text(damaged, encoding="latin-1")
        with pytest.raises(ConfigError, match=r"summary\.json: damaged: .*: delete it, and run the stage benchmark"):
            record_results(path, "edpo", 0, {}, {"b": 1})


def test_answers_are_written_a_line_each(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.jsonl", [{"said": "Riß\n"}, {"said": None}])
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["said"] for line in lines] == ["Riß\n", None]
