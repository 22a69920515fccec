"""`summary.json`: what each stage cost and scored."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sage_jax.config import TRAINING_STAGES, ConfigError
from sage_jax.metrics.intervals import Metric
from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.process.files import replace_file
from sage_jax.process.peak_memory import PeakMemory
from sage_jax.process.shortages import raise_if_lacking

MODELS: Final = tuple(TRAINING_STAGES)
MODES: Final = ("zero_shot", "one_shot")
METRICS: Final = {
    "reason_kind": "Right kind",
    "reason_place": "Right place",
    "reason_both": "Right kind and place",
    "named_though_good": "Defect named on good parts",
    "consistency": "Consistency",
    "place_agreement": "Place in words and map",
    "verdict_accuracy": "Verdict accuracy",
    "kinds_told_apart": "Kinds told apart",
    "acc_g": "Acc-G",
    "auroc": "AUROC",
    "map_auroc": "AUROC of the map alone",
    "difference_auroc": "AUROC of absolute difference",
    "gain_over_map": "AUROC over the map's",
    "gain_over_difference": "AUROC over the difference's",
    "average_precision": "Average precision",
    "f1": "F1",
    "f1_max": "F1 at its best threshold",
    "pixel_auroc": "Pixel AUROC",
    "pixel_average_precision": "Pixel average precision",
    "pixel_f1_max": "Pixel F1 at its best threshold",
    "aupro": "AUPRO",
    "difference_pixel_auroc": "Pixel AUROC of absolute difference",
    "difference_aupro": "AUPRO of absolute difference",
    "mle": "MLE",
    "mle_accuracy_defective": "MLE kind, defective",
    "mle_localization_defective": "MLE place, defective",
    "mle_logic_defective": "MLE logic, defective",
    "mle_all_right_defective": "All of MLE right, defective",
    "mle_accuracy_good": "MLE kind, good",
    "mle_localization_good": "MLE place, good",
    "mle_logic_good": "MLE logic, good",
    "ranking_best_worst": "Best > worst",
    "ranking_adjacent": "Adjacent",
}
"""Names of all metrics of an evaluation, those that lead first."""

JUDGED_METRICS: Final = {
    "judge": "MLE by a language model",
    "judge_accuracy": "Its kind",
    "judge_localization": "Its place",
    "judge_logic": "Its logic",
    "judge_variance": "Its variance between repetitions",
    "judge_kappa_accuracy": "Agreement with the rubric on kind",
    "judge_kappa_localization": "Agreement with the rubric on place",
    "judge_kappa_logic": "Agreement with the rubric on logic",
    "sbert": "SBERT similarity",
}
"""Names of the metrics that stage `judge` adds to those of an evaluation."""


def load_summary(path: Path) -> dict[str, Any]:
    """The content of a `summary.json`, with empty `stages` and `metrics` where there is no file yet.

    Raises:
      ConfigError: The file is no summary.
    """
    try:
        summary = open_json(path.read_text(encoding="utf-8"), always=False)
    except FileNotFoundError:
        return {"stages": {}, "metrics": {}}
    except (OSError, ValueError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(f"{path}: cannot be read ({error}); delete it and run the stage evaluate again") from None
    for name in ("stages", "metrics"):
        if not isinstance(summary.setdefault(name, {}), dict):
            raise ConfigError(f"{path}: expected an object {name}; delete it and run the stage evaluate again")
    return summary


def record_cost(
    path: Path,
    stage: str,
    *,
    seconds: float,
    peak_memory_gb: float,
    shares: Mapping[str, float] | None = None,
    counts: Mapping[str, float] | None = None,
    resumed: bool = False,
) -> None:
    """Writes a stage's wall-clock seconds and peak memory (GB, 10^9 bytes) into the summary, all else kept.

    Args:
      path: The summary; made if there is none.
      stage: Any stage of a run.
      seconds: Wall-clock time of the stage.
      peak_memory_gb: See `PeakMemory`.
      shares: What the stage measured of its own work, such as `input_wait` and `padding` of a training stage.
      counts: What it counted or summed up, such as `compilations` and `compile_seconds`.
      resumed: The stage went on from earlier work: its seconds and counts are added, the larger peak stands, shares are
        means over the seconds of both.
    """
    summary = load_summary(path)
    before = summary["stages"].get(stage) if resumed else None
    measured, counted = dict(shares or {}), dict(counts or {})
    if before is not None:
        for name in counted:
            counted[name] += before.get(name, 0.0)
        for name in before.keys() - {"seconds", "peak_memory_gb"} - counted.keys():
            earlier, both = float(before[name]), max(before["seconds"] + seconds, 1e-9)
            measured[name] = (earlier * before["seconds"] + measured.get(name, earlier) * seconds) / both
        seconds, peak_memory_gb = seconds + before["seconds"], max(peak_memory_gb, before["peak_memory_gb"])
    cost = {"seconds": round(seconds, 3), "peak_memory_gb": round(peak_memory_gb, 4)}
    summary["stages"][stage] = cost | {name: round(value, 4) for name, value in sorted((measured | counted).items())}
    write_json(path, sealed_json(summary))


class CostMeter:
    """Wall-clock seconds and peak memory of the stage that runs inside of it."""

    def __enter__(self) -> CostMeter:
        self._start = time.perf_counter()
        self._memory = PeakMemory().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._memory.__exit__(kind, error, trace)

    def record(
        self,
        path: Path,
        stage: str,
        *,
        worked: bool = True,
        resumed: bool = False,
        shares: Mapping[str, float] | None = None,
        counts: Mapping[str, float] | None = None,
    ) -> None:
        """Writes the cost of a stage that has ended; without any work, that of an earlier run stands.

        Args:
          path: The summary.
          stage, resumed, shares, counts: As in `record_cost`.
          worked: Whether the stage had anything to do.
        """
        if worked or stage not in load_summary(path)["stages"]:
            measured = {"seconds": self.seconds, "peak_memory_gb": self._memory.gigabytes}
            record_cost(path, stage, **measured, shares=shares, counts=counts, resumed=resumed)


def record_metrics(
    path: Path, model: str, mode: str, metrics: Mapping[str, Metric], about: Mapping[str, Any] | None = None
) -> None:
    """Writes metrics of one model (the stage that trained it) in one mode into the summary, all others kept.

    An evaluation, which says by `scored_of` what it is of, begins the entry anew: what was measured of earlier answers
    is not of these.

    Args:
      path: The summary; made if there is none.
      model: One of MODELS.
      mode: One of MODES.
      metrics: By name, of METRICS or JUDGED_METRICS.
      about: What stands beside the metrics, by name: JSON values, dataclasses such as Metric, and mappings of these.

    Raises:
      ValueError: A name is unknown, or a value is not finite.
    """
    for name, known in [(model, MODELS), (mode, MODES), *((name, METRICS | JUDGED_METRICS) for name in metrics)]:
        if name not in known:
            raise ValueError(f"summary: {name!r} is none of {', '.join(known)}")
    summary = load_summary(path)
    modes = summary["metrics"].setdefault(model, {})
    entry = modes[mode] = {} if about and "scored_of" in about else modes.get(mode, {})
    entry.update({name: _as_json(name, value) for name, value in {**metrics, **(about or {})}.items()})
    write_json(path, sealed_json(summary))


def _as_json(name: str, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: _as_json(f"{name}.{key}", each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"summary: {name} is {value}: give None where a metric is undefined")
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a summary, or what is made of summaries, as a whole."""
    replace_file(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
