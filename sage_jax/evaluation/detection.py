"""Detection and localisation of a stage on test records, beside what needs no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, overload

import numpy as np

from sage_jax.axes import Float
from sage_jax.config import Config
from sage_jax.data.adpl.preferences import cell_of
from sage_jax.data.images import decode_mask
from sage_jax.data.records import Box, Record
from sage_jax.data.trees.encode import ChosenRecords, RecordCounts
from sage_jax.data.trees.tiles import image_size
from sage_jax.evaluation.baselines import DifferenceMaps
from sage_jax.evaluation.evaluator import Evaluator, inspection_record
from sage_jax.evaluation.maps import anomaly_map
from sage_jax.metrics.detection import auroc_gain, detection_metrics
from sage_jax.metrics.intervals import Metric
from sage_jax.metrics.localisation import peak_boxes
from sage_jax.metrics.pixels import pixel_metrics
from sage_jax.process.stop_request import Watch
from sage_jax.verdict import Language

CATEGORY_METRICS: Final = ("auroc", "average_precision", "f1_max", "pixel_auroc", "aupro")
"""What is given for each category of a data set of several."""


@dataclasses.dataclass(frozen=True)
class Detected:
    """Detection over a data set.

    Attributes:
      metrics: Over all images together.
      by_category: `CATEGORY_METRICS` of each category, by its name; empty where there is one category alone.
      cells: With references, by image id, the cells of the 3x3 grid that hold the middle of a region of the map, as
        inspection draws boxes around them; none where the map reaches its level nowhere.
    """

    metrics: dict[str, Metric]
    by_category: dict[str, dict[str, Metric]]
    cells: dict[str, frozenset[str]]

    @property
    def means(self) -> dict[str, float]:
        """Means over the categories in which a metric is defined, as the field reports them."""
        found = {
            name: [
                value for each in self.by_category.values() if name in each and (value := each[name].value) is not None
            ]
            for name in CATEGORY_METRICS
        }
        return {name: float(np.mean(values)) for name, values in found.items() if values}


def detection(
    name: str, evaluator: Evaluator, records: Sequence[Record], watch: Watch, *, with_reference: bool
) -> Detected:
    """AUROC, average precision and F1 of the anomaly score over distinct images of known state.

    With references also the map's metrics over pixels, and on the same images the baselines: the map's own maximum and
    the absolute difference to the reference, with what the score's AUROC has over theirs, paired by image.
    """
    known = {
        record.image_id: (index, record.anomalous, record.category)
        for index, record in enumerate(records)
        if record.anomalous is not None
    }
    images, labels = list(known), [bool(anomalous) for _, anomalous, _ in known.values()]
    asked = _Asked(records, [index for index, *_ in known.values()], evaluator.chat.language)
    samples = {"samples": evaluator.config.evaluate.bootstrap_samples, "seed": evaluator.config.seed}
    scores: list[float] = []
    similarities: list[np.ndarray] = []
    batches = -(-len(asked) // evaluator.rows(len(asked))) if images else 0
    with watch.progress(batches, unit=f"{name} detection batch") as advance:
        for _, found in evaluator.scores(asked, with_reference=with_reference, advance=advance) if images else ():
            scores.append(float(found.verdict_score[0]))
            similarities.append(np.array(found.similarity))
    members: dict[str, list[int]] = {}
    for index, (_, _, category) in enumerate(known.values()):
        members.setdefault(category, []).append(index)
    members = dict(sorted(members.items())) if len(members) > 1 else {}
    metrics = detection_metrics(scores, labels, images, **samples)
    parts = {
        category: detection_metrics(
            [scores[index] for index in chosen],
            [labels[index] for index in chosen],
            [images[index] for index in chosen],
            **samples,
        )
        for category, chosen in members.items()
    }
    cells: dict[str, frozenset[str]] = {}
    if with_reference:
        with watch.progress(2 * len(asked) * (1 + bool(members)), unit=f"{name} map") as advance:
            maps = _Maps(asked, similarities, evaluator.config, advance)
            metrics |= pixel_metrics(maps, _Masks(asked), images, **samples)
            for category, chosen in members.items():
                shown, masks = ChosenItems(maps, chosen), ChosenItems(_Masks(asked), chosen)
                parts[category] |= pixel_metrics(shown, masks, [images[index] for index in chosen], **samples)
        cells = {image: maps.cells[index] for index, image in enumerate(images) if index in maps.cells}
        metrics |= _baselines(name, asked, watch, scores, labels, images, similarities, samples)
    by_category = {
        category: {each: value for each, value in found.items() if each in CATEGORY_METRICS}
        for category, found in parts.items()
    }
    return Detected(metrics, by_category, cells)


def _baselines(
    name: str,
    asked: Sequence[Record],
    watch: Watch,
    scores: Sequence[float],
    labels: Sequence[bool],
    images: Sequence[str],
    similarities: Sequence[np.ndarray],
    samples: dict[str, int],
) -> dict[str, Metric]:
    """What the map's maximum alone and the absolute difference get on the same images."""
    with watch.progress(2 * len(asked), unit=f"{name} difference") as advance:
        differences = DifferenceMaps(asked, advance)
        of_pixels = pixel_metrics(differences, _Masks(asked), images, **samples)
    metrics = {f"difference_{each}": of_pixels[each] for each in ("pixel_auroc", "aupro")}
    by_rule = {
        "map": [1.0 - float(similarity.min()) for similarity in similarities],
        "difference": [differences.score(index) for index in range(len(asked))],
    }
    for rule, others in by_rule.items():
        metrics[f"{rule}_auroc"] = detection_metrics(others, labels, images, **samples)["auroc"]
        metrics[f"gain_over_{rule}"] = auroc_gain(scores, others, labels, images, **samples)
    return metrics


def cells_of_regions(values: Float[np.ndarray, "H W"], level: float = 0.5) -> frozenset[str]:
    """The cells of the 3x3 grid that hold the middle of a region in which a map reaches the level.

    Args:
      level: By default that from which inspection draws boxes (`inspect.map_threshold`).
    """
    height, width = values.shape
    boxes = peak_boxes(values, threshold=level, max_boxes=values.size)
    return frozenset(cell_of(Box(*sides), width, height) for *sides, _ in boxes)


class ChosenItems(Sequence[Any]):
    """Some items of a sequence, each asked for when it is read."""

    def __init__(self, items: Sequence[Any], indices: Sequence[int]) -> None:
        self._items, self._indices = items, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._items[self._indices[index]]


class _Asked(Sequence[Record]):
    """The inspection question on some records of a data set, each read when it is asked for."""

    def __init__(self, records: Sequence[Record], indices: Sequence[int], language: Language) -> None:
        self._language: Language = language
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
        return inspection_record(self._chosen[index], self._language)


class _Maps(Sequence[np.ndarray]):
    """Anomaly maps made from the image tokens when asked for: memory holds a number a token, not a pixel.

    Attributes:
      cells: Of each map that was made, by its number, the cells of its regions' middles.
    """

    def __init__(
        self,
        records: Sequence[Record],
        similarities: Sequence[np.ndarray],
        config: Config,
        advance: Callable[[int], None],
    ) -> None:
        self._records, self._similarities, self._config, self._advance = records, similarities, config, advance
        self._num_made = 0
        self.cells: dict[int, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._similarities)

    def __getitem__(self, index: Any) -> Any:
        found = anomaly_map(self._records[index], self._similarities[index], self._config)
        if index not in self.cells:
            self.cells[index] = cells_of_regions(found.tokens)
        self._num_made += 1
        self._advance(self._num_made)
        return found.values


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
