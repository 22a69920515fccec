"""What part of a calibration's images teaches a score to join the verdict with the map, and what that brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy import special

from sage_jax.config import Config
from sage_jax.journal.run_log import RunLog
from sage_jax.metrics.calibration import log_odds, supports
from sage_jax.metrics.joint_score import SMALLEST, learn_weights, spread_weights
from sage_jax.verdict import JointScore

_LEAST: Final = {"good": 10, "defective": 5}
"""Images of each label without which nothing is learnt."""
_EVERY: Final = {"good": 3, "defective": 2}
"""One image in so many teaches; the threshold is found on the others, which the weights have not seen."""

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of an inspection by label."""


def shares_to_learn_on(config: Config, numbers: Mapping[str, int]) -> dict[str, range]:
    """Images of each label, by number, that teach the score; none where the others would not support the rates.

    Where there are too few defective ones, or the others would be too few, good ones alone.

    Args:
      numbers: Images of each label.
    """
    options = config.calibrate
    if not options.join_map or not (options.references or config.inspect.references):
        return {}
    shares = {label: range(every - 1, numbers.get(label, 0), every) for label, every in _EVERY.items()}
    rates = {"false_alarm_rate": options.false_alarm_rate, "escape_rate": options.escape_rate}
    for labels in (("good", "defective"), ("good",)):
        taught = {label: shares[label] for label in labels if len(shares[label]) >= _LEAST[label]}
        left = {label: numbers.get(label, 0) - len(taught.get(label, ())) for label in _EVERY}
        if len(taught) == len(labels) and supports(left["good"], left["defective"], **rates):
            return taught
    return {}


def others(number: int, share: range | None) -> list[int]:
    """The numbers of the images that do not teach."""
    return [index for index in range(number) if share is None or index not in share]


def learn_joint_score(rows: Rows, log: RunLog) -> JointScore | None:
    """The weights of verdict, map and pixels; None where too few images can be read, or nothing tells them apart.

    Args:
      rows: Those that teach; of good images alone the weights are those of how far good ones spread.
    """
    rows = {label: found for label, found in rows.items() if len(found) >= _LEAST[label]}
    if "good" not in rows:
        log.line("too few images can be read to join verdict and map: the score is the verdict's alone")
        return None
    every = [(row, label == "defective") for label, found in rows.items() for row in found]
    known = all(row.get("difference_peak") is not None for row, _ in every)
    scores, peaks = [row["score"] for row, _ in every], [row["map_peak"] for row, _ in every]
    apart = [row["difference_peak"] for row, _ in every] if known else None
    numbers = f"{len(rows['good'])} good"
    if "defective" in rows:
        found = learn_weights(scores, peaks, [defective for _, defective in every], apart)
        how = f"learnt on {numbers} and {len(rows['defective'])} defective images"
    else:
        found, how = spread_weights(scores, peaks, apart), f"by how far {numbers} images spread"
    if not (found.verdict or found.map or found.difference):
        log.line("neither verdict nor map tells these images apart: the score is the verdict's alone")
        return None
    pixels = f"+ {found.difference:.3f} x largest difference of pixels " if found.difference else ""
    log.line(
        f"score: sigmoid({found.verdict:.3f} x log-odds of the verdict + {found.map:.3f} x peak of the map {pixels}"
        f"{found.offset:+.3f}), {how}"
    )
    return found


def told_gain(rows: Rows, joint: JointScore) -> str:
    """AUROC of the joined score beside those of what it joins, on images that did not teach it."""
    from sklearn.metrics import roc_auc_score

    labels = [label == "defective" for label, found in rows.items() for _ in found]
    if all(labels) or not any(labels):
        return "of the other images none that can be read are defective: what joining brings is not known"
    every = [row for found in rows.values() for row in found]
    scores, peaks = np.array([row["score"] for row in every]), np.array([row["map_peak"] for row in every])
    named, odds = {"joined": scores, "the map": peaks}, log_odds(scores, SMALLEST) - joint.map * peaks - joint.offset
    if joint.difference:
        named["difference of pixels"] = np.array([row["difference_peak"] for row in every])
        odds = odds - joint.difference * named["difference of pixels"]
    if joint.verdict > 0.0:
        named["the verdict"] = special.expit(odds / joint.verdict)
    return "AUROC on the other images: " + ", ".join(
        f"{name} {roc_auc_score(labels, values):.4f}" for name, values in named.items()
    )
