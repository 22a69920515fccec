"""How the score of an image joins the verdict with the map: two weights and an offset, learnt on labelled images."""

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


def learn_weights(scores: Sequence[float], peaks: Sequence[float], defective: Sequence[bool]) -> JointScore:
    """Logistic regression with a ridge, on the log-odds of the verdict and the peak of the map.

    A weight below 0 would call an image better for more evidence against it: none is.

    Args:
      scores: P(yes) / (P(yes) + P(no)) of each image, 0 to 1.
      peaks: 1 - the least similarity of an image token to the reference.
      defective: Its label; both kinds are needed.

    Raises:
      ValueError: All images have one label.
    """
    labels = np.asarray(defective, bool)
    if labels.all() or not labels.any():
        raise ValueError("weights are learnt on good and defective images: one kind is lacking")
    features = np.stack([log_odds(np.asarray(scores)), np.asarray(peaks, np.float64)], axis=1)
    middle, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    found = _regression((features - middle) / spread, labels)
    verdict, on_map = found[:2] / spread
    return JointScore(float(verdict), float(on_map), float(found[2] - found[:2] @ (middle / spread)))


def _regression(features: Float[np.ndarray, "n 2"], labels: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " 3"]:
    """Weights and offset of least loss; both labels count alike, however many images have them."""
    share = labels.mean()
    each = np.where(labels, 0.5 / share, 0.5 / (1.0 - share))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        logits = features @ values[:2] + values[2]
        error = each * (special.expit(logits) - labels)
        gradient = np.array([*(error @ features + _RIDGE * values[:2]), error.sum()])
        total = each @ (np.logaddexp(0.0, logits) - labels * logits) + 0.5 * _RIDGE * values[:2] @ values[:2]
        return float(total), gradient

    bounds = [(0.0, None), (0.0, None), (None, None)]
    return optimize.minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
