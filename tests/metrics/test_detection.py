"""AUROC, average precision and F1 of anomaly scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sage_jax.metrics.detection import (
    auroc_gain,
    detection_metrics,
    weighted_auroc,
    weighted_average_precision,
    weighted_f1,
    weighted_f1_max,
)
from sage_jax.metrics.intervals import UNDEFINED


def random_scores(seed: int, size: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(size) < 0.4
    scores = generator.normal(size=size) * 0.2 + 0.4 + 0.2 * labels
    return (np.round(scores, 1) if ties else scores), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_weighted_statistics_equal_scikit_learn_on_resampled_examples(seed: int, ties: bool):
    scores, labels = random_scores(seed, 60, ties=ties)
    order = np.argsort(-scores, kind="stable")
    descending, positive = scores[order], labels[order]
    weights = np.random.default_rng(seed).multinomial(60, np.full(60, 1 / 60), size=5)
    computed = {
        "auroc": weighted_auroc(descending, positive)(weights),
        "average_precision": weighted_average_precision(descending, positive)(weights),
        "f1": weighted_f1(descending, positive, 0.5)(weights),
        "f1_max": weighted_f1_max(descending, positive)(weights),
    }
    for row, counts in enumerate(weights):
        drawn_scores, drawn_labels = np.repeat(descending, counts), np.repeat(positive, counts)
        assert computed["auroc"][row] == pytest.approx(sklearn_metrics.roc_auc_score(drawn_labels, drawn_scores))
        expected = sklearn_metrics.average_precision_score(drawn_labels, drawn_scores)
        assert computed["average_precision"][row] == pytest.approx(expected)
        precision, recall, _ = sklearn_metrics.precision_recall_curve(drawn_labels, drawn_scores)
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        assert computed["f1_max"][row] == pytest.approx(best)
        assert computed["f1"][row] == pytest.approx(sklearn_metrics.f1_score(drawn_labels, drawn_scores >= 0.5))


def test_values_do_not_depend_on_the_order_of_examples():
    scores, labels = random_scores(7, 80, ties=True)
    shuffle = np.random.default_rng(0).permutation(80)
    first = detection_metrics(scores, labels, list(range(80)), samples=20)
    second = detection_metrics(scores[shuffle], labels[shuffle], shuffle.tolist(), samples=20)
    for name in first:
        assert first[name].value == pytest.approx(second[name].value)


def test_interval_holds_the_value_and_narrows_with_more_images():
    widths = []
    for size in (60, 960):
        scores, labels = random_scores(1, size, ties=False)
        metric = detection_metrics(scores, labels, list(range(size)), samples=300)["auroc"]
        assert metric.low is not None and metric.high is not None and metric.value is not None
        assert metric.low < metric.value < metric.high
        assert metric.n == size
        widths.append(metric.high - metric.low)
    assert widths[1] < widths[0] / 2


def test_a_perfect_score_gives_one_and_a_reversed_one_zero():
    labels = np.array([True, False, True, False])
    assert detection_metrics(labels * 1.0, labels, list("abcd"), samples=50)["auroc"].value == 1.0
    assert detection_metrics(~labels * 1.0, labels, list("abcd"), samples=50)["auroc"].value == 0.0


@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_one_class_is_undefined(labels: list[bool]):
    results = detection_metrics([0.5] * len(labels), labels, list(range(len(labels))))
    assert results == {name: UNDEFINED for name in ("auroc", "average_precision", "f1", "f1_max")}


def test_f1_counts_a_score_at_the_threshold_as_found():
    results = detection_metrics([0.7, 0.2], [True, False], ["a", "b"], threshold=0.7, samples=20)
    assert results["f1"].value == 1.0


def test_bad_scores_are_named():
    with pytest.raises(ValueError, match="score 1 is nan"):
        detection_metrics([0.1, float("nan")], [True, False], ["a", "b"])
    with pytest.raises(ValueError, match="2 scores, 1 labels"):
        detection_metrics([0.1, 0.2], [True], ["a", "b"])


def test_the_gain_is_the_difference_of_two_aurocs_on_the_same_draws():
    scores, labels = random_scores(1, 200, ties=False)
    others = scores + np.random.default_rng(2).normal(size=200) * 0.1
    groups = [f"i{index}" for index in range(200)]
    found = auroc_gain(scores.tolist(), others.tolist(), labels.tolist(), groups)
    ours, theirs = (sklearn_metrics.roc_auc_score(labels, each) for each in (scores, others))
    assert found.value == pytest.approx(ours - theirs) and found.n == 200
    single = detection_metrics(scores, labels, groups)["auroc"]
    assert found.low is not None and found.high is not None and single.low is not None and single.high is not None
    assert found.low < ours - theirs < found.high
    assert found.high - found.low < 0.8 * (single.high - single.low), "pairing takes out what both find hard"
    same = auroc_gain(scores.tolist(), scores.tolist(), labels.tolist(), groups)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert auroc_gain([1.0], [2.0], [True], ["a"]) == UNDEFINED
