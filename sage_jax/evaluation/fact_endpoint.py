"""Facts that a model behind an endpoint writes about images, as the authors' release has them written."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

from PIL import Image

from sage_jax.config import ConfigError, FactsConfig
from sage_jax.data.images import remembered_rgb
from sage_jax.data.records import Record
from sage_jax.data.trees.chat import Chat
from sage_jax.data.written_facts import FactBook, image_key
from sage_jax.endpoint.asking import Asker
from sage_jax.endpoint.chat import ChatRequest, Message
from sage_jax.endpoint.client import NoAnswer
from sage_jax.process.stop_request import Watch

_TOLD = 3


@dataclasses.dataclass(frozen=True)
class EndpointFactWriter:
    """An endpoint that writes facts about images, each seen without its references.

    Attributes:
      asker: Asks it; its answers are fact sentences.
      chat: Has the question, and the longest sentences.
      options: The endpoint's model, the prompt, and how it is asked.
    """

    asker: Asker[tuple[str, ...]]
    chat: Chat
    options: FactsConfig

    def write(self, records: Sequence[Record], book: FactBook, rows: int) -> None:
        """Adds the facts of those images that have none to the book, each when it is there.

        Args:
          rows: Not read: requests are sent one by one.

        Raises:
          ConfigError: Some images got no facts; those of the others are kept.
          EndpointError, BudgetUsedUp: As `Asker.ask_all`.
        """
        self._ask(records, book, lambda done: None)

    def write_all(self, records: Sequence[Record], book: FactBook, watch: Watch) -> int:
        """Adds the facts of all records' images to the book.

        Args:
          records: One for each distinct image.

        Returns:
          Images that were not in the book before.

        Raises:
          ConfigError, EndpointError, BudgetUsedUp: As `write`.
          Interrupted: A signal has come; the facts that are there are kept.
        """
        known = len(book)
        with watch.progress(len(records), unit="image") as advance:
            self._ask(records, book, advance)
        return len(book) - known

    def _ask(self, records: Sequence[Record], book: FactBook, advance: Callable[[int], None]) -> None:
        by_key = {image_key(record.test_image): record for record in records if book.of(record.test_image) is None}
        requests = _Requests(self, by_key)
        failed: list[str] = []
        done = len(records) - len(by_key)
        for key, found in self.asker.ask_all(requests, threads=self.options.concurrency):
            record = by_key[key]
            if isinstance(found, NoAnswer):
                failed.append(f"{record.test_path}: {found}")
            else:
                book.add([(record.test_image, record.test_path, found)])
            done += 1
            advance(done)
        if failed:
            more = f"; and {len(failed) - _TOLD} more" if len(failed) > _TOLD else ""
            raise ConfigError(
                f"{len(failed)} of {len(records)} images got no facts: {'; '.join(failed[:_TOLD])}{more}. The others' "
                "are kept: run the same command again"
            )

    def request(self, record: Record) -> ChatRequest:
        """What the endpoint is asked about an image."""
        message = Message("user", self.chat.facts_question(self.options.prompt), (_sendable(record),))
        return ChatRequest(messages=(message,), **self.options.sent())


class _Requests(Mapping[str, ChatRequest]):
    """The requests about images, each made when it is sent: they hold the images as text."""

    def __init__(self, writer: EndpointFactWriter, records: Mapping[str, Record]) -> None:
        self._writer, self._records = writer, records

    def __getitem__(self, key: str) -> ChatRequest:
        return self._writer.request(self._records[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def _sendable(record: Record) -> bytes:
    """The image in a format that endpoints read: its own file, or a PNG of it."""
    if record.test_image.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return record.test_image
    buffer = io.BytesIO()
    Image.fromarray(remembered_rgb(record.test_image, name=record.test_path, keep=False)).save(buffer, "PNG")
    return buffer.getvalue()
