"""Questions to a store that go over all its inspections: the same image again, what people said last, the scores."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from typing import Final

from sage_jax.corrections.entries import CorrectionFault, TrueVerdict
from sage_jax.corrections.store import CorrectionStore

_WAIT_SECONDS: Final = 30.0


@dataclasses.dataclass(frozen=True)
class LabelledScore:
    """A score with what a person said of its image.

    Attributes:
      score: Anomaly score, 0 to 1.
      truth: The verdict of the standing correction; None without one.
    """

    score: float
    truth: TrueVerdict | None


def inspection_of(store: CorrectionStore, image: str, source: str, model: str) -> int | None:
    """The last inspection of an image that came from a source, by a model; None without one.

    Args:
      image: Digest of the image.
      source, model: As in `Finding`.

    Raises:
      CorrectionFault: The store cannot be read.
    """
    query = "SELECT MAX(id) FROM inspections WHERE image = ? AND source = ? AND model = ?"
    with _reading(store) as connection:
        (found,) = connection.execute(query, (image, source, model)).fetchone()
    return found


def latest_said(store: CorrectionStore, *, limit: int = 50, offset: int = 0) -> list[tuple[int, int]]:
    """What people said last, undos too: the inspection and the row of its history, the last first.

    Raises:
      CorrectionFault: The store cannot be read.
    """
    query = "SELECT inspection, id FROM corrections ORDER BY id DESC LIMIT ? OFFSET ?"
    with _reading(store) as connection:
        return list(connection.execute(query, (limit, offset)))


def pending_by_score(store: CorrectionStore, *, limit: int = 50, offset: int = 0, category: str = "") -> list[int]:
    """Inspections without a standing correction, the highest score first.

    Args:
      limit: Most to return.
      offset: How many to pass over.
      category: Only this kind of part; "" = all.

    Raises:
      CorrectionFault: The store cannot be read.
    """
    query = (
        "SELECT id FROM inspections WHERE (category = ? OR ? = '') AND id NOT IN (SELECT inspection FROM standing) "
        "ORDER BY score DESC, id DESC LIMIT ? OFFSET ?"
    )
    with _reading(store) as connection:
        return [number for (number,) in connection.execute(query, (category, category, limit, offset))]


def categories(store: CorrectionStore) -> list[str]:
    """Kinds of parts of which there are inspections, in alphabetic order.

    Raises:
      CorrectionFault: The store cannot be read.
    """
    with _reading(store) as connection:
        return [name for (name,) in connection.execute("SELECT DISTINCT category FROM inspections ORDER BY category")]


def scores(store: CorrectionStore, model: str = "") -> Iterator[LabelledScore]:
    """The scores of all inspections whose verdict is good or defective, of a model or of all, in no order.

    Raises:
      CorrectionFault: The store cannot be read.
    """
    query = (
        "SELECT i.score, c.verdict FROM inspections AS i LEFT JOIN standing AS c ON c.inspection = i.id "
        "WHERE i.verdict <> 'unsure' AND (i.model = ? OR ? = '')"
    )
    with _reading(store) as connection:
        for score, truth in connection.execute(query, (model, model)):
            yield LabelledScore(score, truth)


def last_model(store: CorrectionStore) -> tuple[str, float] | None:
    """Revision and threshold of the model that inspected last; None without an inspection.

    Raises:
      CorrectionFault: The store cannot be read.
    """
    with _reading(store) as connection:
        return connection.execute("SELECT model, threshold FROM inspections ORDER BY id DESC LIMIT 1").fetchone()


@contextlib.contextmanager
def _reading(store: CorrectionStore) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(store.path, timeout=_WAIT_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise CorrectionFault(f"{store.path}: {error}; is it a whole file, and may it be read?") from None
