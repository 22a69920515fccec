"""A run folder as stage `evaluate` leaves it, without the hours before: predictions and their summary."""

from __future__ import annotations

from pathlib import Path

from sage_jax.journal.summary import record_metrics
from sage_jax.metrics.intervals import Metric
from sage_jax.metrics.mle import judge
from sage_jax.metrics.verdicts import Prediction, write_predictions
from sage_jax.process.checksums import file_sum

KINDS = ("crack", "dent", "scratch")
PLACES = ("top", "left", "right")


def evaluated_folder(folder: Path, *, stages: tuple[str, ...] = ("base", "sfe"), questions: int = 4) -> Path:
    """Writes answers on five images for each stage, one-shot; those of later stages are wrong less often."""
    for position, stage in enumerate(stages):
        write_evaluation(folder, stage, [f"{stage}-{n}" for n in range(5)], questions, wrong=2 - position)
    return folder


def write_evaluation(
    folder: Path, stage: str, images: list[str], questions: int = 4, *, wrong: int = 1, scored_of: str = "first"
) -> None:
    """Writes a stage's predictions and its entry of the summary, as one evaluation does."""
    items, extra = [], []
    for number, image in enumerate(images):
        for question in range(questions):
            best = f"Yes. There is a {KINDS[number % 3]} at the {PLACES[question % 3]}, {image}."
            said = best if (number + question) % 3 >= wrong else f"No. The part is intact, {image}, {question}."
            items.append(Prediction(image, image, f"{image}.png", "x", "", f"Question {question}?", best, said, True))
            mle = judge(said, best, defect_terms=KINDS, places=PLACES)
            extra.append({"mle": {**vars(mle), "average": mle.average}})
    path = folder / "predictions" / f"{stage}_one_shot.jsonl"
    write_predictions(path, items, extra)
    metrics = {"verdict_accuracy": Metric(0.5, 0.4, 0.6, len(items))}
    about = {"data": "drawn", "revision": "0" * 40, "scored_of": scored_of, "predictions": file_sum(path)}
    record_metrics(folder / "summary.json", stage, "one_shot", metrics, about)
