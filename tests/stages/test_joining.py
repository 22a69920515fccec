"""Which images of a calibration teach the joined score, and what is told of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from sage_jax.config import CalibrateConfig, Config
from sage_jax.journal.run_log import RunLog
from sage_jax.stages.joining import learn_joint_score, others, shares_to_learn_on, told_gain

CONFIG = Config(calibrate=CalibrateConfig(good="g", defective="d", references="r", false_alarm_rate=0.05))


def test_a_third_of_the_good_and_half_of_the_defective_images_teach() -> None:
    shares = shares_to_learn_on(CONFIG, {"good": 90, "defective": 20})
    assert {label: len(share) for label, share in shares.items()} == {"good": 30, "defective": 10}
    for label, number in (("good", 90), ("defective", 20)):
        rest = others(number, shares[label])
        assert sorted([*rest, *shares[label]]) == list(range(number)) and not set(rest) & set(shares[label])
    assert others(3, None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"join_map": False}, {"good": 90, "defective": 20}),
        ({"references": ""}, {"good": 90, "defective": 20}),
        ({}, {"good": 29, "defective": 20}),
        ({"false_alarm_rate": 0.015}, {"good": 90, "defective": 20}),
    ],
)
def test_where_the_others_would_not_do_none_teach(fields: dict[str, object], numbers: dict[str, int]) -> None:
    config = dataclasses.replace(CONFIG, calibrate=dataclasses.replace(CONFIG.calibrate, **fields))
    assert shares_to_learn_on(config, numbers) == {}


@pytest.mark.parametrize("numbers", [{"good": 90}, {"good": 90, "defective": 9}])
def test_without_defective_images_enough_good_ones_teach_alone(numbers: dict[str, int]) -> None:
    assert shares_to_learn_on(CONFIG, numbers) == {"good": range(2, 90, 3)}


def test_defective_images_stay_for_the_rate_of_escapes_that_only_all_of_them_promise() -> None:
    config = dataclasses.replace(CONFIG, calibrate=dataclasses.replace(CONFIG.calibrate, escape_rate=0.1))
    assert shares_to_learn_on(config, {"good": 90, "defective": 30}) == {"good": range(2, 90, 3)}
    assert shares_to_learn_on(config, {"good": 90, "defective": 20}) == {}, "29 are needed"


@pytest.mark.parametrize("registered", [False, True])
def test_the_gain_is_told_beside_what_is_joined(tmp_path: Path, registered: bool) -> None:
    rng = np.random.default_rng(0)

    def rows(number: int, middle: float) -> list[dict[str, float | None]]:
        scores = special.expit(rng.normal(middle, 1.5, number))
        peaks, apart = (rng.normal(0.3 + 0.1 * middle, 0.1, number) for _ in range(2))
        return [
            {"score": float(score), "map_peak": float(peak), "difference_peak": float(each) if registered else None}
            for score, peak, each in zip(scores, peaks, apart, strict=True)
        ]

    found = {"good": rows(40, -1.0), "defective": rows(30, 1.0)}
    with RunLog(tmp_path, "calibrate") as log:
        joint = learn_joint_score(found, log)
        few = learn_joint_score({"good": found["good"], "defective": found["defective"][:4]}, log)
        assert few == learn_joint_score({"good": found["good"]}, log) is not None
    assert joint is not None and joint.verdict > 0.0 and joint.map > 0.0 and (joint.difference > 0.0) == registered
    said = (tmp_path / "log.txt").read_text()
    assert "learnt on 40 good and 30 defective images" in said and "too few images can be read" not in said
    assert ("largest difference of pixels" in said) == registered

    def joined(row: dict[str, float | None]) -> float:
        assert joint is not None
        odds = joint.verdict * special.logit(row["score"]) + joint.map * (row["map_peak"] or 0.0) + joint.offset
        return float(special.expit(odds + joint.difference * (row["difference_peak"] or 0.0)))

    by_spread = None
    with RunLog(tmp_path, "calibrate") as log:
        by_spread = learn_joint_score({"good": found["good"]}, log)
        assert learn_joint_score({"good": found["good"][:9]}, log) is None
    assert by_spread is not None and (by_spread.difference > 0.0) == registered
    said = (tmp_path / "log.txt").read_text()
    assert "by how far 40 good images spread" in said and "too few images can be read" in said
    gain = told_gain({label: [{**row, "score": joined(row)} for row in part] for label, part in found.items()}, joint)
    values = {name.rpartition(" ")[0]: float(name.rpartition(" ")[2]) for name in gain.partition(": ")[2].split(", ")}
    labels = np.repeat([False, True], [40, 30])
    plain = np.array([row["score"] for part in found.values() for row in part])
    better = np.mean(plain[labels][:, None] > plain[~labels])
    assert values.keys() == {"joined", "the map", "the verdict"} | ({"difference of pixels"} if registered else set())
    assert abs(values["the verdict"] - better) < 1e-3 and values["joined"] == max(values.values())
