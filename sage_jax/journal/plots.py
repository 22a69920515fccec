"""The loss plot of a run."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sage_jax.axes import Float
from sage_jax.process.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#1f2933"
_FAINT = "#c7cdd4"
_LINE = "#20639b"


def plot_losses(metrics_jsonl: Path, output: Path) -> None:
    """Draws the training loss of each stage against its step, one panel a stage, and writes a PNG.

    Faint: the logged values; strong: their running mean. A step logged twice (a resumed run) is drawn as logged last.
    A loss that is not finite is left out and its step marked at the panel's foot.

    Args:
      metrics_jsonl: Rows with `stage`, `step` and `loss`; rows without a loss (evaluations) are passed over.
      output: The PNG, replaced as a whole.

    Raises:
      ValueError: A line is no JSON object, or no line holds a loss.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = read_losses(metrics_jsonl)
    if not losses:
        raise ValueError(f"{metrics_jsonl}: no row has stage, step and loss; train a stage first")
    with matplotlib.rc_context(
        {
            "font.size": 9,
            "text.color": _INK,
            "axes.edgecolor": _FAINT,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
        }
    ):
        figure = Figure(figsize=(3.6 * len(losses) + 0.4, 3.0), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(losses), squeeze=False)[0]
        for panel, (stage, values) in zip(panels, losses.items(), strict=True):
            _draw(panel, stage, values)
        panels[0].set_ylabel("loss")
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture)
    replace_file(output, picture.getvalue())


def read_losses(metrics_jsonl: Path) -> dict[str, dict[int, float]]:
    """The loss at each logged step of each stage, in the order of first appearance; steps ascending.

    An incomplete last line, as a killed run leaves it, is passed over.

    Raises:
      ValueError: Another line is no JSON object.
    """
    losses: dict[str, dict[int, float]] = {}
    lines = metrics_jsonl.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise ValueError(f"{metrics_jsonl}:{number}: not JSON; remove the line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{metrics_jsonl}:{number}: expected an object; remove the line")
        if {"stage", "step", "loss"} <= row.keys():
            loss = math.nan if row["loss"] is None else float(row["loss"])
            losses.setdefault(str(row["stage"]), {})[int(row["step"])] = loss
    return {stage: dict(sorted(values.items())) for stage, values in losses.items()}


def running_mean(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Mean over a centred window of about a tenth of the values, which narrows towards the ends."""
    half = max(1, len(values) // 20)
    totals = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (totals[index + reach + 1] - totals[index - reach]) / (2 * reach + 1)


def _draw(panel: Axes, stage: str, losses: dict[int, float]) -> None:
    steps, values = np.array(list(losses)), np.array(list(losses.values()))
    finite = np.isfinite(values)
    few = {"marker": "o", "markersize": 3} if finite.sum() < 3 else {}
    panel.plot(steps[finite], values[finite], color=_FAINT, linewidth=1)
    panel.plot(steps[finite], running_mean(values[finite]), color=_LINE, linewidth=1.6, **few)
    if not finite.all():
        foot = panel.get_xaxis_transform()
        panel.plot(steps[~finite], np.zeros((~finite).sum()), "x", color="#b3261e", transform=foot, clip_on=False)
        panel.set_xlabel(f"step (x: {(~finite).sum()} not finite)")
    else:
        panel.set_xlabel("step")
    title = f"{stage}   {running_mean(values[finite])[-1]:.3g} at step {steps[finite][-1]}" if finite.any() else stage
    panel.set_title(title, loc="left", fontsize=9, fontweight="bold")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#eceff2", linewidth=0.8)
    panel.margins(x=0.01)
