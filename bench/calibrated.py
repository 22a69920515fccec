"""Verdicts at the threshold that calibration promises: of the joined score, and of each of its parts alone.

    python -m bench.board_folders --boards ../shared/data/deeppcb --out boards_good
    python -m sage_jax calibrate boards_good/calibrate --model RUN --references boards_good/calibrate_references
    python -m bench.calibrated --run RUN --folder boards_good

`--folder` is what bench/board_folders.py or bench/product_folders.py wrote, and the run has been calibrated on its
`calibrate/` with references. Every part of the score, plain difference of pixels among them, gets a threshold of the
same promise from the same calibration images, and is tried on the images of `test/`, each with its reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import special
from sklearn.metrics import roc_auc_score

import sage_jax
from sage_jax.axes import Bool, Float
from sage_jax.metrics.calibration import conformal_threshold, log_odds
from sage_jax.metrics.joint_score import SMALLEST
from sage_jax.verdict import JointScore


def main() -> None:
    """Prints a line for the joined score and for each of its parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a calibrated run")
    parser.add_argument("--folder", required=True, help="what bench/board_folders.py or bench/product_folders.py wrote")
    options = parser.parse_args()
    run, folder = Path(options.run), Path(options.folder)
    about = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    lines = (run / "calibration/good/inspection.jsonl").read_text(encoding="utf-8").splitlines()
    calibrated = [Path(json.loads(line)["image"]) for line in lines]
    tests = sorted((folder / "test").glob("*/*"))
    inspector = sage_jax.load(run, threshold=0.5)  # the verdict's own score
    good = _parts(inspector, calibrated, [folder / "calibrate_references" / path.name for path in calibrated])
    shown = _parts(inspector, tests, [folder / "references/test" / path.parent.name / path.name for path in tests])
    labels = np.array([path.parent.name != "good" for path in tests])
    if about["joint_score"]:
        joint = JointScore(**about["joint_score"])
        good, shown = ({"joined": _joined(parts, joint), **parts} for parts in (good, shown))
    for name, values in shown.items():
        line = {"what": name, "images": len(tests), "false_alarms_promised": about["promised"]}
        line["right_by_one_answer"] = round(float(max(labels.mean(), 1.0 - labels.mean())), 3)
        print(json.dumps(line | at_its_threshold(good[name], values, labels, about["false_alarm_rate"])), flush=True)


def at_its_threshold(
    good: Float[np.ndarray, " g"], shown: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], rate: float
) -> dict[str, float]:
    """AUROC, and right verdicts, false alarms and escapes at the threshold that good images promise a rate by.

    Args:
      good: Of the calibration, 0 to 1.
      shown: Of images with known labels.
      labels: Whether each is defective.
    """
    called = shown >= conformal_threshold(good, rate)[0]
    return {
        "auroc": round(float(roc_auc_score(labels, shown)), 4),
        "right": round(float(np.mean(called == labels)), 3),
        "false_alarms": round(float(np.mean(called[~labels])), 3),
        "escapes": round(float(np.mean(~called[labels])), 3),
    }


def _parts(
    inspector: sage_jax.Inspector, images: Sequence[Path], references: Sequence[Path]
) -> dict[str, Float[np.ndarray, " n"]]:
    """The parts of the score of each image with its reference."""
    found = [inspector.inspect(path, each) for path, each in zip(images, references, strict=True)]
    parts = {"verdict": [one.score for one in found], "map": [one.map_peak for one in found]}
    if found[0].difference_peak is not None:
        parts["difference"] = [one.difference_peak for one in found]
    return {name: np.asarray(values, np.float64) for name, values in parts.items()}


def _joined(parts: dict[str, Float[np.ndarray, " n"]], joint: JointScore) -> Float[np.ndarray, " n"]:
    odds = joint.verdict * log_odds(parts["verdict"], SMALLEST) + joint.map * parts["map"] + joint.offset
    return special.expit(odds + joint.difference * parts.get("difference", np.zeros(len(odds))))


if __name__ == "__main__":
    main()
