"""The report of an inspection: the rows that need a look, with pictures made from the files again."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from sage_jax.axes import UInt8
from sage_jax.config import InspectConfig
from sage_jax.data.images import decode_rgb, remembered_rgb
from sage_jax.inspection.finished_rows import RowJournal
from sage_jax.inspection.images import Images, InputImage
from sage_jax.inspection.overlay import picture, small_picture
from sage_jax.inspection.report import (
    InspectionRow,
    Pictures,
    Totals,
    choose_rows,
    write_report,
)
from sage_jax.inspection.scores import ScoreCounts, count_scores, ticks
from sage_jax.journal.run_log import RunLog

_LARGE_PICTURES: Final = 50
"""Rows of a page that get pictures of 1024 px; with more, they are small, or no browser would open it."""
_MOST_AT_ONCE: Final = 4
"""Rows whose pictures are made at once."""
_KEPT_PICTURES: Final = 8
"""Pictures of references that a page's rows share."""

_Encode = Callable[[UInt8[np.ndarray, "H W 3"]], bytes]


def write_page(
    path: Path,
    images: Images,
    journal: RowJournal,
    offsets: np.ndarray,
    totals: Totals,
    *,
    about: Mapping[str, str],
    config: InspectConfig,
    log: RunLog,
) -> None:
    """Writes the report, with pictures made from the files, those of a few rows at once.

    Args:
      path: The HTML file.
      images: What was inspected.
      journal: Its rows.
      offsets: Where the journal has each image's row.
      totals: Counts over all rows.
      about: What answered, by label.
      config: How many rows are shown, and the threshold.
      log: Shows the progress.
    """
    chosen = choose_rows(journal.rows(offsets), config.report_images)
    rows = list(journal.rows(offsets[chosen]))
    facts = {**about, "Images": str(totals.images), "With reference": str(totals.one_shot)}
    encode = small_picture if len(rows) > _LARGE_PICTURES else picture

    @functools.lru_cache(maxsize=_KEPT_PICTURES)
    def reference_picture(content: bytes) -> bytes:
        return encode(remembered_rgb(content, name="reference", keep=False))

    def make(position: int) -> Pictures:
        return _pictures(images.read(chosen[position]), rows[position], encode, reference_picture)

    with (
        ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="draw") as pool,
        log.progress(len(rows), unit="report row") as advance,
    ):
        left, ahead = iter(range(len(rows))), deque[Future[Pictures]]()

        def pictures(position: int) -> Pictures:
            ahead.extend(pool.submit(make, each) for each in itertools.islice(left, 1 + _MOST_AT_ONCE - len(ahead)))
            made = ahead.popleft().result()
            advance(position + 1)
            return made

        write_report(
            path,
            rows,
            title="Inspection report",
            facts=facts,
            pictures=pictures,
            totals=totals,
            threshold=config.threshold,
            scores=score_panel(count_scores(journal.rows(offsets), config.threshold)),
        )


def score_panel(counts: ScoreCounts) -> dict[str, Any]:
    """What the page shows of the scores of all images; nothing of no image."""
    if not any(above[0] for above in counts.at_or_above.values()):
        return {}
    slider = {"thresholds": counts.thresholds, "positions": counts.positions, "above": counts.at_or_above}
    return {"slider": slider, "chosen": counts.chosen, "bars": counts.bars(), "ticks": ticks()}


def _pictures(
    input_image: InputImage, row: InspectionRow, encode: _Encode, encode_reference: Callable[[bytes], bytes]
) -> Pictures:
    """A row's pictures; none of a file that is gone since."""
    record = input_image.record
    if row.verdict == "unreadable" or record is None:
        return Pictures()
    test = encode(remembered_rgb(record.test_image, name=record.test_path, keep=False))
    if record.reference_image is None or not Path(row.overlay_path).is_file():
        return Pictures(test)
    drawn = Path(row.overlay_path).read_bytes()
    shown = drawn if encode is picture else encode(decode_rgb(drawn, name=row.overlay_path))
    return Pictures(test, encode_reference(record.reference_image), shown)
