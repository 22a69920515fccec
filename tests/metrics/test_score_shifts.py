"""Shifts of scores: each kind of part keeps the promised rate by itself, under one threshold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from sage_jax.metrics.calibration import RESOLUTION, CalibrationError, calibrate, conformal_threshold
from sage_jax.metrics.score_shifts import learn_shifts, shifted
from sage_jax.verdict import ScoreShifts

MEANS = {"gear": -7.0, "bolt": -1.0, "ring": 2.5}
"""Log-odds of good images: a model that finds good rings suspect."""


def draw(rng: np.random.Generator, number: int) -> dict[str, list[float]]:
    return {name: special.expit(rng.normal(mean, 1.0, number)).tolist() for name, mean in MEANS.items()}


def shifted_all(scores: dict[str, list[float]], shifts: ScoreShifts) -> dict[str, np.ndarray]:
    return {name: shifted(each, shifts.of(name)) for name, each in scores.items()}


def test_each_kind_keeps_the_promised_rate_on_fresh_images_where_one_threshold_for_all_does_not() -> None:
    rng, rates, plain_rates, promised = np.random.default_rng(1), [], [], 5 / 101
    for _ in range(20):
        good, fresh = draw(rng, 100), draw(rng, 2000)
        shifts = learn_shifts(good, false_alarm_rate=0.05)
        assert set(shifts.of_category) == set(MEANS)
        moved = shifted_all(good, shifts)
        found = calibrate(
            np.concatenate([*moved.values()]).tolist(),
            [],
            false_alarm_rate=0.05,
            groups=[each.tolist() for each in moved.values()],
        )
        assert found.threshold == pytest.approx(0.5, abs=3e-6) and found.promised == promised
        assert found.num_good == 300 and found.false_alarms == 12  # 4 of each kind
        rates.append([np.mean(each >= found.threshold) for each in shifted_all(fresh, shifts).values()])
        together = conformal_threshold(np.concatenate([*good.values()]), 0.05)[0]
        plain_rates.append([np.mean(np.array(each) >= together) for each in fresh.values()])
    spread = stats.beta(5, 96).std() / np.sqrt(20)
    np.testing.assert_allclose(np.mean(rates, axis=0), promised, atol=3.0 * spread)
    assert np.mean(plain_rates, axis=0)[2] > 0.1, "the rings get all false alarms under one threshold"
    assert np.mean(plain_rates, axis=0)[0] == 0.0


def test_thresholds_of_other_rates_keep_theirs_in_each_kind() -> None:
    good = draw(np.random.default_rng(2), 199)
    moved = shifted_all(good, learn_shifts(good, false_alarm_rate=0.05))
    found = calibrate(
        np.concatenate([*moved.values()]).tolist(),
        [0.9],
        false_alarm_rate=0.05,
        groups=[each.tolist() for each in moved.values()],
    )
    assert len(found.trades) >= 5
    for trade in found.trades:
        for scores in moved.values():
            assert (np.sum(scores >= trade.threshold) + 1) / 200 <= trade.promised + 1e-9


def test_kinds_of_few_images_and_of_hopeless_scores_have_the_threshold_of_all() -> None:
    good = draw(np.random.default_rng(3), 60) | {"few": [0.2, 0.3], "lost": [1.0] * 30}
    shifts = learn_shifts(good, false_alarm_rate=0.2)
    assert set(shifts.of_category) == set(MEANS)
    together = conformal_threshold(np.concatenate([*good.values()]), 0.2)[0]
    assert shifts.of("few") == shifts.of("lost") == shifts.of("never seen") == shifts.others
    assert shifts.others == pytest.approx(-special.logit(min(together, 1.0 - RESOLUTION)))
    with pytest.raises(CalibrationError, match="as high as a defective one"):
        learn_shifts(draw(np.random.default_rng(3), 60) | {"lost": [1.0] * 60}, false_alarm_rate=0.05)


def test_one_kind_or_too_few_of_each_are_not_told_apart() -> None:
    assert not learn_shifts({"gear": [0.1] * 100}, false_alarm_rate=0.05)
    assert not learn_shifts({name: [0.1] * 18 for name in MEANS}, false_alarm_rate=0.05)
    assert ScoreShifts({"metal nut": 1.0}, 2.0).of("Metal_nut") == 1.0 and ScoreShifts({"": 1.0}, 2.0).of("part") == 1.0
    assert ScoreShifts({"gear": 1.0}).covers("Gear") and not ScoreShifts({"gear": 1.0}).covers("part")
    assert ScoreShifts().covers("anything")
    assert ScoreShifts().of("gear") == 0.0 and bool(ScoreShifts({"gear": 0.0})) and bool(ScoreShifts(others=1.0))


def test_a_shift_is_added_to_log_odds() -> None:
    scores = np.random.default_rng(4).uniform(0.01, 0.99, 20)
    odds = scores / (1.0 - scores) * np.exp(-1.5)
    np.testing.assert_allclose(shifted(scores.tolist(), -1.5), odds / (1.0 + odds), rtol=1e-9)
    assert np.isfinite(special.logit(shifted([0.0, 1.0], 3.0))).all()
