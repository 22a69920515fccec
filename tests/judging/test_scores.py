"""Metrics of judgements against their definitions on random marks."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.judging.answers import Answer, Judgement
from sage_jax.judging.marks import ASPECTS
from sage_jax.judging.scores import judge_metrics
from sage_jax.metrics.mle import MleScore


def score(marks: np.ndarray) -> MleScore:
    return MleScore(*map(float, marks))


def judged(rng: np.random.Generator, *, answers: int, repetitions: int) -> tuple[list[Judgement], np.ndarray]:
    """Judgements of answers on images, a fifth of them failed, and their marks [A, R, 3], NaN where failed."""
    marks = rng.integers(1, 6, (answers, repetitions, 3)).astype(float)
    marks[rng.random((answers, repetitions)) < 0.2] = np.nan
    found = []
    for number in range(answers):
        rubric = score(rng.integers(1, 6, 3))
        answer = Answer(f"{number % 7}.png", "Is it?", "No.", "No.", rubric)  # the same texts on every image
        for repetition, each in enumerate(marks[number]):
            failed = np.isnan(each).any()
            found.append(Judgement(answer, repetition, None if failed else score(each), "no JSON" if failed else ""))
    return found, marks


def test_means_variance_and_agreement_are_those_of_their_definitions() -> None:
    judgements, marks = judged(np.random.default_rng(0), answers=40, repetitions=3)
    metrics = judge_metrics(judgements, samples=50, seed=0)
    known = marks[~np.isnan(marks).all(axis=(1, 2))]
    for index, name in enumerate(ASPECTS):
        assert metrics[f"judge_{name}"].value == pytest.approx(np.nanmean(known[..., index], axis=1).mean())
        assert metrics[f"judge_{name}"].n == len(known)
    averages = known.mean(axis=2)
    assert metrics["judge"].value == pytest.approx(np.nanmean(averages, axis=1).mean())
    repeated = averages[(~np.isnan(averages)).sum(axis=1) > 1]
    assert metrics["judge_variance"].value == pytest.approx(np.nanvar(repeated, axis=1, ddof=1).mean())
    assert metrics["judge_variance"].n == len(repeated)
    given = [each for each in judgements if each.marks is not None]
    for name in ASPECTS:
        first = np.array([getattr(each.answer.rubric, name) for each in given])
        second = np.array([getattr(each.marks, name) for each in given])
        kappa = 1 - np.mean((first - second) ** 2) / np.mean((first[:, None] - second[None]) ** 2)
        assert metrics[f"judge_kappa_{name}"].value == pytest.approx(kappa)
        assert metrics[f"judge_kappa_{name}"].n == len(given)


def test_one_repetition_has_no_variance_and_no_judgement_no_score() -> None:
    judgements, _ = judged(np.random.default_rng(1), answers=10, repetitions=1)
    metrics = judge_metrics(judgements, samples=50, seed=0)
    assert metrics["judge_variance"].value is None and metrics["judge"].value is not None
    failed = [Judgement(each.answer, 0, None, "no JSON") for each in judgements]
    assert {metric.value for metric in judge_metrics(failed, samples=50, seed=0).values()} == {None}


def test_intervals_are_over_images() -> None:
    answers = [Answer(f"{i // 50}.png", "Is it?", "No.", f"No {i}.", None) for i in range(100)]
    judgements = [Judgement(answer, 0, MleScore(*[1.0 + 4 * (answer.image == "1.png")] * 3)) for answer in answers]
    metric = judge_metrics(judgements, samples=200, seed=0)["judge"]
    assert (metric.value, metric.low, metric.high) == (3.0, 1.0, 5.0)
