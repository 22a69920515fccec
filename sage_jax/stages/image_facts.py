"""Where a run's written facts are: the file that belongs to the model that wrote them, and to how it was asked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sage_jax.config import Config, ConfigError
from sage_jax.data.records import Record
from sage_jax.data.trees.chat import Chat
from sage_jax.data.written_facts import FactBook, RecordsWithFacts
from sage_jax.stages.trained import TrainedStages

_HOW_IT_COMPUTES: Final = ("weights", "attention", "remat", "scan_unroll")


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """The facts that a model wrote about images, under `data.facts` = `model`.

    Attributes:
      digest: Hash of all that decides them: weights, tokenizer, prompt, decoding, sizes.
      book: The facts.
    """

    digest: str
    book: FactBook

    def records(self, records: Sequence[Record], revision: str, *, wanted_by: str) -> Sequence[Record]:
        """The records of a data set with their written facts.

        Raises:
          ConfigError: Some have none; the message says how to get them.
        """
        if not self.book.is_complete(revision):
            raise ConfigError(
                f"data.facts = 'model': the facts of this data set's images are not written yet: run with "
                f"--config.stages=facts,{wanted_by}, which writes them to {self.book.path}"
            )
        return RecordsWithFacts(records, self.book.facts)


def image_facts(config: Config, chat: Chat, trained: TrainedStages) -> ImageFacts:
    """The facts that `facts.stage` or an endpoint has written so far, kept in `data.cache_dir` for all who ask alike.

    Raises:
      ConfigError: That stage is not finished.
    """
    if config.facts.base_url:
        sent = config.facts.sent()
        return _book(config, [sent, *_asked(config, chat, config.facts.reply_tokens)])
    stage = config.facts.stage
    if stage not in trained:
        raise trained.missing(stage, wanted_by="facts")
    model = {name: value for name, value in dataclasses.asdict(config.model).items() if name not in _HOW_IT_COMPUTES}
    decoding = dataclasses.asdict(config.evaluate.decoding) | {"dtype": config.evaluate.weights_dtype}
    return _book(
        config,
        [trained.weights_hash(stage), *_asked(config, chat, config.facts.max_tokens), chat.system, decoding, model],
    )


def _asked(config: Config, chat: Chat, longest: int) -> list[Any]:
    """What decides an image's facts whoever writes them: how they are asked for, and how they are cut.

    Args:
      longest: Tokens of the writer's longest text.
    """
    return [
        chat.facts_question(config.facts.prompt),
        [longest, config.text.max_facts, config.text.max_fact_tokens],
        chat.tokenizer_digest(),
    ]


def _book(config: Config, parts: list[Any]) -> ImageFacts:
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
    return ImageFacts(digest, FactBook(Path(config.data.cache_dir).expanduser() / "facts" / f"{digest}.jsonl"))
