"""Facts that a model writes about images (SFE, step 1): a batch at a time, each kept as soon as it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from sage_jax.data.records import Record
from sage_jax.data.written_facts import FactBook
from sage_jax.evaluation.evaluator import Evaluator, draw_seeds, shown_records
from sage_jax.generation.dialogue import fact_record, write_facts
from sage_jax.process.stop_request import Watch


@dataclasses.dataclass(frozen=True)
class FactWriter:
    """A model that writes facts about images, seen without their references.

    Attributes:
      evaluator: The model, and how it decodes.
    """

    evaluator: Evaluator

    def write(self, records: Sequence[Record], book: FactBook, rows: int) -> None:
        """Adds the facts of the records' images to the book, as a batch of `rows` or more; nothing where it has all.

        An image's facts do not depend on which others of the batch are in the book already: all are written again, to
        the bit, and the missing ones kept.
        """
        if all(book.of(record.test_image) is not None for record in records):
            return
        config, chat = self.evaluator.config.facts, self.evaluator.chat
        asked = [_alone(fact_record(record, chat, config.prompt)) for record in records]
        asking = dataclasses.replace(self.evaluator, facts_as="text")
        rows = self.evaluator.responder.rows(rows)
        (batch,) = asking.batches(asked, with_reference=False, answers="none", rows=rows)
        shown = shown_records(batch, records)
        told, _ = write_facts(
            self.evaluator.responder.decoding_with(verdict_threshold=None),  # facts open with no verdict
            chat,
            batch,
            max_new_tokens=config.max_tokens,
            seeds=draw_seeds(shown),
        )
        found = (
            (record.test_image, record.test_path, facts) for record, facts in zip(shown, told, strict=True) if record
        )
        book.add(found, keep=jax.process_index() == 0)

    def write_all(self, records: Sequence[Record], book: FactBook, watch: Watch) -> int:
        """Adds the facts of all records' images to the book; killed and called again, it gives the same to the bit.

        Args:
          records: One for each distinct image.

        Returns:
          Images that were not in the book before.

        Raises:
          Interrupted: A signal has come; the batches done are kept.
        """
        rows, known = self.evaluator.rows(len(records)), len(book)
        with watch.progress(len(records), unit="image") as advance:
            for start in range(0, len(records), rows):
                self.write(records[start : start + rows], book, rows)
                advance(min(start + rows, len(records)))
        return len(book) - known


def _alone(record: Record) -> Record:
    return dataclasses.replace(record, reference_image=None, reference_path="", further_references=())
