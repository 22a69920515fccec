"""Calibration: what is promised of a threshold holds on images that it has not seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression

from sage_jax.metrics.calibration import (
    RESOLUTION,
    CalibrationError,
    calibrate,
    clopper_pearson,
    expected_calibration_error,
)

DRAWS = {
    "skewed": lambda rng, n: rng.beta(0.3, 4.0, n),
    "tied": lambda rng, n: np.round(rng.beta(1.0, 3.0, n), 1),
    "tiny": lambda rng, n: special.expit(rng.normal(-9.0, 1.0, n)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_false_alarms_on_fresh_good_images_are_as_rare_as_promised(name: str) -> None:
    """20 calibrations on 200 good images, 1,000 fresh ones each, as scores of six decimals."""
    rng, rates, promised = np.random.default_rng(1), [], 10 / 201
    for _ in range(20):
        found = calibrate(np.round(DRAWS[name](rng, 200), 6).tolist(), [], false_alarm_rate=0.05)
        assert found.promised == promised
        rates.append(np.mean(DRAWS[name](rng, 1000) >= found.threshold))
    # The rate of one calibration varies as a Beta variable does; the mean over 20 lies near or under the promise.
    spread = stats.beta(10, 191).std() / np.sqrt(20) + np.sqrt(0.05 * 0.95 / 20_000)
    assert np.mean(rates) <= promised + 2.5 * spread
    if name != "tied":
        assert np.mean(rates) >= promised - 2.5 * spread, "no needlessly high threshold"


def test_the_bound_on_escapes_holds_in_at_least_95_of_100() -> None:
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        good, defective = rng.beta(1.0, 6.0, 99), rng.beta(4.0, 2.0, 40)
        found = calibrate(good.tolist(), defective.tolist(), false_alarm_rate=0.05)
        assert found.escape_bound is not None
        held += stats.beta(4.0, 2.0).cdf(found.threshold) <= found.escape_bound
        assert found.escapes == np.sum(defective < found.threshold)
        assert found.false_alarms == np.sum(good >= found.threshold) == 4
    assert held / 400 >= 0.95 - 2.0 * np.sqrt(0.05 * 0.95 / 400)


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    for found, count in ((0, 10), (3, 40), (39, 40), (7, 500)):
        exact = stats.binomtest(found, count).proportion_ci(confidence_level=0.9, method="exact").high
        np.testing.assert_allclose(clopper_pearson(found, count), exact, rtol=1e-9)
    assert clopper_pearson(5, 5) == 1.0 and clopper_pearson(0, 0) == 1.0


def test_what_the_images_cannot_support_is_refused() -> None:
    scores = np.linspace(0.0, 0.4, 18).tolist()
    with pytest.raises(CalibrationError, match="18 good images promise .* 0.0526 at best, not 0.05: give 19 or more"):
        calibrate(scores, [], false_alarm_rate=0.05)
    assert calibrate([*scores, 0.2], [], false_alarm_rate=0.05).threshold == pytest.approx(0.4, abs=2 * RESOLUTION)
    with pytest.raises(CalibrationError, match="0 good images"):
        calibrate([], [], false_alarm_rate=0.5)
    with pytest.raises(CalibrationError, match="does not know these parts"):
        calibrate([1.0] * 30, [], false_alarm_rate=0.1)


def test_an_image_of_the_calibration_at_the_threshold_is_not_called_defective() -> None:
    found = calibrate([0.1] * 10 + [0.3] * 10, [0.3, 0.300002], false_alarm_rate=0.1)
    assert found.false_alarms == 0 and found.escapes == 1 and found.threshold > 0.3


def test_probabilities_are_platts() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random(4000) < 0.4
    scores = special.expit(rng.normal(np.where(labels, 2.0, -3.0), 2.0))
    found = calibrate(scores[~labels].tolist(), scores[labels].tolist(), false_alarm_rate=0.05)
    fitted = LogisticRegression(C=np.inf).fit(special.logit(scores)[:, None], labels)
    assert found.slope == pytest.approx(float(fitted.coef_[0, 0]), rel=0.02)
    assert found.intercept == pytest.approx(float(fitted.intercept_[0]), abs=0.05)
    assert found.calibration_error is not None and found.calibration_error < 0.03
    np.testing.assert_allclose(
        found.probability(scores), fitted.predict_proba(special.logit(scores)[:, None])[:, 1], atol=0.02
    )
    alone = calibrate(scores[~labels].tolist(), [], false_alarm_rate=0.05)
    assert alone.escape_bound is None and alone.slope is None
    with pytest.raises(CalibrationError, match="needs defective images"):
        alone.probability(scores)


def test_perfectly_parted_scores_give_finite_probabilities() -> None:
    found = calibrate([0.0] * 30, [1.0] * 30, false_alarm_rate=0.05)
    probability = found.probability(np.array([0.0, 0.5, 1.0]))
    assert np.all(np.isfinite(probability)) and probability[0] < 0.1 < 0.9 < probability[2]
    assert found.escapes == 0 and all(np.isfinite(value) for value in (found.slope or 0.0, found.intercept or 0.0))


def test_calibration_error_is_the_mean_distance_over_bins() -> None:
    probabilities, labels = np.array([0.05, 0.06, 0.95, 1.0, 0.5]), np.array([False, True, True, True, False])
    expected = (2 * abs(0.055 - 0.5) + 2 * abs(0.975 - 1.0) + 1 * 0.5) / 5
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_higher_rates_have_lower_thresholds_and_fewer_escapes() -> None:
    rng = np.random.default_rng(4)
    found = calibrate(rng.beta(1, 6, 999).tolist(), rng.beta(4, 2, 300).tolist(), false_alarm_rate=0.01)
    thresholds = [trade.threshold for trade in found.trades]
    escapes = [trade.escapes for trade in found.trades]
    assert thresholds == sorted(thresholds, reverse=True) and escapes == sorted(
        escapes, reverse=True, key=lambda x: x or 0.0
    )
    assert [trade.promised for trade in found.trades] == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
    assert dataclasses.asdict(found)["num_defective"] == 300


def test_an_escape_rate_that_is_asked_for_holds_in_95_of_100_and_so_do_false_alarms() -> None:
    """The threshold is chosen by the defective images themselves; fresh ones are drawn by the distribution."""
    rng, held, alarms = np.random.default_rng(5), 0, []
    for _ in range(400):
        good, defective = rng.beta(1.0, 8.0, 199), rng.beta(6.0, 2.0, 60)
        found = calibrate(good.tolist(), defective.tolist(), false_alarm_rate=0.1, escape_rate=0.15)
        assert found.escape_bound is not None and found.escape_bound <= 0.15 and found.escapes == 4
        assert found.threshold >= calibrate(good.tolist(), [], false_alarm_rate=0.1).threshold
        held += stats.beta(6.0, 2.0).cdf(found.threshold) <= 0.15
        alarms.append(stats.beta(1.0, 8.0).sf(found.threshold))
    assert held / 400 >= 0.95 - 2.0 * np.sqrt(0.05 * 0.95 / 400) and held / 400 < 1.0
    assert np.mean(alarms) <= 0.1


def test_rates_that_no_threshold_keeps_are_refused_with_what_would() -> None:
    rng = np.random.default_rng(6)
    good, defective = rng.beta(1.0, 8.0, 199).tolist(), rng.beta(6.0, 2.0, 60).tolist()
    with pytest.raises(CalibrationError, match="60 defective images promise .* as low as 0.01: give 299"):
        calibrate(good, defective, false_alarm_rate=0.1, escape_rate=0.01)
    assert calibrate(good, [0.9] * 299, false_alarm_rate=0.1, escape_rate=0.01).escapes == 0
    with pytest.raises(CalibrationError, match="0 defective images promise no rate of escapes"):
        calibrate(good, [], false_alarm_rate=0.1, escape_rate=0.1)
    mixed = rng.beta(1.0, 8.0, 60).tolist()
    with pytest.raises(CalibrationError, match=r"escapes are kept to 0.15 by .* of 199 good images are"):
        calibrate(good, mixed, false_alarm_rate=0.1, escape_rate=0.15)


def test_ties_with_the_threshold_are_called_defective() -> None:
    found = calibrate([0.0] * 30, [0.2] * 5 + [0.5] * 95, false_alarm_rate=0.1, escape_rate=0.15)
    assert found.escapes == 5 and found.threshold <= 0.5
    assert np.sum(np.array([0.5]) < found.threshold) == 0
