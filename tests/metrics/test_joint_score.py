"""Weights that join verdict and map: those of an independent logistic regression, and better than either alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from sage_jax.metrics.joint_score import learn_weights, spread_weights
from sage_jax.verdict import JointScore


def joined(
    joint: JointScore, scores: np.ndarray, peaks: np.ndarray, differences: np.ndarray | float = 0.0
) -> np.ndarray:
    odds = special.logit(np.clip(scores, 1e-6, 1 - 1e-6))
    return special.expit(joint.verdict * odds + joint.map * peaks + joint.difference * differences + joint.offset)


def _images(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, peaks and labels: both tell something, and err on different images."""
    rng = np.random.default_rng(seed)
    defective = np.arange(number) % 3 == 0
    odds = rng.normal(np.where(defective, 1.0, -1.0), 1.2)
    return special.expit(odds), rng.normal(np.where(defective, 0.6, 0.3), 0.15), defective


def test_the_weights_are_those_of_a_logistic_regression() -> None:
    scores, peaks, defective = _images(60, 0)
    found = learn_weights(list(scores), list(peaks), list(defective))
    features = np.stack([special.logit(scores), peaks], axis=1)
    middle, spread = features.mean(axis=0), features.std(axis=0)
    # With balanced classes each image weighs n / (2 n_class): of twice as much as ours, so that C is half as large.
    peer = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10).fit((features - middle) / spread, defective)
    weights = peer.coef_[0] / spread
    np.testing.assert_allclose([found.verdict, found.map], weights, rtol=1e-3)
    np.testing.assert_allclose(found.offset, peer.intercept_[0] - weights @ middle, rtol=1e-3)


def test_the_difference_of_pixels_is_a_third_feature_and_helps_on_unseen_images() -> None:
    scores, peaks, defective = _images(60, 4)
    differences = np.random.default_rng(4).normal(np.where(defective, 0.5, 0.2), 0.15)
    found = learn_weights(list(scores), list(peaks), list(defective), list(differences))
    features = np.stack([special.logit(scores), peaks, differences], axis=1)
    middle, spread = features.mean(axis=0), features.std(axis=0)
    peer = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10).fit((features - middle) / spread, defective)
    weights = peer.coef_[0] / spread
    np.testing.assert_allclose([found.verdict, found.map, found.difference], weights, rtol=1e-3)
    np.testing.assert_allclose(found.offset, peer.intercept_[0] - weights @ middle, rtol=1e-3)
    scores, peaks, defective = _images(3000, 5)
    differences = np.random.default_rng(6).normal(np.where(defective, 0.5, 0.2), 0.15)
    without = learn_weights(*map(list, _images(60, 4)))
    assert without.difference == 0.0
    better = roc_auc_score(defective, joined(found, scores, peaks, differences))
    assert better > roc_auc_score(defective, joined(without, scores, peaks)) + 0.02


def test_the_joined_score_tells_unseen_images_apart_better_than_either_alone() -> None:
    found = learn_weights(*map(list, _images(60, 1)))
    scores, peaks, defective = _images(3000, 2)
    together = roc_auc_score(defective, joined(found, scores, peaks))
    assert together > max(roc_auc_score(defective, scores), roc_auc_score(defective, peaks)) + 0.02


def test_no_weight_is_below_zero_and_images_that_a_line_parts_have_finite_ones() -> None:
    scores, peaks, defective = _images(60, 3)
    against = learn_weights(list(scores), list(-peaks), list(defective))
    assert against.map == 0.0 and against.verdict > 0.0
    apart = learn_weights([0.000001] * 10 + [1.0] * 5, [0.0] * 10 + [1.0] * 5, [False] * 10 + [True] * 5)
    assert 0.0 < apart.verdict < 1.0 and 0.0 < apart.map < 10.0
    assert (joined(apart, np.array([0.0, 1.0]), np.array([0.0, 1.0])).round() == [0.0, 1.0]).all()


def test_one_label_alone_teaches_nothing() -> None:
    with pytest.raises(ValueError, match="one kind is lacking"):
        learn_weights([0.1, 0.2], [0.1, 0.2], [False, False])


@pytest.mark.parametrize("registered", [False, True])
def test_good_images_alone_weigh_by_their_spread(registered: bool) -> None:
    rng = np.random.default_rng(7)
    scores, peaks, apart = (
        special.expit(rng.normal(-4.0, 1.5, 80)),
        rng.uniform(0.0, 0.4, 80),
        rng.uniform(0.1, 0.6, 80),
    )
    found = spread_weights(list(scores), list(peaks), list(apart) if registered else None)
    features = [special.logit(scores), peaks, apart][: 2 + registered]
    spreads = [(np.sort(each) - np.median(each)) @ _at(0.9, 80) for each in features]
    above = np.mean([(each - np.median(each)) / spread for each, spread in zip(features, spreads, strict=True)], axis=0)
    np.testing.assert_allclose(joined(found, scores, peaks, apart), special.expit(above - 2.0), rtol=1e-6)
    assert (found.difference > 0.0) == registered


def _at(share: float, number: int) -> np.ndarray:
    """Weights of sorted values in a quantile, linear between two of them."""
    place = share * (number - 1)
    return np.clip(1.0 - np.abs(np.arange(number) - place), 0.0, None)


def test_weights_by_spread_tell_unseen_images_apart_better_than_any_part_of_the_score() -> None:
    def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        scores, peaks, defective = _images(number, seed)
        return scores, peaks, np.random.default_rng(seed).normal(np.where(defective, 0.45, 0.2), 0.15), defective

    scores, peaks, apart, defective = draw(120, 8)
    found = spread_weights(*(list(each[~defective]) for each in (scores, peaks, apart)))
    *parts, defective = draw(3000, 9)
    alone = [roc_auc_score(defective, each) for each in parts]
    assert roc_auc_score(defective, joined(found, *parts)) > max(alone) + 0.04


def test_a_confident_verdict_is_weighed_by_its_own_spread() -> None:
    """Log-odds far below those of the smallest step between thresholds, which the devices do not round either."""
    odds = np.random.default_rng(10).normal(-20.0, 3.0, 200)
    found = spread_weights(special.expit(odds).tolist(), [0.1] * 200)
    wanted = 0.5 / (np.quantile(odds, 0.9) - np.median(odds))
    assert found.verdict == pytest.approx(wanted, rel=1e-6)


def test_what_hardly_varies_among_good_images_has_no_weight_without_end() -> None:
    found = spread_weights([1e-6] * 20, [0.1] * 20, [0.3] * 20)
    np.testing.assert_allclose([found.verdict, found.map, found.difference], np.array([2.0, 50.0, 50.0]) / 3.0)
    with pytest.raises(ValueError, match="there is none"):
        spread_weights([], [])
