"""Predictions read, judgements written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_jax.errors import UserError
from sage_jax.judging.answers import (
    Answer,
    Judgement,
    failures_file,
    judgements_file,
    predictions_file,
    read_answers,
    write_judgements,
)
from sage_jax.metrics.mle import MleScore
from sage_jax.metrics.verdicts import Prediction, write_predictions
from tests.support.tiny_run import read_jsonl


def test_answers_are_those_that_an_evaluation_wrote(tmp_path: Path) -> None:
    path = predictions_file(tmp_path, "sfe", "one_shot")
    item = Prediction("r", "i", "a.png", "standard comparison", "good", "Is it?", "No. All is\u2028well.", "", False)
    mle = {"accuracy": 1.0, "localization": 4.5, "logic": 2.0, "average": 2.5}
    write_predictions(path, [item, item], [{"mle": mle}, {}])
    first, second = read_answers(path)
    assert first == Answer("a.png", "Is it?", "No. All is\u2028well.", "", MleScore(1.0, 4.5, 2.0))
    assert second.rubric is None


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"image": 1}', '{"image": "", "question": "", "answer": ""}'])
def test_a_line_that_is_no_prediction_is_named(line: str, tmp_path: Path) -> None:
    good = json.dumps({"image": "a", "question": "q", "answer": "b", "prediction": "p"})
    (tmp_path / "p.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=r"p\.jsonl, line 2: no prediction .*run the stage evaluate again"):
        read_answers(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        read_answers(tmp_path / "p.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_answers(tmp_path / "none.jsonl")


def test_judgements_and_failures_have_the_names_of_the_released_evaluator(tmp_path: Path) -> None:
    answer = Answer("a.png", "Is it?", "No.", "Yes.", None)
    judged = Judgement(answer, 0, MleScore(5.0, 4.0, 4.0))
    failed = Judgement(answer, 1, None, "no JSON")
    write_judgements(tmp_path, "sfe", "one_shot", [judged, failed], scored_of="abc")
    (row,) = read_jsonl(judgements_file(tmp_path, "sfe", "one_shot"))
    texts = {"question": "Is it?", "reference_answer": "No.", "test_answer": "Yes."}
    marks = {"accuracy": 5, "localization": 4, "logic": 4, "average": pytest.approx(13 / 3)}
    assert row == {**texts, **marks, "repetition": 0, "scored_of": "abc"}
    assert isinstance(row["accuracy"], int)
    failures = failures_file(tmp_path, "sfe", "one_shot")
    assert read_jsonl(failures) == [{**texts, "reason": "no JSON", "repetition": 1, "scored_of": "abc"}]
    write_judgements(tmp_path, "sfe", "one_shot", [judged], scored_of="abc")
    assert not failures.exists()
