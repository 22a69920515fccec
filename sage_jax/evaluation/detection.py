"""Detection and localisation of a stage on test records, beside what needs no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from sage_jax.config import ModelConfig
from sage_jax.data.images import decode_mask
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import ChosenRecords, RecordCounts
from sage_jax.data.trees.tiles import image_size
from sage_jax.evaluation.baselines import DifferenceMaps
from sage_jax.evaluation.evaluator import Evaluator, anomaly_map, inspection_record
from sage_jax.metrics.detection import auroc_gain, detection_metrics
from sage_jax.metrics.intervals import Metric
from sage_jax.metrics.localisation import pixel_auroc
from sage_jax.process.stop_request import Watch


def detection(
    name: str, evaluator: Evaluator, records: Sequence[Record], watch: Watch, *, with_reference: bool
) -> dict[str, Metric]:
    """AUROC, average precision and F1 of the anomaly score over distinct images of known state.

    With references also pixel AUROC of the map, and on the same images the baselines: the map's own maximum and the
    absolute difference to the reference, with what the score's AUROC has over theirs, paired by image.
    """
    known = {
        record.image_id: (index, record.anomalous)
        for index, record in enumerate(records)
        if record.anomalous is not None
    }
    images, labels = list(known), [bool(anomalous) for _, anomalous in known.values()]
    asked = _Asked(records, [index for index, _ in known.values()])
    samples = {"samples": evaluator.config.evaluate.bootstrap_samples, "seed": evaluator.config.seed}
    scores: list[float] = []
    similarities: list[np.ndarray] = []
    batches = -(-len(asked) // evaluator.rows(len(asked))) if images else 0
    with watch.progress(batches, unit=f"{name} detection batch") as advance:
        for _, found in evaluator.scores(asked, with_reference=with_reference, advance=advance) if images else ():
            scores.append(float(found.verdict_score[0]))
            similarities.append(np.array(found.similarity))
    metrics = detection_metrics(scores, labels, images, **samples)
    if not with_reference:
        return metrics
    with watch.progress(2 * len(asked), unit=f"{name} map") as advance:
        maps = _Maps(asked, similarities, evaluator.config.model, advance)
        metrics["pixel_auroc"] = pixel_auroc(maps, _Masks(asked), images, **samples)
    with watch.progress(2 * len(asked), unit=f"{name} difference") as advance:
        differences = DifferenceMaps(asked, advance)
        metrics["difference_pixel_auroc"] = pixel_auroc(differences, _Masks(asked), images, **samples)
    by_rule = {
        "map": [1.0 - float(similarity.min()) for similarity in similarities],
        "difference": [differences.score(index) for index in range(len(asked))],
    }
    for rule, others in by_rule.items():
        metrics[f"{rule}_auroc"] = detection_metrics(others, labels, images, **samples)["auroc"]
        metrics[f"gain_over_{rule}"] = auroc_gain(scores, others, labels, images, **samples)
    return metrics


class _Asked(Sequence[Record]):
    """The inspection question on some records of a data set, each read when it is asked for."""

    def __init__(self, records: Sequence[Record], indices: Sequence[int]) -> None:
        self._chosen = ChosenRecords(records, indices)
        self.counts = RecordCounts(questions=1, references=self._chosen.counts.references)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        return inspection_record(self._chosen[index])


class _Maps(Sequence[np.ndarray]):
    """Anomaly maps made from the image tokens when asked for: memory holds a number a token, not a pixel."""

    def __init__(
        self,
        records: Sequence[Record],
        similarities: Sequence[np.ndarray],
        model: ModelConfig,
        advance: Callable[[int], None],
    ) -> None:
        self._records, self._similarities, self._model, self._advance = records, similarities, model, advance
        self._num_made = 0

    def __len__(self) -> int:
        return len(self._similarities)

    def __getitem__(self, index: Any) -> Any:
        found = anomaly_map(self._records[index], self._similarities[index], self._model)[1]
        self._num_made += 1
        self._advance(self._num_made)
        return found


class _Masks(Sequence[np.ndarray | None]):
    """Masks of records, decoded when asked for; None where it is unknown."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        record = self._records[index]
        if record.mask is not None:
            return decode_mask(record.mask)
        if record.anomalous is not False:
            return None
        width, height = image_size(record.test_image, name=record.test_path)
        return np.zeros((height, width), bool)
