"""Bootstrap intervals over groups."""

from __future__ import annotations

import numpy as np
import pytest

from sage_jax.metrics.intervals import UNDEFINED, bootstrap, bootstrap_each, bootstrap_mean


def clustered_answers(generator: np.random.Generator, num_images: int, questions: int) -> tuple[np.ndarray, list[int]]:
    """Right and wrong answers to questions that share their image's difficulty, with mean 0.7."""
    chance = generator.beta(1.4, 0.6, size=num_images)
    right = generator.random((num_images, questions)) < chance[:, None]
    return right.ravel().astype(float), np.repeat(np.arange(num_images), questions).tolist()


def test_interval_over_images_covers_the_truth_and_one_over_questions_does_not():
    generator = np.random.default_rng(0)
    covered = {"images": 0, "questions": 0}
    for seed in range(300):
        values, images = clustered_answers(generator, num_images=60, questions=5)
        for name, groups in (("images", images), ("questions", list(range(len(values))))):
            metric = bootstrap_mean(values, groups, samples=300, seed=seed)
            assert metric.low is not None and metric.high is not None
            covered[name] += metric.low <= 0.7 <= metric.high
    assert 0.91 <= covered["images"] / 300 <= 0.985
    assert covered["questions"] / 300 < 0.85


def test_mean_value_and_count_are_those_of_the_known_values():
    values = [1.0, float("nan"), 0.0, 0.5]
    metric = bootstrap_mean(values, ["a", "b", "c", "c"], samples=50)
    assert metric.value == 0.5
    assert metric.n == 3
    assert metric == bootstrap_mean([1.0, 0.0, 0.5], ["a", "c", "c"], samples=50)


def test_mean_interval_equals_resampling_group_by_group():
    generator = np.random.default_rng(1)
    values, groups = generator.normal(size=90), generator.integers(0, 30, size=90).tolist()
    metric = bootstrap_mean(values, groups, samples=4000, seed=3)
    members = [values[np.asarray(groups) == group] for group in sorted(set(groups))]
    draws = []
    for _ in range(4000):
        chosen = generator.integers(0, len(members), size=len(members))
        draws.append(np.concatenate([members[index] for index in chosen]).mean())
    assert metric.low == pytest.approx(np.percentile(draws, 2.5), abs=0.02)
    assert metric.high == pytest.approx(np.percentile(draws, 97.5), abs=0.02)


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(2).normal(size=40)
    first = bootstrap_mean(values, list(range(40)), samples=100, seed=5)
    assert first == bootstrap_mean(values, list(range(40)), samples=100, seed=5)
    assert first != bootstrap_mean(values, list(range(40)), samples=100, seed=6)


def test_interval_does_not_depend_on_how_draws_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = bootstrap_mean(values, list(range(50)), samples=64)
    monkeypatch.setattr("sage_jax.metrics.intervals._CHUNK_WEIGHTS", 7 * 50)
    cut = bootstrap_mean(values, list(range(50)), samples=64)
    assert cut.low == pytest.approx(whole.low) and cut.high == pytest.approx(whole.high)


def test_draws_without_a_value_are_left_out():
    def share_of_first(weights: np.ndarray) -> np.ndarray:
        return np.where(weights[:, 0] > 0, weights[:, 0], np.nan)

    metric = bootstrap(share_of_first, ["a", "b", "c"], samples=200)
    assert metric.low is not None and metric.low >= 1.0


def test_several_statistics_have_the_intervals_that_each_has_alone():
    generator = np.random.default_rng(5)
    values, images = clustered_answers(generator, num_images=30, questions=4)
    first = np.arange(120) < 4

    def of(*masks: np.ndarray):
        def statistics(weights: np.ndarray) -> np.ndarray:
            inside = [weights * mask for mask in masks]
            with np.errstate(invalid="ignore"):  # a draw without the first image
                return np.stack([each @ values / each.sum(-1) for each in inside], axis=1)

        return statistics

    masks, never = (np.ones(120), first, 1 - first), np.zeros(120)
    found = bootstrap_each(of(*masks, never), images, [120, 4, 116, 0], samples=80, seed=7)
    for metric, mask in zip(found[:3], masks, strict=True):
        alone = bootstrap(lambda weights, mask=mask: of(mask)(weights)[:, 0], images, samples=80, seed=7, n=metric.n)
        assert metric == alone and metric.value == pytest.approx(float(np.mean(np.asarray(values)[mask > 0])))
    assert found[3] == UNDEFINED and [metric.n for metric in found[:3]] == [120, 4, 116]
    assert bootstrap_each(of(never), [], [0, 0]) == [UNDEFINED, UNDEFINED]


def test_nothing_measured_is_undefined():
    assert bootstrap_mean([], []) == UNDEFINED
    assert bootstrap_mean([float("nan")], ["a"]) == UNDEFINED


def test_groups_must_match_values():
    with pytest.raises(ValueError, match="2 values with 1 groups"):
        bootstrap_mean([1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="samples = 0"):
        bootstrap_mean([1.0], ["a"], samples=0)
