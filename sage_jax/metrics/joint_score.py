"""How the score of an image joins verdict, map and pixels: by labelled images, or by how far good ones spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import optimize, special

from sage_jax.axes import Bool, Float
from sage_jax.metrics.calibration import log_odds
from sage_jax.verdict import JointScore

_RIDGE: Final = 1.0
"""Penalty on the weights of standardised features: images that a line tells apart give no weights without end."""

SMALLEST: Final = 1e-12
"""Scores nearer to 0 and 1 are told apart no further; the devices do not round log-odds of confident models."""
_LEAST_SPREAD: Final = (0.5, 0.02, 0.02)
"""Of log-odds, of the map's peak and of the pixels' difference: less tells nothing of a part."""
_MIDDLE: Final = 2.0
"""In spreads above the median: where the joined score of good images alone is one half."""


def learn_weights(
    scores: Sequence[float],
    peaks: Sequence[float],
    defective: Sequence[bool],
    differences: Sequence[float] | None = None,
) -> JointScore:
    """Logistic regression with a ridge, on the log-odds of the verdict, the peak of the map and that of the pixels.

    A weight below 0 would call an image better for more evidence against it: none is.

    Args:
      scores: P(yes) / (P(yes) + P(no)) of each image, 0 to 1.
      peaks: 1 - the least similarity of an image token to the reference.
      defective: Its label; both kinds are needed.
      differences: The largest absolute difference of pixels to the reference, 0 to 1; None = it counts for nothing.

    Raises:
      ValueError: All images have one label.
    """
    labels = np.asarray(defective, bool)
    if labels.all() or not labels.any():
        raise ValueError("weights are learnt on good and defective images: one kind is lacking")
    others = [peaks] if differences is None else [peaks, differences]
    features = np.stack(
        [log_odds(np.asarray(scores), SMALLEST), *(np.asarray(each, np.float64) for each in others)], axis=1
    )
    middle, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    weights, offset = _regression((features - middle) / spread, labels)
    verdict, on_map, *on_pixels = (float(each) for each in weights / spread)
    return JointScore(verdict, on_map, float(offset - weights @ (middle / spread)), *on_pixels)


def spread_weights(
    scores: Sequence[float], peaks: Sequence[float], differences: Sequence[float] | None = None
) -> JointScore:
    """Weights by good images alone: the mean of how far verdict, map and pixels lie above those of good ones.

    Each is counted in spreads, the distance of the 90 % quantile of good images from their median, so that what hardly
    varies among good parts counts for more.

    Args:
      scores, peaks, differences: Of good images, as `learn_weights` takes them.

    Raises:
      ValueError: There is no image.
    """
    if not len(scores):
        raise ValueError("spreads are those of good images: there is none")
    others = [peaks] if differences is None else [peaks, differences]
    features = [log_odds(np.asarray(scores), SMALLEST), *(np.asarray(each, np.float64) for each in others)]
    middle, high = (np.array([np.quantile(each, share) for each in features]) for share in (0.5, 0.9))
    weights = 1.0 / np.maximum(high - middle, _LEAST_SPREAD[: len(features)]) / len(features)
    verdict, on_map, *on_pixels = (float(each) for each in weights)
    return JointScore(verdict, on_map, -float(weights @ middle) - _MIDDLE, *on_pixels)


def _regression(features: Float[np.ndarray, "n k"], labels: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, float]:
    """Weights and offset of least loss; both labels count alike, however many images have them."""
    share, number = labels.mean(), features.shape[1]
    each = np.where(labels, 0.5 / share, 0.5 / (1.0 - share))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, logits = values[:number], features @ values[:number] + values[number]
        error = each * (special.expit(logits) - labels)
        gradient = np.array([*(error @ features + _RIDGE * weights), error.sum()])
        total = each @ (np.logaddexp(0.0, logits) - labels * logits) + 0.5 * _RIDGE * weights @ weights
        return float(total), gradient

    start, bounds = np.array([*[1.0] * number, 0.0]), [*[(0.0, None)] * number, (None, None)]
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:number], float(found[number])
