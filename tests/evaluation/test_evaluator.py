"""What is asked of a model about records: batches, seeds of draws, maps, and the hash of what decides an answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import special

from sage_jax.config import Config
from sage_jax.config.command_line import read_config
from sage_jax.data import store
from sage_jax.data.adpl.preferences import INSPECTION_QUESTION
from sage_jax.evaluation.baselines import difference_peak
from sage_jax.evaluation.evaluator import (
    Evaluator,
    draw_seeds,
    inspection_record,
    scored_of,
    shown_records,
)
from sage_jax.stages.run import Run
from sage_jax.verdict import JointScore, ScoreShifts
from tests.support.tiny_export import TRAINED_HERE, make_run, record
from tests.support.tiny_run import CONFIG, TinyRun

RECORDS = [record(number, num_facts=number % 3) for number in range(11)]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """A model of random weights that answers eight images at a time."""
    text, evaluate = TRAINED_HERE.text, dataclasses.replace(TRAINED_HERE.evaluate, batch_size=8)
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    config: Config = dataclasses.replace(TRAINED_HERE, run_dir=str(folder), text=text, evaluate=evaluate)
    run: Run = make_run(config)
    return run.evaluator("sfe", run.weights.answering("sfe", wanted_by="test"))


def test_every_record_has_its_answers_and_scores_whatever_its_batch(evaluator: Evaluator) -> None:
    told: list[int] = []
    answers = dict(
        (one.record_id, found) for one, found in evaluator.answers(RECORDS, with_reference=True, advance=told.append)
    )
    scores = dict((one.record_id, found) for one, found in evaluator.scores(RECORDS, with_reference=True))
    assert answers.keys() == scores.keys() == {one.record_id for one in RECORDS} and told[-1] == len(RECORDS)
    for name, found in scores.items():
        np.testing.assert_allclose(found.verdict_score, answers[name].verdict_score, atol=1e-5)
        np.testing.assert_allclose(found.similarity, answers[name].similarity, atol=1e-5)


def test_padding_rows_show_no_record_and_seeds_are_the_records_own(evaluator: Evaluator) -> None:
    (batch,) = evaluator.batches(RECORDS[:3], with_reference=True, answers="none")
    shown = shown_records(batch, RECORDS)
    assert [one.record_id if one else "" for one in shown] == ["0", "1", "2", *[""] * (len(shown) - 3)]
    seeds = draw_seeds(shown)
    np.testing.assert_array_equal(seeds[:3], draw_seeds([RECORDS[2], RECORDS[0], RECORDS[1]])[[1, 2, 0]])
    assert len(set(seeds[:3].tolist())) == 3 and (seeds >= 0).all()


def test_scores_are_shifted_by_the_kind_of_part_and_by_the_difference_of_pixels(evaluator: Evaluator) -> None:
    records = [dataclasses.replace(one, category=("gear", "screw")[index % 2]) for index, one in enumerate(RECORDS)]
    joint, shifts = JointScore(1.0, 0.0, 0.0, difference=4.0), ScoreShifts({"gear": -1.5}, 0.5)
    joining = dataclasses.replace(evaluator, responder=evaluator.responder.decoding_with(joint_score=joint))
    for compared in (True, False):
        plain, shifted, joined, both = (
            [
                special.logit(np.asarray(found.verdict_score)[:1].astype(np.float64))
                for _, found in each.scores(records, with_reference=compared)
            ]
            for each in (
                evaluator,
                dataclasses.replace(evaluator, shifts=shifts),
                joining,
                dataclasses.replace(joining, shifts=shifts),
            )
        )
        by_kind = np.array([shifts.of(one.category) for one in records])[:, None]
        apart = np.array([4.0 * difference_peak(one) if compared else 0.0 for one in records])[:, None]
        np.testing.assert_allclose(np.array(shifted) - plain, by_kind, atol=1e-3)
        np.testing.assert_allclose(np.array(joined) - plain, apart, atol=1e-3)
        np.testing.assert_allclose(np.array(both) - plain, by_kind + apart, atol=1e-3)
        assert not compared or apart.max() > 0.1
    answered = {
        one.record_id: found
        for one, found in dataclasses.replace(joining, shifts=shifts).answers(records, with_reference=True)
    }
    for one, found in dataclasses.replace(joining, shifts=shifts).scores(records, with_reference=True):
        np.testing.assert_allclose(found.verdict_score, answered[one.record_id].verdict_score, atol=1e-5)


def test_the_hash_changes_with_all_that_decides_an_answer(evaluator: Evaluator) -> None:
    before = evaluator.digest()
    assert evaluator.digest() == before and evaluator.digest(beside=1) != before
    config = evaluator.config
    fewer = dataclasses.replace(config.text, max_facts=1)
    changed = [
        dataclasses.replace(evaluator, weights="other"),
        dataclasses.replace(evaluator, facts_as="text"),
        dataclasses.replace(evaluator, responder=evaluator.responder.decoding_with(verdict_threshold=0.3)),
        dataclasses.replace(evaluator, config=dataclasses.replace(config, text=fewer)),
        dataclasses.replace(evaluator, shifts=ScoreShifts({"gear": 0.5})),
    ]
    found = {each.digest() for each in changed}
    assert len(found) == len(changed) and before not in found
    elsewhere = dataclasses.replace(evaluator, config=dataclasses.replace(config, run_dir="elsewhere"))
    assert elsewhere.digest() == before


def test_a_score_is_of_model_data_and_how_it_was_evaluated(evaluator: Evaluator) -> None:
    def with_evaluate(**fields: object) -> Evaluator:
        evaluate = dataclasses.replace(evaluator.config.evaluate, **fields)
        return dataclasses.replace(evaluator, config=dataclasses.replace(evaluator.config, evaluate=evaluate))

    before = scored_of(evaluator, "revision")
    assert scored_of(evaluator, "another") != before
    assert scored_of(with_evaluate(bootstrap_samples=7), "revision") != before
    assert scored_of(with_evaluate(stages=("sfe",)), "revision") == before  # which stages are scored changes none


def test_inspection_asks_one_question_of_the_trained_wording(tiny_run: TinyRun) -> None:
    config = read_config(["--config", str(CONFIG), f"--config.data.cache_dir={tiny_run.folder / 'cache'}"])
    prepared = store.prepare(config.data, config.text, seed=config.seed, run_dir=tiny_run.run_dir)
    record = store.open_split(prepared, "test")[0]
    (question,) = inspection_record(record).questions
    assert question.text == INSPECTION_QUESTION
    assert question.answers == ()
