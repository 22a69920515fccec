"""Words that agree with the verdict: an answer that contradicts the verdict decided for it is said anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sage_jax.axes import Int
from sage_jax.data.adpl.preferences import PLACES
from sage_jax.data.adpl.wording import INSPECTION_OPENINGS
from sage_jax.data.records import Record
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.generation.arguments import Begun
from sage_jax.metrics.mle import Reading, read
from sage_jax.metrics.reasons import contradicts

Ask = Callable[[Begun], Int[np.ndarray, "B Q L"]]
"""Asks the questions of a batch again, with the beginnings of answers; token ids of all answers."""


def agreeing(
    ask: Ask, said: Int[np.ndarray, "B Q L"], shown: Sequence[Record | None], evaluator: Evaluator
) -> Int[np.ndarray, "B Q L"]:
    """The answers, those of rows whose first contradicts its verdict said anew, until it does not.

    Where score and threshold have decided against the model's own verdict, its words can be those of the latter: "No.
    There is a crack." Such a row is asked again with the first words of an answer of its verdict given, from which the
    model goes on: "No. The part is intact ...". Further questions of the row are answered anew with it. A row that
    agrees under none of `INSPECTION_OPENINGS` keeps what it said first. Answers in another language than English,
    those of a model that opens them itself, and words that the rubric does not read (`metrics.mle.read`) stay.

    The whole batch is asked again, with the programs that are compiled, up to three times.

    Args:
      ask: Asks the same batch.
      said: What was answered first.
      shown: Record of each row; None for padding.
      evaluator: The model that said it.
    """
    if evaluator.responder.decoding.verdict_threshold is None or evaluator.chat.language != "en":
        return said
    readings = {row: _read(said[row, 0], evaluator) for row, record in enumerate(shown) if record is not None}
    wrong = {row: reading.verdict for row, reading in readings.items() if contradicts(reading, abnormal_yes=True)}
    found = said.copy() if wrong else said
    for number in range(max(map(len, INSPECTION_OPENINGS.values()))):
        openings = {
            row: INSPECTION_OPENINGS[verdict][number]
            for row, verdict in wrong.items()
            if verdict is not None and number < len(INSPECTION_OPENINGS[verdict])
        }
        begun = _begun(openings, len(said), evaluator)
        if (begun >= 0).any():
            anew = ask(begun)
            for row in np.flatnonzero((begun >= 0).any(axis=(1, 2))):
                if not contradicts(_read(anew[row, 0], evaluator), abnormal_yes=True):
                    found[row] = anew[row]
                    del wrong[int(row)]
    return found


def _begun(openings: dict[int, str], rows: int, evaluator: Evaluator) -> Begun:
    """Token ids of the openings of rows' first answers, not closed; those that leave no room behind them left out."""
    room = evaluator.responder.decoding.max_new_tokens - 1
    ids = {row: evaluator.chat.answer_ids(opening)[:-1] for row, opening in openings.items()}
    fitting = {row: opening for row, opening in ids.items() if len(opening) <= room}
    begun = np.full((rows, 1, max(map(len, fitting.values()), default=0)), -1, np.int32)
    for row, opening in fitting.items():
        begun[row, 0, : len(opening)] = opening
    return begun


def _read(token_ids: Int[np.ndarray, " L"], evaluator: Evaluator) -> Reading:
    vocabulary = evaluator.vocabulary
    names = {"defect_terms": vocabulary.defect_terms, "places": PLACES, "synonyms": vocabulary.synonyms}
    return read(evaluator.chat.decode(token_ids), **names)
