"""The check that every record's text fits, and what it needs, for the stages that a run has before it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import jax

from sage_jax.config import TRAINING_STAGES, Config, ConfigError
from sage_jax.data import store
from sage_jax.data.causes import by_cause, rows_of
from sage_jax.data.records import Fault
from sage_jax.data.store import PreparedData, Split
from sage_jax.data.stream.text_fit import measure_text
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import ChosenRecords, TreeError, TreeFormat, TreeUse
from sage_jax.data.trees.shapes import TreeShape, enclosing
from sage_jax.data.written_facts import RecordsWithFacts
from sage_jax.journal.run_log import RunLog
from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.process.files import replace_file
from sage_jax.stages.image_facts import ImageFacts
from sage_jax.stages.run import Stage

_SHOWN: Final = 10


@dataclasses.dataclass(frozen=True)
class TextCheck:
    """Encodes the text of all records as stages will; what was found is remembered beside the data set.

    Under `data.on_bad_record = "skip"` too: the record is as good as the others, it is the config that is too small.

    Attributes:
      max_tokens: Longest sequence that the model has positions for; 0 = any.
      facts: What a model has written about all images; None = nothing, or not yet.
      own: Data sets of training stages that have one of their own.
    """

    config: Config
    prepared: PreparedData
    chat: Chat
    log: RunLog
    max_tokens: int = 0
    facts: ImageFacts | None = None
    own: Mapping[str, PreparedData] = dataclasses.field(default_factory=dict)

    def require_fits(self, stages: Sequence[str]) -> None:
        """Checks that all text fits, for each of these stages.

        Raises:
          TreeError: Some does not; the message has the first few with file, line and the option to change.
        """
        for stage in stages:
            for read_by, split, use, limit in _uses(stage, self.config):
                self._largest(read_by, split, use, limit)

    def largest(self, stage: str) -> TreeShape:
        """What any tree that a training stage draws can need.

        Raises:
          TreeError: Some text does not fit.
        """
        return self._largest(*next(_uses(stage, self.config)))

    def _largest(self, stage: str, split: Split, use: TreeUse, limit: int) -> TreeShape:
        prepared = self.own.get(stage, self.prepared)
        done = prepared.path / f"fits-{hashlib.sha256(self._key(split, use, limit).encode()).hexdigest()[:16]}"
        largest = _shape_in(done)
        if largest is None:
            largest = self._measured(prepared, split, use, limit)
            if jax.process_index() == 0:
                replace_file(done, json.dumps(sealed_json(dataclasses.asdict(largest))))
        if self.max_tokens and largest.length > self.max_tokens:
            raise TreeError(
                f"the longest tree of the {split} records has {largest.length} tokens, and the RoPE of "
                f"{self.config.model.weights} is the plain one up to {self.max_tokens}: lower model.max_tiles, "
                "text.max_answer_tokens or the stage's questions_per_image"
            )
        return largest

    def _key(self, split: Split, use: TreeUse, limit: int) -> str:
        model, text = self.config.model, self.config.text
        return json.dumps(
            [
                *(split, limit, dataclasses.asdict(use), dataclasses.asdict(text), self.chat.tokenizer_digest()),
                *(repr(self.chat.conversation), dataclasses.asdict(model.vit), model.downsample, model.max_tiles),
                *([self.facts.digest] if self.facts else []),
            ]
        )

    def _measured(self, prepared: PreparedData, split: Split, use: TreeUse, limit: int) -> TreeShape:
        config, records = self.config, store.open_split(prepared, split)
        records = RecordsWithFacts(records, self.facts.book.facts) if self.facts else records
        chosen = ChosenRecords(records, range(len(records))[: limit or None])
        faults: list[Fault] = []
        largest = TreeShape(0)
        with self.log.progress(len(chosen), unit=f"{split} record's text") as advance:
            form = TreeFormat(self.chat, config.model, config.text)
            for number, found in enumerate(measure_text(chosen, form, use, config.data), start=1):
                if isinstance(found, Fault):
                    faults.append(found)
                else:
                    largest = enclosing((largest, found))
                advance(number)
        if faults:
            noun = "record" if len(faults) == 1 else "records"
            shown = rows_of(by_cause(faults), _SHOWN)
            raise TreeError(f"the text of {len(faults)} {split} {noun} does not fit: {shown}")
        return largest


def _uses(stage: str, config: Config) -> Iterator[tuple[str, Split, TreeUse, int]]:
    """The ways in which a stage encodes records: stage that reads them, split, use, how many records (0 = all)."""
    if stage == "ablate":
        for name in (*config.ablate.stages, "evaluate"):
            evaluate = dataclasses.replace(config.evaluate, stages=config.ablate.stages)
            yield from _uses(name, dataclasses.replace(config, evaluate=evaluate))
    elif stage == "evaluate":
        for name in config.evaluate.stages:
            facts = config.training(name).facts
            yield stage, "test", TreeUse("ranked", "inspection", facts), config.evaluate.num_records
    elif stage in TRAINING_STAGES:
        train = config.training(stage)
        yield stage, "train", TreeUse.of(train), 0
        if TRAINING_STAGES[stage].objective == "preference" and train.preference.reference == "ratio":
            yield (
                stage,
                "train",
                TreeUse("ranked", "inspection", "fusion"),
                0,
            )  # reference log-probabilities: all questions


def check_text(stage: Stage, *names: str) -> None:
    """Checks that all text fits and ranked answers are there, for these stages and for all that the run has before it.

    Raises:
      TreeError: Some text does not fit.
      ConfigError: A stage learns from ranked answers, and there are none.
    """
    wanted = [name for name in dict.fromkeys((*names, *stage.config.stage_names)) if name not in stage.run.trained]
    _text_check(stage).require_fits(wanted)
    counts = store.open_split(stage.run.prepared, "train").counts
    for name in wanted:
        if name in TRAINING_STAGES and TRAINING_STAGES[name].objective == "preference" and counts.answers == 1:
            raise ConfigError(
                f"stage {name} learns from ranked answers, and no question of the training records has two: give "
                "preference rows (chosen and rejected), or leave the stage out"
            )


def largest_tree(stage: Stage) -> TreeShape:
    """The shape that holds every tree of a training stage.

    Raises:
      TreeError: Some text does not fit.
    """
    return _text_check(stage).largest(stage.name)


def _text_check(stage: Stage) -> TextCheck:
    run = stage.run
    facts = run.facts if run.reads_written_facts(stage.name) and run.config.facts.stage in run.trained else None
    known = facts is not None and facts.book.is_complete(run.prepared_for(stage.name).revision)
    own = {name: run.prepared_for(name) for name in TRAINING_STAGES if run.has_own_data(name)}
    return TextCheck(run.config, run.prepared, run.chat, stage.log, run.max_positions, facts if known else None, own)


def _shape_in(path: Path) -> TreeShape | None:
    """The shape that was measured before; None where it was not, or where the file is damaged."""
    try:
        return TreeShape(**open_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
