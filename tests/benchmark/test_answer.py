"""A model's answers to items: the evaluator's own, chunk by chunk, and none asked twice."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.benchmark.answer import Answer, Questioner, stamp_of
from sage_jax.benchmark.items import AskForm, ItemRecords
from sage_jax.benchmark.journal import AnswerJournal
from sage_jax.benchmark.mmad import read_mmad
from sage_jax.config import BenchmarkConfig, TextConfig
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.trees.encode import TreeError
from sage_jax.errors import UserError
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.journal.run_log import RunLog
from sage_jax.stages.run import Run
from tests.support.question_sets import write_mmad
from tests.support.tiny_export import TRAINED_HERE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    text = dataclasses.replace(TRAINED_HERE.text, max_fact_tokens=96, buckets=())
    evaluate = dataclasses.replace(TRAINED_HERE.evaluate, batch_size=8, max_new_tokens=3)
    folder = tmp_path_factory.mktemp("asked") / "run"
    return make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(folder), text=text, evaluate=evaluate))


@pytest.fixture(scope="module")
def evaluator(run: Run) -> Evaluator:
    return run.evaluator("sfe", run.weights.answering("sfe", wanted_by="test"))


@pytest.fixture(scope="module")
def questioner(evaluator: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> Questioner:
    """Forty images: a chunk of four batches of eight, and one of eight."""
    folder = tmp_path_factory.mktemp("mmad")
    items = read_mmad(BenchmarkConfig(root=str(write_mmad(folder, copies=5)))).items
    return Questioner(evaluator, ItemRecords(items, AskForm(folder, 1), load_vocabulary("")), True, True)


@dataclasses.dataclass
class Asked:
    """What goes through a questioner's journal and evaluator."""

    questioner: Questioner
    folder: Path
    run: Run

    def __call__(self, stamp: str = "s", made_by: str = "m") -> Any:
        keys = [record.record_id for record in self.questioner.records]
        with RunLog(self.folder, "benchmark") as log:
            journal = AnswerJournal(self.folder / "j.jsonl", made_by)
            return self.questioner.answer(keys, [stamp] * len(keys), journal, log, self.run.mesh)

    @property
    def journal(self) -> bytes:
        return (self.folder / "j.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(questioner: Questioner, run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, Any]:
    asked = Asked(questioner, tmp_path_factory.mktemp("whole"), run)
    return asked, asked()


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the records that the model is asked to rank the letters of."""
    seen: list[str] = []
    rankings = Evaluator.rankings

    def watched(self: Evaluator, *args: Any, **options: Any) -> Iterator[Any]:
        for record, found in rankings(self, *args, **options):
            seen.append(record.record_id)
            yield record, found

    monkeypatch.setattr(Evaluator, "rankings", watched)
    return seen


def test_answers_are_the_evaluators_own(whole: tuple[Asked, Any], evaluator: Evaluator, questioner: Questioner) -> None:
    _, found = whole
    assert (found.left, found.anew) == (0, 40)
    records = [questioner.records[index] for index in range(9, 1, -1)]  # eight in another order, as many as a batch
    ranked = {record.record_id: logps for record, logps in evaluator.rankings(records, with_reference=True)}
    for record, said in evaluator.answers(records, with_reference=True):
        answers = found.answers[record.record_id]
        assert len(answers) == len(record.questions)
        for number, (answer, question) in enumerate(zip(answers, record.questions, strict=True)):
            expected = ranked[record.record_id][number, : len(question.answers)]
            np.testing.assert_allclose(answer.logps, expected, atol=1e-4)
            assert answer.yes == pytest.approx(float(said.verdict_score[number]), abs=1e-4)
            assert answer.said == evaluator.chat.decode(said.token_ids[number])


def test_letters_are_scored_by_their_own_likelihood(whole: tuple[Asked, Any], questioner: Questioner) -> None:
    turned = []
    for index in range(9, 1, -1):
        record = questioner.records[index]
        asked = tuple(dataclasses.replace(question, answers=question.answers[::-1]) for question in record.questions)
        turned.append(dataclasses.replace(record, questions=asked))
    for record, logps in questioner.evaluator.rankings(turned, with_reference=True):
        for number, answer in enumerate(whole[1].answers[record.record_id]):
            np.testing.assert_allclose(logps[number, : len(answer.logps)], answer.logps[::-1], atol=1e-4)
            assert abs(answer.logps[0] - answer.logps[1]) > 1e-3


def test_no_item_is_asked_twice(whole: tuple[Asked, Any], ranked: list[str]) -> None:
    asked, found = whole
    before = asked.journal
    again = asked()
    assert ranked == [] and asked.journal == before
    assert (again.left, again.anew) == (0, 0) and again.answers == found.answers


def test_after_a_stop_and_a_kill_the_rest_is_asked_and_all_is_as_without(
    whole: tuple[Asked, Any], run: Run, tmp_path: Path, ranked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, found = whole
    asked = Asked(complete.questioner, tmp_path, run)
    append = AnswerJournal.append

    def stopping(self: AnswerJournal, chunk: Any) -> None:
        append(self, chunk)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerJournal, "append", stopping)
        stopped = asked()
    assert (stopped.left, stopped.anew, len(ranked)) == (8, 32, 32)
    kept = asked.journal
    assert complete.journal.startswith(kept)
    (tmp_path / "j.jsonl").write_bytes(complete.journal[: len(kept) + 700])  # as a kill while it writes leaves it
    ranked.clear()
    done = asked()
    assert (done.left, done.anew) == (0, 8) and len(ranked) == 8
    assert asked.journal == complete.journal and done.answers == found.answers


def test_a_changed_item_or_model_is_asked_anew(
    whole: tuple[Asked, Any], run: Run, tmp_path: Path, ranked: list[str]
) -> None:
    asked = Asked(whole[0].questioner, tmp_path, run)
    (tmp_path / "j.jsonl").write_bytes(whole[0].journal)
    assert asked(stamp="changed").anew == 40 and len(ranked) == 40
    assert asked(stamp="changed").anew == 0
    assert asked(made_by="another").anew == 40


def test_questions_that_do_not_fit_are_told_before_any_is_asked(
    questioner: Questioner, run: Run, tmp_path: Path, ranked: list[str]
) -> None:
    evaluator = questioner.evaluator
    text: TextConfig = dataclasses.replace(evaluator.config.text, buckets=(16,))
    small = dataclasses.replace(evaluator, config=dataclasses.replace(evaluator.config, text=text))
    with pytest.raises(TreeError, match=r"questions of 40 items do not fit: record .*add a bucket[\s\S]*and 30 more"):
        Asked(dataclasses.replace(questioner, evaluator=small), tmp_path, run)()
    with pytest.raises(TreeError, match="the plain one up to 40: lower model.max_tiles"):
        Asked(dataclasses.replace(questioner, max_positions=40), tmp_path, run)()
    assert ranked == [] and not (tmp_path / "j.jsonl").exists()


def test_a_model_that_has_diverged_is_told(questioner: Questioner) -> None:
    record = questioner.records[0]
    assert Answer("", 0.5, (-1.0,)).finite(record).yes == 0.5
    for answer in (Answer("", float("nan"), ()), Answer("", 0.5, (-1.0, float("-inf")))):
        with pytest.raises(UserError, match=r"record DS-MVTec/bottle.*: the model gives no finite probabilities"):
            answer.finite(record)


def test_an_answer_survives_json_and_a_stamp_is_of_all_its_parts() -> None:
    answer = Answer("Ja", 0.25, (-1.5, -2.0))
    assert Answer.from_json(json.loads(json.dumps(answer.as_json()))) == answer
    assert len({stamp_of(parts) for parts in ([["a"], "b"], [["a", "b"]], [["b"], "a"])}) == 3
