"""Metrics of judgements: mean marks, variance between repetitions, agreement with the offline rubric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sage_jax.judging.answers import Judgement
from sage_jax.judging.marks import ASPECTS
from sage_jax.metrics.agreement import weighted_kappa
from sage_jax.metrics.intervals import Metric, bootstrap_mean


def judge_metrics(judgements: Sequence[Judgement], *, samples: int, seed: int) -> dict[str, Metric]:
    """The metrics, each with an interval over images; failed judgements are in none of them.

    `judge` is the mean of the three marks; `judge_variance` is the mean over answers of the variance of that mean
    between an answer's repetitions (divided by one less than their number), undefined with one repetition;
    `judge_kappa_*` compare each judgement's mark with the rubric's. An answer's marks are the mean of its repetitions,
    and n counts answers, of kappa judgements.
    """
    drawn = {"samples": samples, "seed": seed}
    given = [(each, each.marks) for each in judgements if each.marks is not None]
    by_answer: dict[int, list[int]] = {}
    for index, (each, _) in enumerate(given):
        by_answer.setdefault(id(each.answer), []).append(index)
    images = [given[indices[0]][0].answer.image for indices in by_answer.values()]

    def mean(name: str) -> Metric:
        values = [float(np.mean([getattr(given[i][1], name) for i in indices])) for indices in by_answer.values()]
        return bootstrap_mean(values, images, **drawn)

    averages = [[given[i][1].average for i in indices] for indices in by_answer.values()]
    variances = [float(np.var(each, ddof=1)) if len(each) > 1 else float("nan") for each in averages]
    compared = [(each.answer, each.answer.rubric, marks) for each, marks in given if each.answer.rubric is not None]
    kappas = {
        f"judge_kappa_{name}": weighted_kappa(
            [getattr(rubric, name) for _, rubric, _ in compared],
            [getattr(marks, name) for *_, marks in compared],
            [answer.image for answer, *_ in compared],
            **drawn,
        )
        for name in ASPECTS
    }
    return {
        "judge": mean("average"),
        **{f"judge_{name}": mean(name) for name in ASPECTS},
        "judge_variance": bootstrap_mean(variances, images, **drawn),
        **kappas,
    }
