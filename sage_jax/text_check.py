"""The check that every record's text fits, for the stages that a run has before it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Final

import jax

from sage_jax.data import adpl
from sage_jax.data.adpl import PreparedData, Split
from sage_jax.data.chat import Chat
from sage_jax.data.encode import ChosenRecords, TreeError
from sage_jax.data.records import Fault
from sage_jax.data.text_fit import TextUse, text_faults
from sage_jax.files import replace_file
from sage_jax.run_config import TRAINING_STAGES, Config
from sage_jax.run_log import RunLog

_SHOWN: Final = 10


def require_text_fits(
    stages: Sequence[str], *, config: Config, prepared: PreparedData, chat: Chat, log: RunLog
) -> None:
    """Encodes the text of all records as the stages will; what was found to fit is remembered beside the data set.

    Under `data.on_bad_record = "skip"` too: the record is as good as the others, it is the config that is too small.

    Raises:
      TreeError: Some do not fit; the message has the first few with file, line and the option to change.
    """
    for split, use, limit in dict.fromkeys(use for stage in stages for use in _uses(stage, config)):
        model, text = config.model, config.text
        key = json.dumps(
            [
                *(split, limit, dataclasses.asdict(use), dataclasses.asdict(text), chat.tokenizer_digest()),
                *(repr(chat.conversation), dataclasses.asdict(model.vit), model.downsample, model.max_tiles),
            ]
        )
        done = prepared.path / f"fits-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if done.is_file():
            continue
        records = adpl.open_split(prepared, split)
        chosen = ChosenRecords(records, range(len(records))[: limit or None])
        faults: list[Fault] = []
        with log.progress(len(chosen), unit=f"{split} record's text") as advance:
            found = text_faults(chosen, use, data=config.data, chat=chat, model=model, text=text)
            for number, fault in enumerate(found, start=1):
                faults += [fault] if fault else []
                advance(number)
        if faults:
            shown = "\n  ".join(map(str, faults[:_SHOWN]))
            more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            noun = "record" if len(faults) == 1 else "records"
            raise TreeError(f"the text of {len(faults)} {split} {noun} does not fit: {shown}{more}")
        if jax.process_index() == 0:
            replace_file(done, key)


def _uses(stage: str, config: Config) -> Iterator[tuple[Split, TextUse, int]]:
    """The ways in which a stage encodes records: split, use, and how many records (0 = all)."""
    if stage == "ablate":
        for name in (*config.ablate.stages, "evaluate"):
            evaluate = dataclasses.replace(config.evaluate, stages=config.ablate.stages)
            yield from _uses(name, dataclasses.replace(config, evaluate=evaluate))
    elif stage == "evaluate":
        for name in config.evaluate.stages:
            facts = config.training(name).facts
            yield "test", TextUse("ranked", "inspection", facts), config.evaluate.num_records
    elif stage in TRAINING_STAGES:
        train = config.training(stage)
        yield "train", TextUse(train.answers, train.questions, train.facts, train.questions_per_image), 0
        if stage in ("dpo", "edpo") and train.preference.reference == "ratio":
            yield "train", TextUse("ranked", "inspection", "fusion"), 0  # reference log-probabilities: all questions
