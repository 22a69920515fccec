"""The picture of a calibration: scores with the threshold, and escapes against false alarms."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sage_jax.metrics.calibration import Calibration, log_odds
from sage_jax.process.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GOOD, _DEFECTIVE, _INK = "#20639b", "#c8553d", "#1f2933"
_BINS = 40


def plot_calibration(found: Calibration, good: Sequence[float], defective: Sequence[float], output: Path) -> None:
    """Draws histograms of the scores with the threshold, escapes against false alarms, and reliability; a PNG.

    The two last need defective images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0 if len(defective) else 4.2, 3.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3 if len(defective) else 1, squeeze=False)[0]
    _histogram(panels[0], found, good, defective)
    if len(defective):
        _escapes(panels[1], found, np.asarray(good), np.asarray(defective))
        _reliability(panels[2], found, np.asarray(good), np.asarray(defective))
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    replace_file(output, picture.getvalue())


def _histogram(panel: Axes, found: Calibration, good: Sequence[float], defective: Sequence[float]) -> None:
    every = log_odds(np.array([*good, *defective, found.threshold]))
    edges = np.linspace(every.min() - 0.5, every.max() + 0.5, _BINS + 1).tolist()
    panel.hist(log_odds(np.asarray(good)), edges, color=_GOOD, alpha=0.7, label=f"{len(good)} good")
    if len(defective):
        label = f"{len(defective)} defective"
        panel.hist(log_odds(np.asarray(defective)), edges, color=_DEFECTIVE, alpha=0.7, label=label)
    threshold = float(log_odds(np.array([found.threshold]))[0])
    panel.axvline(threshold, color=_INK, linestyle="--", label=f"threshold {found.threshold:.6g}")
    panel.set(xlabel="log-odds of the anomaly score", ylabel="images", yscale="log")
    panel.legend(fontsize=8, loc="upper center")


def _escapes(panel: Axes, found: Calibration, good: np.ndarray, defective: np.ndarray) -> None:
    thresholds = np.unique(np.concatenate([good, defective, [found.threshold]]))
    alarms = [float(np.mean(good >= value)) for value in thresholds]
    escapes = [float(np.mean(defective < value)) for value in thresholds]
    panel.step(alarms, escapes, color=_INK, where="post")
    chosen = float(np.mean(good >= found.threshold)), float(np.mean(defective < found.threshold))
    panel.plot(*chosen, "o", color=_DEFECTIVE, label=f"threshold {found.threshold:.6g}")
    panel.set(xlabel="false alarms, share of good images", ylabel="escapes, share of defective images")
    panel.legend(fontsize=8)


def _reliability(panel: Axes, found: Calibration, good: np.ndarray, defective: np.ndarray) -> None:
    scores = np.concatenate([good, defective])
    labels = np.repeat([0.0, 1.0], [len(good), len(defective)])
    probability = found.probability(scores)
    which = np.minimum((probability * 10).astype(int), 9)
    filled = [part for part in range(10) if np.any(which == part)]
    mean = [float(probability[which == part].mean()) for part in filled]
    share = [float(labels[which == part].mean()) for part in filled]
    panel.plot([0, 1], [0, 1], color="#c7cdd4")
    panel.plot(mean, share, "o-", color=_GOOD)
    error = "" if found.calibration_error is None else f"expected error {found.calibration_error:.3f}"
    panel.set(xlabel="calibrated probability of a defect", ylabel="share of defective images", title=error)
